"""Where things lie that only save time: whatever is there may be removed while nothing runs.

Some of it is code. It is run only where no other user could have written it.
"""

import os
import stat
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """mindloc's folder in the user's cache folder, whether it is there or not."""
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mindloc"


def why_not_run(folder: Path) -> str | None:
    """What speaks against running code that lies in a folder, as a part of a sentence; None: it is the user's alone.

    Raises:
        OSError: it is absent or can't be reached.
    """
    found = folder.stat()
    if found.st_uid != os.getuid():
        return "it belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "others may write there (chmod go-w)"
    return None
