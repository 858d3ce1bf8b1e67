"""Headers: sizes and formats by content, limits before anything is decoded, unusual files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mindloc.data.image_header import MOST_DECODED_BYTES, Content, check_header, read_header
from mindloc.data.images import read_image
from mindloc.errors import ImageError


def header_of(data):
    return read_header(Content.of_bytes(data), "x")


def saved(kind, size=(30, 20), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, None).save(buffer, kind, **options)
    return buffer.getvalue()


def png_of(width, height, bits=8, color=2):
    """A PNG whose header states any size, with too few pixels for it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_the_size_is_in_the_header(kind, options):
    header = header_of(saved(kind, **options))
    assert (header.format.upper(), header.width, header.height) == (kind, 30, 20)
    assert header.is_plain and header.decoded_bytes == 30 * 20 * 3 and header.orientation == 1


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("WEBP", "RGBA"), ("TIFF", "RGBA")])
def test_alpha_is_in_the_header(kind, mode):
    for lossless in (False, True):
        header = header_of(saved(kind, mode=mode, **({"lossless": lossless} if kind == "WEBP" else {})))
        assert (header.width, header.height, header.channels, bool(header.alpha)) == (30, 20, 4, True)
        assert header.decoded_bytes == 30 * 20 * 7  # four channels and the RGB result


def test_big_tiff_headers_are_read():
    for kind in ({"big_tiff": True}, {"big_tiff": False}):
        header = header_of(saved("TIFF", **kind))
        assert (header.format, header.width, header.height) == ("TIFF", 30, 20)


# at most 200 million pixels of 3 bytes; of 7 bytes (RGBA and the result) at most 600 / 7 = 85 million
@pytest.mark.parametrize(
    ("data", "allowed"),
    [
        (png_of(20000, 10000), True),
        (png_of(20000, 10001), False),
        (png_of(10000, 8571, color=6), True),
        (png_of(10000, 8572, color=6), False),
        (png_of(6666, 10000, bits=16), True),
        (png_of(6667, 10000, bits=16), False),
        (png_of(2**20 + 1, 1), False),
    ],
)
def test_a_size_beyond_the_limit_is_refused_before_decoding(data, allowed):
    if allowed:
        assert header_of(data).decoded_bytes <= MOST_DECODED_BYTES
    else:
        with pytest.raises(
            ImageError, match="is too large: .* pixels take .* MB to decode, at most 600 MB .*; shrink it"
        ):
            header_of(data)


def test_a_progressive_jpeg_takes_more_memory():
    header = header_of(saved("JPEG", progressive=True))
    assert header.decoded_bytes == 30 * 20 * (3 + 6)  # its coefficients take three times two bytes


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "is not JPEG, PNG, WebP, TIFF or BMP: it starts with 3c 68 74 6d"),
        (b"\xff\xd8\xff", "is truncated: it ends within its header"),
        (b"\xff\xd8\x00\x00\x00\x00", "is damaged: its header has no marker at byte 2"),
        (b"\xff\xd8\xff\xda\x00\x08", "is damaged: the JPEG has no size"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "is damaged: the PNG has no header"),
        (png_of(0, 5), "is damaged: its header states a size of 0 x 5 pixels"),
        (b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 40, "is damaged: its header has 65535 entries"),
        (b"RIFF\xff\xff\0\0WEBPVP8 ", "is truncated: the WebP is shorter than its header says"),
        (b"\0\0\0\x18ftypheic", "is not JPEG, PNG, WebP, TIFF or BMP"),
    ],
)
def test_other_files_are_named_with_their_problem(data, problem):
    with pytest.raises(ImageError, match=f"^image x {problem}.*; ") as caught:
        header_of(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("filler", [b"\xff" * 200_000, b"\xff\xe0\0\2" * 50_000])
def test_an_endless_header_is_damaged(filler):
    with pytest.raises(ImageError, match="is damaged"):
        header_of(b"\xff\xd8" + filler)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 4), np.float32), "1 channels of 32 bits .float."),
        (np.zeros((4, 4), np.int32), "1 channels of 32 bits .signed."),
    ],
)
def test_kinds_of_tiff_that_are_not_photos_are_refused(array, found):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "TIFF")
    with pytest.raises(ImageError, match=f"has {found}; expected 1, 3 or 4 of 8 or 16 bits .*; save it as 8-bit RGB"):
        header_of(buffer.getvalue())


def test_an_end_mark_in_a_thumbnail_does_not_hide_a_truncation():
    thumbnail = b"Exif\0\0" + b"\xff\xd8" + b"thumbnail" + b"\xff\xd9"
    data = saved("JPEG", (200, 200))
    whole = data[:2] + b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail + data[2:]
    assert header_of(whole).width == 200
    with pytest.raises(ImageError, match="is truncated: the JPEG has no end mark"):
        header_of(whole[:-100])


def test_an_end_mark_far_from_the_end_is_found():
    header_of(saved("JPEG") + bytes(200_000))  # a preview that a camera appended


def test_a_file_is_checked_by_its_path(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(saved("JPEG"))
    assert check_header(path).width == 30
    with pytest.raises(ImageError, match="nowhere.jpg is missing"):
        check_header(tmp_path / "nowhere.jpg")


def test_what_the_check_refuses_is_refused_by_reading(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(png_of(50000, 50000))
    messages = []
    for read in (check_header, read_image):
        with pytest.raises(ImageError) as caught:
            read(path)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
