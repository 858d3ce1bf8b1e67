"""The folder of one launch's logs."""

import itertools
import time
from contextlib import suppress
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


def remove_log_folder(folder: Path) -> None:
    """Take back an empty one, and the folders above it that hold nothing else."""
    with suppress(OSError):  # not empty: then it stays
        folder.rmdir()
        folder.parent.rmdir()
        folder.parent.parent.rmdir()
