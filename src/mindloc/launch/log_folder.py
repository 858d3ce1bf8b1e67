"""The folder of one launch's logs."""

import itertools
import time
from pathlib import Path

from mindloc.errors import LaunchError


def new_log_folder(output: Path) -> Path:
    """``output/logs/MMDDhhmmss``, new; launches of the same second get _2, _3, ...

    Raises:
        LaunchError: it can't be made.
    """
    stamp = time.strftime("%m%d%H%M%S")
    for attempt in itertools.count(1):
        folder = output / "logs" / (stamp if attempt == 1 else f"{stamp}_{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise LaunchError(f"can't make {folder}: {error.strerror}; choose another output folder") from None
        return folder
