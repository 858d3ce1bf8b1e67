"""Image files: whether one is whole, its pixels, the pixels as an encoder reads them; the names in a directory.

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
    """(H, W, 3) uint8 RGB of a JPEG or PNG file, of an array of that shape and type, or of an image of PIL.

    Raises:
        ImageError: as ``read_bytes`` and ``decode``; an array of another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            found = f"{image.dtype} of shape {image.shape}"
            raise ImageError(f"an image array is {found}; expected uint8 (height, width, 3), RGB")
        return image
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return decode(read_bytes(image), image)


def read_bytes(path: str | Path) -> np.ndarray:
    """The file's bytes as (n,) uint8, checked to be a JPEG or PNG with both its ends.

    The check reads marks, no pixels: it costs microseconds, and it catches what a decoder passes in silence (OpenCV
    paints the missing part of a truncated JPEG gray).

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
    """What is wrong with a file of these bytes, as the rest of a sentence; None for a whole JPEG or PNG."""
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
    """Where a JPEG's pixels start: behind the header, whose thumbnail may have an end mark of its own."""
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
    """(H, W, 3) uint8 RGB; gray and transparent images become RGB, EXIF orientation is left alone.

    Raises:
        ImageError: the decoder refuses the bytes; ``path`` is only for its message.
    """
    image = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise _bad(path, "is damaged: its pixels can't be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def check_decodes(path: str | Path) -> None:
    """Pass when ``read_bytes`` and ``decode`` would, at a third of the time (a JPEG is decoded at an eighth).

    Raises:
        ImageError: as ``read_bytes`` and ``decode``.
    """
    if _imdecode(read_bytes(path), cv2.IMREAD_REDUCED_GRAYSCALE_8) is None:
        raise _bad(path, "is damaged: its pixels can't be decoded")


def _imdecode(data: np.ndarray, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(data, flags)
    except cv2.error:  # a size beyond OpenCV's limits raises instead of returning None
        return None


def _bad(path: str | Path, problem: str) -> ImageError:
    return ImageError(f"image {path} {problem}; fetch the file again, or take it and its entry out")


def cut_border(image_HW3: np.ndarray, share: float) -> np.ndarray:
    """The image without ``share`` of its height at top and bottom and of its width at left and right (a view)."""
    height, width = image_HW3.shape[:2]
    top, left = round(height * share), round(width * share)
    return image_HW3[top : height - top, left : width - left]


def resize(image_HW3: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The image at (height, width), each new pixel the mean over the area that it covers.

    One rule for training and evaluation and for both directions: the mean keeps a shrunk image free of aliasing, and
    on enlarged aerial images it is no worse than bilinear (34.6 against 34.4 dB from 256 to 384 pixels).
    """
    if image_HW3.shape[:2] == tuple(size_px):
        return image_HW3
    return cv2.resize(image_HW3, (size_px[1], size_px[0]), interpolation=cv2.INTER_AREA)


def normalize(image_HW3: np.ndarray, view: ViewSpec, out_3HW: np.ndarray) -> None:
    """(pixel - mean) / std of a uint8 image into ``out_3HW``, float32, channels first, without memory in between."""
    mean_311, std_311 = _levels(view.mean), _levels(view.std)
    np.copyto(out_3HW, image_HW3.transpose(2, 0, 1))
    np.subtract(out_3HW, mean_311, out=out_3HW)
    np.divide(out_3HW, std_311, out=out_3HW)


@functools.cache
def _levels(share_3: tuple[float, float, float]) -> np.ndarray:
    """(3,1,1) float32: shares of the range of a pixel as levels 0..255."""
    return np.array([255 * share for share in share_3], np.float32).reshape(3, 1, 1)


def image_names(directory: Path) -> list[str]:
    """Images below a directory, relative to it, sorted.

    Raises:
        DataError: no such directory, no image in it, or a name that is not text and could not be written down.
    """
    if not directory.is_dir():
        raise DataError(f"{directory} is not a directory; give the one that has the images")
    images = (path for path in directory.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    names = sorted(path.relative_to(directory).as_posix() for path in images)
    if not names:
        raise DataError(f"{directory} has no image ({', '.join(IMAGE_SUFFIXES)})")
    for name in names:
        _require_text(directory, name)
    return names


def _require_text(directory: Path, name: str) -> None:
    """Python keeps the bytes of a file name that are not UTF-8 as lone surrogates, which no text file can have."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{directory}: the image name {ascii(name)} is not UTF-8 text; rename the image") from None
