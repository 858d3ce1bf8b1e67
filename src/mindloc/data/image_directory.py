"""List the images in a directory and check their headers; what is passed over or left out is counted and reported.

Hidden files and directories (``._DSC1.JPG``, ``.Trash``), thumbnails of a NAS (``@eaDir``) and files without an image's
suffix are passed over. Links to directories are followed; each directory is read once.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mindloc.data.image_header import check_header
from mindloc.data.loader import ImageBatches, ImageFindings
from mindloc.errors import DataError, ImageError
from mindloc.runtime.console import progress_bar
from mindloc.vocabulary import ViewSpec

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".tif", ".tiff", ".bmp")
_THUMBNAILS = ("@eaDir",)
_SHOWN = 5
_EXAMPLES = 3  # images left out whose problem is shown
_MOST_SUFFIX_CHARACTERS = 8


@dataclass
class DirectoryImages:
    """The images of a directory whose headers were checked."""

    directory: Path
    names: list[str]  # sorted, relative to the directory
    left_out: dict[str, str] = field(default_factory=dict)  # name -> problem, of images that are not in ``names``
    skip_bad: bool = False  # leave out also those that turn out unreadable when they are decoded
    findings: ImageFindings = field(default_factory=ImageFindings)  # of the batches so far

    @property
    def paths(self) -> list[Path]:
        return [self.directory / name for name in self.names]

    def batches(self, view: ViewSpec, batch_size: int, workers: int) -> ImageBatches:
        return ImageBatches(view, self.paths, batch_size, workers, self.skip_bad, self.findings)

    def say_after(self, say: Callable[[str], None]) -> None:
        """Report remarks and left-out images once all images are read; this also completes ``left_out``."""
        self.left_out |= {self.names[position]: problem for position, problem in self.findings.left_out.items()}
        for note in self.findings.notes(self.names):
            say(note)
        if self.left_out:
            total = len(set(self.names) | self.left_out.keys())
            say(f"left out: {len(self.left_out)} of {total} images, which can't be read")
            for problem in list(self.left_out.values())[:_EXAMPLES]:
                say(f"  {problem}")
        if len(self.left_out) > _EXAMPLES:
            say(f"  ... and {len(self.left_out) - _EXAMPLES} more")


class ImageNames(NamedTuple):
    """The images in a directory by name, and what else is there."""

    directory: Path
    names: list[str]  # sorted, relative to the directory, with "/"
    passed_over: Counter  # what -> how many

    def note(self) -> str | None:
        """One line on what was passed over; None if nothing was."""
        if not self.passed_over:
            return None
        most = self.passed_over.most_common(_SHOWN)
        more = self.passed_over.total() - sum(count for _, count in most)
        shown = [f"{what} ({count})" for what, count in most] + ([f"others ({more})"] if more else [])
        return f"passed over: {', '.join(shown)}"

    def checked(self, skip_bad: bool, say: Callable[[str], None] = print) -> DirectoryImages:
        """Check the headers of the images, which takes a fraction of the time of decoding them.

        Args:
            skip_bad: leave unreadable images out; False: the first one is an error.
            say: receives the line on what was passed over.

        Raises:
            ImageError: an image is unreadable; with ``skip_bad``, all are.
        """
        note = self.note()
        if note:
            say(note)
        images = DirectoryImages(self.directory, [], skip_bad=skip_bad)
        for name in progress_bar(self.names, desc="image headers", unit="img"):
            try:
                check_header(self.directory / name)
            except ImageError as error:
                images.left_out[name] = str(error)
                if not skip_bad or len(images.left_out) == len(self.names):
                    raise
            else:
                images.names.append(name)
        return images


def list_images(directory: str | Path, below: bool = True) -> ImageNames:
    """All images of a directory.

    Args:
        below: include subdirectories.

    Raises:
        DataError: the directory does not exist, can't be listed or has no images; a name is not UTF-8.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; give the directory of the images")
    passed_over: Counter = Counter()
    try:
        names = sorted(_files(directory, below, passed_over))
    except OSError as error:
        where = error.filename or directory
        raise DataError(f"{where} can't be listed: {error.strerror}; check its permissions and links") from None
    found = ImageNames(directory, names, passed_over)
    if not names:
        note = f" ({found.note()})" if passed_over else ""
        raise DataError(f"{directory} has no images{note}; expected {', '.join(IMAGE_SUFFIXES)}")
    for name in names:
        _require_text(directory, name)
    return found


def _files(directory: Path, below: bool, passed_over: Counter) -> Iterator[str]:
    """Yield the names of images, in any order. Linked directories come last, so that others keep their own names."""
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], []
    while waiting or links:
        start = waiting.pop() if waiting else links.pop(0)
        facts = os.stat(directory / start)
        if (facts.st_dev, facts.st_ino) in seen:
            passed_over["links to directories read already"] += 1
            continue
        seen.add((facts.st_dev, facts.st_ino))
        with os.scandir(directory / start) as entries:
            in_order = sorted(entries, key=lambda entry: entry.name)
        for entry in in_order:
            name = f"{start}/{entry.name}" if start else entry.name
            is_directory = entry.is_dir()
            what = _passed_over(entry.name, is_directory, below)
            if what:
                passed_over[what] += 1
            elif is_directory:
                (links if entry.is_symlink() else waiting).append(name)
            else:
                yield name


def _passed_over(name: str, is_directory: bool, below: bool) -> str | None:
    """The kind under which a file or directory is passed over; None if it is read."""
    if name.startswith("."):
        return "hidden directories" if is_directory else "hidden files"
    if is_directory:
        return f"{name} directories" if name in _THUMBNAILS else None if below else "directories"
    suffix = os.path.splitext(name)[1].lower()
    short = suffix[1:].isalnum() and len(suffix) <= _MOST_SUFFIX_CHARACTERS
    other = suffix if short else "files with other suffixes" if suffix else "files without a suffix"
    return None if suffix in IMAGE_SUFFIXES else other


def _require_text(directory: Path, name: str) -> None:
    """Check that a file name is UTF-8: if not, it has lone surrogates in Python, which can't be written to a text file.

    Raises:
        DataError: it is not.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{directory}: the image name {ascii(name)} is not UTF-8 text; rename the image") from None
