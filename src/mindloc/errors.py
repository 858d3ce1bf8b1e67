"""Every deliberate error of mindloc. Its message is one line: what is wrong, where, and what to do.

The command line prints only the message and exits with ``exit_code``. Any other exception is a bug of mindloc and keeps
its traceback.
"""


def one_line(error: Exception) -> str:
    """The message of another library's error on one line; the class name if the message is empty."""
    return " ".join(str(error).split()) or type(error).__name__


def first_line(error: Exception) -> str:
    """The first line of an error's message that is text, not a row of dashes; the class name if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.startswith("-")), type(error).__name__)


class MindlocError(Exception):
    """Base of all errors that a user can cause and fix."""

    exit_code = 2


class ConfigError(MindlocError):
    """An invalid configuration: unknown key, wrong type, values that contradict each other."""


class DataError(MindlocError):
    """A data set that is missing, broken or contradicts itself."""


class SplitAbsentError(DataError):
    """The requested split, training or test, does not exist: a data set only for testing has no training split."""


class ImageError(DataError):
    """One image that can't be read."""


class CheckpointError(MindlocError):
    """Weights or training state that are missing, damaged, or belong to a different model or run."""


class ExportError(MindlocError):
    """An encoder that can't be exported or whose exported outputs differ; an exported file that can't be used."""


class DeviceError(MindlocError):
    """A requested device that can't be used here."""


class TileIndexError(MindlocError):
    """An index of tiles that is missing, damaged, built with a different encoder, or lacks what a search needs."""


class LaunchError(MindlocError):
    """Ranks that can't be started (rank table, servers, arguments), or a rank that failed."""


class StoreError(MindlocError):
    """An object store that can't be reached, denies access, or does not contain the named object."""
