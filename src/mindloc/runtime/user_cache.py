"""Where things lie that only save time: whatever is there may be removed while nothing runs."""

import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """mindloc's folder in the user's cache folder, whether it is there or not."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindloc"
