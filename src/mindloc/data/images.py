"""Decode image files to pixels, by the same rules in every part of the program; resize and normalize images.

The rules, which docs/data.md states: the format is that of the content, not of the name; a warning of the decoder is an
error; 16 bits are scaled by the bits in use; transparent parts become black; EXIF orientation is applied. The pixels of
an ordinary image, 8-bit RGB or gray, are not changed after decoding.

Shapes: H height, W width, 3 red green blue, C channels as decoded: gray, BGR or BGRA.
"""

import functools
import os
import re
import zlib
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mindloc.data.image_header import Content, Header, image_file, read_header, unreadable
from mindloc.errors import ImageError, one_line
from mindloc.vocabulary import ViewSpec

ImageLike: TypeAlias = str | os.PathLike[str] | np.ndarray | Image.Image  # a file, pixels, or PIL's image

# remarks on images; each completes a sentence that starts with "3 images"
BLANK = "of a single color, which can't be distinguished"
TRANSPARENT = "with transparent parts, which are black"
TURNED = "turned as their EXIF orientation says"
_DEEP = "with 16 bits per channel, {} of them used: scaled to 8"

_COLOR = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
_DEPTHS = (8, 10, 12, 14, 16)  # bits that a channel of 16 may use
# warnings of libjpeg that affect no pixel
_HARMLESS = re.compile(
    "Unknown Adobe color transform|Warning: unknown JFIF revision|Invalid SOS parameters for sequential"
    r"|Corrupt JPEG data: \d\d? extraneous bytes before marker 0xd9"
)
_MOST_SCANS = 100  # of a progressive JPEG; encoders write about 10
# EXIF orientation -> how OpenCV turns the stored pixels upright
_TURNS = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
cv2.setLogLevel(0)  # silent: a damaged file that it warns of raises an error here


class Decoded(NamedTuple):
    """Pixels of an image, and what a user should know about it."""

    pixels_HW3: np.ndarray  # uint8 RGB
    remarks: tuple[str, ...] = ()


def read_image(image: ImageLike) -> Decoded:
    """Read an image from a file, from PIL, or from an array, which is returned unchanged.

    Raises:
        ImageError: for the reasons given in ``decode``; the file is missing or not readable; an image of PIL can't be
            decoded or has an unsupported mode; an array is not uint8 of shape (height, width, 3).
    """
    if isinstance(image, np.ndarray):
        return Decoded(_checked_array(image))
    if isinstance(image, Image.Image):
        return _from_pil(image)
    with image_file(image) as file:
        data = file.read()
    return decode(data, image)


def decode(data: bytes, path: str | os.PathLike[str]) -> Decoded:
    """Decode the bytes of an image file.

    Args:
        path: used only in messages.

    Raises:
        ImageError: for the reasons given in ``read_header``, or because the data are damaged or cause a warning.
    """
    header = read_header(Content.of_bytes(data), path)
    if header.format == "JPEG":
        return _finished(_decode_jpeg(data, header, path), [], header.orientation)
    if header.format == "PNG":
        _check_chunks(data, path)
    if header.orientation_at is not None:  # a TIFF, which OpenCV would turn itself: mark it as upright
        upright = b"\1\0" if data[:2] == b"II" else b"\0\1"
        data = data[: header.orientation_at] + upright + data[header.orientation_at + 2 :]
    if header.is_plain:
        return _finished(_in_rgb(_decode_by_opencv(data, _COLOR, header, path)), [], header.orientation)
    stored_HWC = _decode_by_opencv(data, cv2.IMREAD_UNCHANGED, header, path)
    return _finished(*_eight_bit_rgb(stored_HWC, header.alpha, header.transparent_gray), header.orientation)


def _decode_jpeg(data: bytes, header: Header, path: str | os.PathLike[str]) -> np.ndarray:
    """Decode a JPEG to RGB by libjpeg-turbo. OpenCV uses it too, but can't turn its warnings into errors."""
    if header.progressive and data.count(b"\xff\xda") > _MOST_SCANS:
        raise unreadable(path, f"is damaged: its pixels are spread over more than {_MOST_SCANS} scans")
    for strict in (True, False):
        try:
            return simplejpeg.decode_jpeg(data, strict=strict)
        except ValueError as reason:
            problem = one_line(reason)
        if not _HARMLESS.match(problem):
            break
    raise unreadable(path, f"is damaged ({problem})")


def _decode_by_opencv(data: bytes, flags: int, header: Header, path: str | os.PathLike[str]) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # raised for some damaged files
        image = None
    if image is None or image.shape[:2] != (header.height, header.width):
        raise unreadable(path, "is damaged: its pixels can't be decoded")
    return image


def _check_chunks(data: bytes, path: str | os.PathLike[str]) -> None:
    """Check the checksums of those chunks of a PNG that are needed to decode it."""
    at, view = 8, memoryview(data)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 8 + int.from_bytes(view[at : at + 4], "big")
        if kind[:1].isupper() and zlib.crc32(view[at + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            raise unreadable(path, f"is damaged: a PNG whose checksum of byte {at + 4} to {end} is wrong")
        if kind == b"IEND":
            return
        at = end + 4


def _in_rgb(image_HW3: np.ndarray) -> np.ndarray:
    """Convert BGR to RGB, in the same memory."""
    return cv2.cvtColor(image_HW3, cv2.COLOR_BGR2RGB, dst=image_HW3)


def _eight_bit_rgb(
    stored_HWC: np.ndarray, alpha: str = "", transparent_gray: int | None = None
) -> tuple[np.ndarray, list[str]]:
    """Convert gray, BGR or BGRA pixels of 8 or 16 bits, which are overwritten, to (RGB, remarks).

    Args:
        alpha: "straight", "premultiplied" (colors are already multiplied by alpha), "" (a fourth channel is ignored).
        transparent_gray: value of the gray pixels that are transparent.
    """
    remarks = []
    opaque_HW = None if transparent_gray is None else stored_HWC != transparent_gray
    alpha_HW = stored_HWC[:, :, 3] if alpha else None
    if stored_HWC.dtype == np.uint16:
        alpha_HW = None if alpha_HW is None else (alpha_HW >> 8).astype(np.uint8)
        stored_HWC, bits = _scaled(stored_HWC)
        remarks.append(_DEEP.format(bits))
    if alpha_HW is not None and alpha_HW.min() < 255:
        remarks.append(TRANSPARENT)
        for channel in range(3 if alpha == "straight" else 0):
            stored_HWC[:, :, channel] = cv2.multiply(stored_HWC[:, :, channel], alpha_HW, scale=1 / 255)
    if opaque_HW is not None and not opaque_HW.all():
        remarks.append(TRANSPARENT)
        stored_HWC *= opaque_HW
    to_rgb = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}
    return cv2.cvtColor(stored_HWC, to_rgb[1 if stored_HWC.ndim == 2 else stored_HWC.shape[2]]), remarks


def _scaled(image_HWC: np.ndarray) -> tuple[np.ndarray, int]:
    """(uint8 image, bits in use): a channel of 16 bits uses the fewest of 8, 10, 12, 14, 16 that its colors fit in."""
    largest = int(image_HWC[..., :3].max()) if image_HWC.ndim == 3 else int(image_HWC.max())
    bits = next(depth for depth in _DEPTHS if largest < 2**depth)
    return np.right_shift(image_HWC, bits - 8, out=image_HWC).astype(np.uint8), bits


def _finished(image_HW3: np.ndarray, remarks: list[str], orientation: int) -> Decoded:
    """Turn the image upright, and add the remarks on its orientation and on a blank image."""
    if orientation in _TURNS:
        remarks = [*remarks, TURNED]
        image_HW3 = _TURNS[orientation](image_HW3)
    first = image_HW3[0, 0]
    if all((row == first).all() for row in image_HW3):  # stops at the first row for most images
        remarks = [*remarks, BLANK]
    return Decoded(image_HW3, tuple(remarks))


def _checked_array(image: np.ndarray) -> np.ndarray:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} of shape {image.shape}"
        raise ImageError(f"the image array is {found}; expected uint8 (height, width, 3), RGB")
    return image


def _from_pil(image: Image.Image) -> Decoded:
    """Decode an image of PIL by the same rules as a file."""
    if image.mode in ("I", "F"):
        raise ImageError(f"the image has mode {image.mode}; expected 8 or 16 bits per channel, such as RGB or I;16")
    try:
        orientation = image.getexif().get(0x0112, 1)
        if image.mode.startswith("I;16"):
            return _finished(*_eight_bit_rgb(np.array(image, np.uint16)), orientation)
        if image.has_transparency_data:
            stored_HW4 = cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
            return _finished(*_eight_bit_rgb(stored_HW4, "straight"), orientation)
        return _finished(np.asarray(image.convert("RGB")), [], orientation)
    except (OSError, SyntaxError, ValueError) as error:  # PIL may read its file only now
        raise ImageError(f"the image {getattr(image, 'filename', '')} can't be decoded: {one_line(error)}") from None


def cut_border(image_HW3: np.ndarray, fraction: float) -> np.ndarray:
    """The image cropped by ``fraction`` of its height at top and bottom, of its width at left and right (a view)."""
    height, width = image_HW3.shape[:2]
    top, left = (min(round(side * fraction), (side - 1) // 2) for side in (height, width))
    return image_HW3[top : height - top, left : width - left]


def resize(image_HW3: np.ndarray, size_px: tuple[int, int]) -> np.ndarray:
    """The image resized to (height, width) by area interpolation.

    Used in training and evaluation, for shrinking and enlarging: it avoids aliasing, and on enlarged aerial images it
    is as good as bilinear (34.6 against 34.4 dB from 256 to 384 pixels).
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
