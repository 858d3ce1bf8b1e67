"""Every deliberate error of mindloc: one line that says what, where, and the way out.

The command line prints the message alone and exits with ``exit_code``; anything else that escapes is a defect of ours
and keeps its traceback.
"""


def one_line(error: Exception) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of what an error says, for libraries that write pages with rules and headings; else its name."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.startswith("-")), type(error).__name__)


class MindlocError(Exception):
    """Base of all errors a user can cause and mend."""

    exit_code = 2


class ConfigError(MindlocError):
    """A configuration that can't be used: unknown key, wrong type, values that contradict each other."""


class DataError(MindlocError):
    """A data set that is missing, broken or contradicts itself."""


class SplitAbsentError(DataError):
    """A data set without the training or test split that was requested; one for testing alone has no training split."""


class ImageError(DataError):
    """One image that can't be read."""


class CheckpointError(MindlocError):
    """Weights or training state that are missing, damaged, or belong to something else."""


class ExportError(MindlocError):
    """An encoder that can't be exported or answers otherwise once it is; an exported file, damaged or foreign."""


class DeviceError(MindlocError):
    """A device that was named and can't be used here."""


class TileIndexError(MindlocError):
    """An index of tiles that is missing, damaged, of another encoder, or searched for what it does not contain."""


class LaunchError(MindlocError):
    """Several processes that can't be started together, or one of which failed: rank tables, servers, arguments."""


class StoreError(MindlocError):
    """An object store that can't be reached, refuses, or does not hold what was named."""
