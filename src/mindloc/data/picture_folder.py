"""The pictures of a folder by name, whatever they show."""

from pathlib import Path

from mindloc.data.pairs_file import PICTURE_SUFFIXES
from mindloc.errors import DataError


def picture_names(folder: Path) -> list[str]:
    """Pictures below a folder, relative to it, sorted.

    Raises:
        DataError: no such folder, no picture in it, or a name that is no text and could not be written down.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give the one that holds the pictures")
    pictures = (path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    names = sorted(path.relative_to(folder).as_posix() for path in pictures)
    if not names:
        raise DataError(f"{folder} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
    for name in names:
        _require_text(folder, name)
    return names


def _require_text(folder: Path, name: str) -> None:
    """Python keeps the bytes of a file name that are no UTF-8 as lone surrogates, which no text file can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{folder}: the picture name {ascii(name)} is no UTF-8 text; rename the picture") from None
