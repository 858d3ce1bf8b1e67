"""The header of an image file: format by content, size, channels, orientation, read before anything is decoded.

Only the few bytes of the header are read, so that a whole directory is checked in a moment, and an image that would
not fit into memory is detected before it is decoded.
"""

import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mindloc.errors import ImageError
from mindloc.reading import regular_file

MOST_DECODED_BYTES = 600_000_000  # 200 million pixels of 8-bit RGB, as the largest cameras take
REPLACE = "download it again, or remove it and its entry"
_CONVERT = "save it as 8-bit RGB in JPEG or PNG"
_SHRINK = "shrink it, or cut it into tiles"
_LONGEST_SIDE = 1 << 20  # limit of OpenCV's decoders
_TAILS_BYTES = (64, 1 << 16)  # at the file's end, where the end mark is searched for first
_MOST_EXIF_BYTES = 1 << 16
_MOST_TAGS = 4096
_MOST_PARTS = 10_000  # segments or chunks of a header

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 4, 6: 4}  # color type -> channels as decoded
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 256, 257, 258, 259, 262, 274, 277
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_TIFF_NUMBERS = {3: "H", 4: "I", 16: "Q"}  # type of a tag -> its struct code


class Content(NamedTuple):
    """The bytes of a file, in memory or on disk."""

    part: Callable[[int, int], bytes]  # from one position to another; fewer at the end of the file
    size: int

    @classmethod
    def of_bytes(cls, data: bytes) -> "Content":
        return cls(lambda start, stop: data[start:stop], len(data))

    @classmethod
    def of_file(cls, file: BinaryIO) -> "Content":
        def part(start: int, stop: int) -> bytes:
            file.seek(start)
            return file.read(max(0, stop - start))

        return cls(part, file.seek(0, io.SEEK_END))

    def unpack(self, form: str, at: int) -> tuple:
        """The values of a struct at position ``at``.

        Raises:
            struct.error: the struct extends beyond the end.
        """
        return struct.unpack(form, self.part(at, at + struct.calcsize(form)))


class Header(NamedTuple):
    """The facts in the header of an image."""

    format: str
    width: int  # as stored, before the orientation
    height: int
    channels: int = 3  # as decoded
    bits: int = 8  # of a channel
    alpha: str = ""  # "", "straight", "premultiplied"
    orientation: int = 1  # of EXIF, 1..8
    transparent_gray: int | None = None  # the gray value that a PNG declares transparent
    progressive: bool = False
    data_at: int = 0  # position where the header ends; the end mark comes later
    orientation_at: int | None = None  # position of the orientation in a TIFF

    @property
    def is_plain(self) -> bool:
        """Whether the pixels are 8-bit color or gray without transparency."""
        return self.bits == 8 and not self.alpha and self.transparent_gray is None

    @property
    def decoded_bytes(self) -> int:
        """Memory that decoding takes, bytes."""
        per_pixel = 3 if self.is_plain else 3 + self.channels * self.bits // 8  # the RGB image, and the stored channels
        return self.width * self.height * (per_pixel + 6 * self.progressive)  # coefficients of a progressive JPEG


def unreadable(path: str | Path, problem: str, way_out: str = REPLACE) -> ImageError:
    """The error of an image that can't be used."""
    return ImageError(f"image {path} {problem}; {way_out}")


def check_header(path: str | Path) -> Header:
    """Read the header of an image file, rejecting what can be rejected without decoding.

    Raises:
        ImageError: for the reasons given in ``read_header`` and ``image_file``.
    """
    with image_file(path) as file:
        return read_header(Content.of_file(file), path)


def image_file(path: str | Path) -> AbstractContextManager[BinaryIO]:
    """Context in which an image file is open for reading.

    Raises:
        ImageError: the file is missing, not a regular file, or not readable.
    """
    if not os.path.exists(path):
        raise unreadable(path, "is missing")
    return regular_file(path, ImageError, REPLACE, "image")


def read_header(content: Content, path: str | os.PathLike[str]) -> Header:
    """Header of an image, after a check that a JPEG or PNG has its end mark.

    Args:
        path: used only in messages.

    Raises:
        ImageError: the file is empty, of an unsupported format, truncated, too large to decode, or neither gray nor
            RGB.
    """
    start = content.part(0, 16)
    if not start:
        raise unreadable(path, "is empty")
    reader = _reader_of(start)
    if reader is None:
        way_out = "save it as one of these, or remove it and its entry"
        raise unreadable(path, f"is not JPEG, PNG, WebP, TIFF or BMP: it starts with {start[:8].hex(' ')}", way_out)
    try:
        header = reader(content)
    except struct.error:
        raise unreadable(path, "is truncated: it ends within its header") from None
    except _RefusedError as refused:
        raise unreadable(path, str(refused), refused.way_out) from None
    if header.width < 1 or header.height < 1:
        raise unreadable(path, f"is damaged: its header states a size of {header.width} x {header.height} pixels")
    if header.decoded_bytes > MOST_DECODED_BYTES or max(header.width, header.height) > _LONGEST_SIDE:
        raise unreadable(path, _too_large(header), _SHRINK)
    _require_end(content, header, path)
    return header


class _RefusedError(Exception):
    """What is wrong with an image, and the way out."""

    def __init__(self, problem: str, way_out: str = REPLACE):
        super().__init__(problem)
        self.way_out = way_out


def _too_large(header: Header) -> str:
    return (
        f"is too large: {header.width} x {header.height} pixels take {header.decoded_bytes / 1e6:.0f} MB to decode, "
        f"at most {MOST_DECODED_BYTES / 1e6:.0f} MB are allowed"
    )


def _reader_of(start: bytes) -> Callable[[Content], Header] | None:
    if start.startswith(_JPEG_START):
        return _read_jpeg
    if start.startswith(_PNG_START):
        return _read_png
    if start.startswith(_TIFF_STARTS):
        return _read_tiff
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return _read_webp
    return _read_bmp if start.startswith(b"BM") else None


def _require_end(content: Content, header: Header, path: str | os.PathLike[str]) -> None:
    """Check that a JPEG or PNG has its end mark, which a truncated one lacks. Cameras may append data after it.

    Raises:
        ImageError: the end mark is missing.
    """
    mark = {"JPEG": _JPEG_END, "PNG": _PNG_END}.get(header.format)
    if mark is None:
        return
    for tail_bytes in (*_TAILS_BYTES, content.size):
        if content.part(max(header.data_at, content.size - tail_bytes), content.size).rfind(mark) >= 0:
            return
    raise unreadable(path, f"is truncated: the {header.format} has no end mark")


def _read_jpeg(content: Content) -> Header:
    """Read the segments up to the first scan; a thumbnail is inside a segment and therefore skipped."""
    at, orientation, frame = 2, 1, None
    for _ in range(_MOST_PARTS):
        start = content.part(at, at + 4)
        if len(start) < 4:
            raise struct.error
        if start[0] != 0xFF:
            raise _RefusedError(f"is damaged: its header has no marker at byte {at}")
        marker, length = start[1], start[2] << 8 | start[3]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == 0xDA:  # start of scan
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width, channels = content.unpack(">xHHB", at + 4)
            frame = (width, height, channels, marker in (0xC2, 0xC6, 0xCA, 0xCE))
        elif marker == 0xE1:
            orientation = _exif_orientation(content.part(at + 4, at + 2 + length)) or orientation
        at += 2 + length
    if frame is None:
        raise _RefusedError("is damaged: the JPEG has no size")
    width, height, channels, progressive = frame
    if channels not in (1, 3, 4):
        raise _RefusedError(f"has {channels} channels; expected 1, 3 or 4", _CONVERT)
    return Header("JPEG", width, height, orientation=orientation, progressive=progressive, data_at=at)


def _exif_orientation(segment: bytes) -> int | None:
    """Orientation 1..8 of an EXIF segment; None if it is not EXIF or is damaged, which image viewers ignore too."""
    if not segment.startswith(b"Exif\0"):
        return None
    try:
        values = _tags(Content.of_bytes(segment[6:]))
    except (struct.error, _RefusedError):
        return None
    return _orientation(values)


def _orientation(values: dict[int, tuple[int, ...]]) -> int:
    (orientation,) = values.get(_ORIENTATION, (1,))[:1] or (1,)
    return orientation if 1 <= orientation <= 8 else 1


def _read_png(content: Content) -> Header:
    length, kind, width, height, bits, color = content.unpack(">I4sIIBB", 8)
    if kind != b"IHDR" or length != 13 or color not in _PNG_CHANNELS:
        raise _RefusedError("is damaged: the PNG has no header")
    at, orientation, key = 33, 1, None
    alpha = color in (4, 6)
    for _ in range(_MOST_PARTS):
        length, kind = content.unpack(">I4s", at)
        if kind in (b"IDAT", b"IEND"):
            break
        if kind == b"eXIf" and length < _MOST_EXIF_BYTES:
            orientation = _exif_orientation(b"Exif\0\0" + content.part(at + 8, at + 8 + length)) or 1
        elif kind == b"tRNS" and color == 0:
            (key,) = content.unpack(">H", at + 8)
        elif kind == b"tRNS":
            alpha = True
        at += 12 + length
    if key is not None and bits < 8:  # scaled like the decoded pixels
        key = key * 255 // (2**bits - 1)
    channels = 4 if alpha else _PNG_CHANNELS[color]
    alpha_kind = "straight" if alpha else ""
    return Header("PNG", width, height, channels, max(bits, 8), alpha_kind, orientation, key, data_at=at)


def _read_tiff(content: Content) -> Header:
    positions: dict[int, int] = {}
    values = _tags(content, positions)
    bits, samples = values.get(_BITS, (1,)), values.get(_SAMPLES, (1,))[0]
    photometric, formats = values.get(_PHOTOMETRIC, (1,))[0], values.get(_SAMPLE_FORMAT, (1,))
    if set(bits) not in ({8}, {16}) or set(formats) != {1} or samples not in (1, 3, 4):
        kind = {1: "unsigned", 2: "signed", 3: "float"}.get(formats[0], "other")
        found = f"{samples} channels of {bits[0]} bits ({kind})"
        raise _RefusedError(f"has {found}; expected 1, 3 or 4 of 8 or 16 bits (unsigned)", _CONVERT)
    if photometric not in (0, 1, 2, 3, 6) or (photometric == 0 and bits[0] > 8):
        raise _RefusedError(f"has TIFF color type {photometric}; expected gray, palette, RGB or YCbCr", _CONVERT)
    extra = values.get(_EXTRA_SAMPLES, (0,))[0]
    alpha = ""
    if samples == 4 and extra in (1, 2):  # otherwise the fourth channel is not alpha but, for example, infrared
        alpha = "premultiplied" if extra == 1 or bits[0] == 8 else "straight"  # OpenCV premultiplies 8 bits
    (width, *_), (height, *_) = values.get(_WIDTH, (0,)), values.get(_HEIGHT, (0,))
    channels = 3 if photometric == 3 else samples
    return Header(
        *("TIFF", width, height, channels, bits[0], alpha, _orientation(values)),
        orientation_at=positions.get(_ORIENTATION),
    )


def _tags(content: Content, positions: dict[int, int] | None = None) -> dict[int, tuple[int, ...]]:
    """Tag -> whole numbers, from the first directory of a TIFF or of EXIF data, which have the same form.

    Args:
        positions: receives the position of each tag's values in the file.
    """
    sign = {b"II": "<", b"MM": ">"}.get(content.part(0, 2), "")
    if not sign:
        raise _RefusedError("is damaged: it has no byte order")
    big = content.unpack(f"{sign}H", 2) == (43,)
    pointer, count_form, entry = ("Q", "Q", "HHQ") if big else ("I", "H", "HHI")
    (at,) = content.unpack(sign + pointer, 8 if big else 4)
    (count,) = content.unpack(sign + count_form, at)
    at += struct.calcsize(count_form)
    if count > _MOST_TAGS:
        raise _RefusedError(f"is damaged: its header has {count} entries")
    values: dict[int, tuple[int, ...]] = {}
    for _ in range(count):
        tag, kind, number = content.unpack(sign + entry, at)
        at += struct.calcsize(f"={entry}")
        if kind in _TIFF_NUMBERS and 1 <= number <= 16:
            form = f"{sign}{number}{_TIFF_NUMBERS[kind]}"
            fits = struct.calcsize(form) <= struct.calcsize(pointer)
            where = at if fits else content.unpack(sign + pointer, at)[0]
            values[tag] = content.unpack(form, where)
            if positions is not None:
                positions[tag] = where
        at += struct.calcsize(pointer)
    return values


def _read_webp(content: Content) -> Header:
    width = height = 0
    alpha, orientation = False, 1
    for kind, at, length in _riff_chunks(content):
        if kind == b"VP8X":
            flags, *size = content.unpack("<B3x3s3s", at)
            width, height = (int.from_bytes(side, "little") + 1 for side in size)
            alpha = bool(flags & 0x10)
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in content.unpack("<6xHH", at))
        elif kind == b"VP8L" and not width:
            (packed,) = content.unpack("<xI", at)
            width, height, alpha = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)
        elif kind == b"EXIF" and length < _MOST_EXIF_BYTES:
            segment = content.part(at, at + length)
            orientation = _exif_orientation(segment if segment[:4] == b"Exif" else b"Exif\0\0" + segment) or 1
    return Header("WebP", width, height, 4 if alpha else 3, 8, "straight" if alpha else "", orientation)


def _riff_chunks(content: Content) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, start, length) of each chunk."""
    (size,), at = content.unpack("<I", 4), 12
    if size + 8 > content.size:
        raise _RefusedError("is truncated: the WebP is shorter than its header says")
    for _ in range(_MOST_PARTS):
        if at > size:
            return
        kind, length = content.unpack("<4sI", at)
        yield kind, at + 8, length
        at += 8 + length + length % 2


def _read_bmp(content: Content) -> Header:
    is_old = content.unpack("<I", 14) == (12,)
    width, height = content.unpack("<HH" if is_old else "<ii", 18)
    return Header("BMP", abs(width), abs(height))
