"""Choose the exported file of each side of an encoder."""

from mindloc.inference.exported import choose_file, find_exported
from mindloc.vocabulary import SIDES


def exported_files(place, file_format, sides=SIDES, precision=None):
    """Side -> its file in a directory, or the file itself."""
    return {side: choose_file(find_exported(place, file_format), side, precision) for side in sides}
