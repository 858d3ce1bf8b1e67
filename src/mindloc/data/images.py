"""Image files: integrity, decoding, resizing and normalization; the image names in a directory.

Shapes: H height, W width, 3 red green blue.
"""

import functools
import os
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
from PIL import Image

from mindloc.errors import DataError, ImageError
from mindloc.vocabulary import ViewSpec

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")

ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image  # a file, pixels, or PIL's image

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG_START_OF_SCAN = 0xDA


def pixels_of(image: ImageLike) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a JPEG or PNG file, of an array of that shape and type, or of a PIL image.

    Raises:
        ImageError: as ``read_bytes`` and ``decode``; an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            found = f"{image.dtype} of shape {image.shape}"
            raise ImageError(f"the image array is {found}; expected uint8 (height, width, 3), RGB")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(read_bytes(image), image)


def read_bytes(path: str | Path) -> np.ndarray:
    """The bytes of a file as (n,) uint8, after a check that it is a JPEG or PNG with start and end mark.

    The check takes microseconds and finds what decoders do not report: OpenCV fills the missing part of a truncated
    JPEG with gray.

    Raises:
        ImageError: the file is missing, empty, truncated or neither JPEG nor PNG.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise _bad(path, "is missing") from None
    except OSError as error:
        raise _bad(path, f"can't be read ({error.strerror or error})") from None
    problem = bytes_problem(data.tobytes())
    if problem:
        raise _bad(path, problem)
    return data


def bytes_problem(data: bytes) -> str | None:
    """The problem of a file with these bytes, as the rest of a sentence; None for a complete JPEG or PNG."""
    if not data:
        return "is empty"
    if data.startswith(_PNG_START):
        return None if data.rfind(_PNG_END) > 0 else "is truncated: the PNG has no end mark"
    if data.startswith(_JPEG_START):
        scan = _first_scan(data)
        if scan is None:
            return "is truncated: the JPEG ends within its header"
        return None if data.rfind(_JPEG_END) > scan else "is truncated: the JPEG has no end mark"
    return f"is neither JPEG nor PNG: it starts with {data[:8].hex(' ')}"


def _first_scan(data: bytes) -> int | None:
    """Offset of a JPEG's first scan, after the header, whose thumbnail may contain an end mark; None: truncated."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == _JPEG_START_OF_SCAN:
            return at
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def decode(data: np.ndarray, path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB; gray and transparent images become RGB, EXIF orientation is ignored.

    Raises:
        ImageError: the bytes can't be decoded; ``path`` is only for its message.
    """
    image = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise _bad(path, "is damaged: its pixels can't be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def check_decodes(path: str | Path) -> None:
    """Check that ``read_bytes`` and ``decode`` work, in a third of the time (JPEG at an eighth of its size).

    Raises:
        ImageError: as ``read_bytes`` and ``decode``.
    """
    if _imdecode(read_bytes(path), cv2.IMREAD_REDUCED_GRAYSCALE_8) is None:
        raise _bad(path, "is damaged: its pixels can't be decoded")


def _imdecode(data: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:  # raised for sizes beyond OpenCV's limits
        return None


def _bad(path: str | Path, problem: str) -> ImageError:
    return ImageError(f"image {path} {problem}; download it again, or remove it and its entry")


def cut_border(image_HW3: np.ndarray, fraction: float) -> np.ndarray:
    """The image cropped by ``fraction`` of its height at top and bottom, of its width at left and right (a view)."""
    height, width = image_HW3.shape[:2]
    top, left = round(height * fraction), round(width * fraction)
    return image_HW3[top : height - top, left : width - left]


def resize(image_HW3: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The image resized to (height, width) by area interpolation.

    The same in training and evaluation, for shrinking and enlarging: it avoids aliasing, and on enlarged aerial images
    it is as good as bilinear (34.6 against 34.4 dB from 256 to 384 pixels).
    """
    if image_HW3.shape[:2] == tuple(size_px):
        return image_HW3
    return cv2.resize(image_HW3, (size_px[1], size_px[0]), interpolation=cv2.INTER_AREA)


def normalize(image_HW3: np.ndarray, view: ViewSpec, out_3HW: np.ndarray) -> None:
    """Write (pixel - mean) / std of a uint8 image to ``out_3HW``, float32, channels first, without temporaries."""
    mean_311, std_311 = _levels(view.mean), _levels(view.std)
    np.copyto(out_3HW, image_HW3.transpose(2, 0, 1))
    np.subtract(out_3HW, mean_311, out=out_3HW)
    np.divide(out_3HW, std_311, out=out_3HW)


@functools.cache
def _levels(value_3: tuple[float, float, float]) -> np.ndarray:
    """(3,1,1) float32: values in 0..1 scaled to 0..255."""
    return np.array([255 * value for value in value_3], np.float32).reshape(3, 1, 1)


def image_names(directory: Path) -> list[str]:
    """Sorted paths of all images below a directory, relative to it.

    Raises:
        DataError: the directory does not exist or has no images, or a name is not UTF-8.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; give the directory of the images")
    images = (path for path in directory.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = sorted(path.relative_to(directory).as_posix() for path in images)
    if not names:
        raise DataError(f"{directory} has no images; expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    for name in names:
        _require_text(directory, name)
    return names


def _require_text(directory: Path, name: str) -> None:
    """A file name that is not UTF-8 has lone surrogates in Python, which can't be written to a text file."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{directory}: the image name {ascii(name)} is not UTF-8 text; rename the image") from None
