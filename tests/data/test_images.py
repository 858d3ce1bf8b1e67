"""Files of every format become the same RGB pixels by the rules of docs/data.md; damaged ones are a one-line error."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mindloc.data.images import BLANK, TRANSPARENT, TURNED, cut_border, decode, normalize, read_image, resize
from mindloc.errors import ImageError
from mindloc.vocabulary import ViewSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
LOSSLESS = (("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}), ("BMP", {}))
FORMATS = (*LOSSLESS, ("JPEG", {}), ("JPEG", {"progressive": True}), ("MPO", {}))


def saved(image, kind, **options):
    """The bytes of a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def by_opencv(image, suffix=".png"):
    """The bytes of a file, written by OpenCV, since PIL writes no RGB of 16 bits."""
    return cv2.imencode(suffix, image)[1].tobytes()


def pixels(data):
    return decode(data, "x").pixels_HW3


def one(color, mode="RGB", side=2):
    """An image of one color."""
    return Image.new(mode, (side, side), color)


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# ---- formats


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats_return_the_stored_pixels(kind, options):
    found = decode(saved(PIXELS, kind, **options), "x")
    np.testing.assert_array_equal(found.pixels_HW3, PIXELS)
    assert found.pixels_HW3.dtype == np.uint8 and found.remarks == ()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_returns_the_pixels_of_other_decoders(subsampling, progressive):
    data = saved(PIXELS, "JPEG", subsampling=subsampling, progressive=progressive)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(pixels(data), stored[:, :, ::-1])


def test_only_the_first_of_several_images_in_a_camera_file_is_read():
    other = Image.fromarray(PIXELS[::4, ::4])
    data = saved(PIXELS, "MPO", save_all=True, append_images=[other])
    np.testing.assert_array_equal(pixels(data), pixels(saved(PIXELS, "JPEG")))


@pytest.mark.parametrize("mode", ["L", "P", "1", "CMYK"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_gray_and_palettes_become_rgb(kind, mode):
    if (kind, mode) in {("PNG", "CMYK"), ("BMP", "CMYK"), ("WEBP", "CMYK"), ("JPEG", "P"), ("JPEG", "CMYK")}:
        pytest.skip("no such file")
    if kind == "TIFF" and mode in ("1", "CMYK"):
        with pytest.raises(ImageError, match="save it as 8-bit RGB in JPEG or PNG"):
            pixels(saved(Image.fromarray(PIXELS).convert(mode), kind))
        return
    image = Image.fromarray(PIXELS).convert(mode)
    data = saved(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


def test_the_format_does_not_depend_on_the_name(tmp_path):
    path = tmp_path / "tile.png"
    path.write_bytes(saved(PIXELS, "WEBP", lossless=True))
    np.testing.assert_array_equal(read_image(path).pixels_HW3, PIXELS)


# ---- 16 bits


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize(
    ("values", "bits", "expected"),
    [
        ([0, 100, 255], 8, [0, 100, 255]),  # 8 bits in 16
        ([256, 512, 1023], 10, [64, 128, 255]),  # / 4
        ([16, 2048, 4095], 12, [1, 128, 255]),  # / 16
        ([64, 8192, 16383], 14, [1, 128, 255]),  # / 64
        ([256, 32768, 65535], 16, [1, 128, 255]),  # / 256
    ],
)
def test_16_bits_are_scaled_by_the_bits_in_use(suffix, values, bits, expected):
    blue_green_red = np.array([[values[::-1], [0, 0, 0]]], np.uint16)
    found = decode(by_opencv(blue_green_red, suffix), "x")
    np.testing.assert_array_equal(found.pixels_HW3, [[expected, [0, 0, 0]]])
    assert found.remarks == (f"with 16 bits per channel, {bits} of them used: scaled to 8",)
    gray = decode(by_opencv(np.array([values], np.uint16), suffix), "x").pixels_HW3
    np.testing.assert_array_equal(gray[0, :, 0], expected)
    assert (gray == gray[:, :, :1]).all()


def test_alpha_of_16_bits_does_not_count_as_a_color():
    bgra = np.full((1, 2, 4), 65535, np.uint16)
    bgra[0, :, :3] = [[4095, 16, 160], [0, 0, 0]]
    np.testing.assert_array_equal(pixels(by_opencv(bgra)), [[[10, 1, 255], [0, 0, 0]]])


# ---- transparency


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})])
def test_transparent_parts_become_black(kind, options):
    # 200 * 128 / 255 = 100.4, 100 * 128 / 255 = 50.2, 50 * 128 / 255 = 25.1
    image = np.zeros((2, 2, 4), np.uint8)
    image[:] = (200, 100, 50, 128)
    image[0, 0, 3], image[1, 1, 3] = 0, 255
    found = decode(saved(image, kind, **options), "x")
    np.testing.assert_array_equal(found.pixels_HW3[0], [[0, 0, 0], [100, 50, 25]])
    np.testing.assert_array_equal(found.pixels_HW3[1], [[100, 50, 25], [200, 100, 50]])
    assert found.remarks == (TRANSPARENT,)


def test_an_opaque_alpha_channel_causes_no_remark():
    image = np.dstack([PIXELS, np.full((40, 60), 255, np.uint8)])
    found = decode(saved(image, "PNG"), "x")
    np.testing.assert_array_equal(found.pixels_HW3, PIXELS)
    assert found.remarks == ()


def test_transparent_colors_of_a_png_become_black():
    rgb = np.full((1, 2, 3), 200, np.uint8)
    rgb[0, 0] = (1, 2, 3)
    np.testing.assert_array_equal(pixels(saved(rgb, "PNG", transparency=(1, 2, 3))), [[[0] * 3, [200] * 3]])
    palette = Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE)
    transparent = palette.getpixel((1, 0))
    assert pixels(saved(palette, "PNG", transparency=transparent))[0, 1].tolist() == [0, 0, 0]


def test_a_transparent_gray_of_a_png_becomes_black():
    found = decode(saved(np.array([[255, 200]], np.uint8), "PNG", transparency=255), "x")
    np.testing.assert_array_equal(found.pixels_HW3, [[[0] * 3, [200] * 3]])
    assert found.remarks == (TRANSPARENT,)


def test_a_fourth_channel_that_is_not_alpha_is_ignored():
    """Such as the infrared channel of an aerial TIFF; OpenCV writes the channel without stating its meaning."""
    bgri = np.zeros((1, 2, 4), np.uint16)
    bgri[0] = [[256, 512, 1024, 0], [65535, 0, 0, 0]]
    found = decode(by_opencv(bgri, ".tiff"), "x")
    np.testing.assert_array_equal(found.pixels_HW3, [[[4, 2, 1], [0, 0, 255]]])
    assert TRANSPARENT not in found.remarks


# ---- images of one color


@pytest.mark.parametrize(
    ("image", "remarks"),
    [
        (one((3, 4, 5)), (BLANK,)),
        (one(255, "L"), (BLANK,)),
        (one((9, 9, 9, 0), "RGBA"), (TRANSPARENT, BLANK)),
        (Image.fromarray(PIXELS), ()),
    ],
)
def test_images_of_one_color_cause_a_remark(image, remarks):
    assert decode(saved(image, "PNG"), "x").remarks == remarks


def test_one_pixel_of_another_color_is_enough():
    image = np.zeros((5, 5, 3), np.uint8)
    image[4, 4, 2] = 1
    assert decode(saved(image, "PNG"), "x").remarks == ()


# ---- orientation

# a 2 x 3 image, stored so that its upright form reads 1 2 3 / 4 5 6 (EXIF 2.32, figure 3)
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(kind, orientation):
    stored = 40 * np.array(STORED[orientation], np.uint8)
    if kind == "JPEG":  # a pixel is a block of 16 x 16, which JPEG keeps
        stored = stored.repeat(16, axis=0).repeat(16, axis=1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if kind == "TIFF" else {"exif": exif}
    image = Image.fromarray(np.dstack([stored] * 3))
    found = decode(saved(image, kind, **options, **({"lossless": True} if kind == "WEBP" else {})), "x")
    upright = found.pixels_HW3[8::16, 8::16, 0] if kind == "JPEG" else found.pixels_HW3[:, :, 0]
    np.testing.assert_allclose(upright, [[40, 80, 120], [160, 200, 240]], atol=2 if kind == "JPEG" else 0)
    assert found.remarks == (() if orientation == 1 else (TURNED,))
    assert read_image(Image.open(io.BytesIO(saved(image, kind, **options)))).remarks == found.remarks


def test_a_damaged_exif_block_is_ignored():
    data = saved(PIXELS, "JPEG")
    exif = b"Exif\0\0II*\0\xff\xff\xff\xff"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    np.testing.assert_array_equal(pixels(data[:2] + segment + data[2:]), pixels(data))


# ---- damaged files


@pytest.mark.parametrize(("kind", "options"), FORMATS)
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_found(kind, options, kept):
    data = saved(PIXELS, kind, **options)
    with pytest.raises(ImageError, match=r"^image dir/x is .*; .*") as caught:
        decode(data[: max(3, int(len(data) * kept))], "dir/x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_changed_bytes_of_a_png_are_found(part):
    data = bytearray(saved(PIXELS, "PNG"))
    data[int(len(data) * part)] ^= 1
    with pytest.raises(ImageError, match="x is damaged: a PNG whose checksum of byte"):
        decode(bytes(data), "x")


def lost_middle(data):
    return data[: len(data) // 3] + data[len(data) // 2 :]


def zeroed_middle(data):
    middle = slice(len(data) // 3, len(data) // 2)
    return data[: middle.start] + bytes(middle.stop - middle.start) + data[middle.stop :]


@pytest.mark.parametrize("damage", [lost_middle, zeroed_middle])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 8}, {"subsampling": 0}])
def test_a_jpeg_whose_middle_is_lost_is_damaged(damage, options):
    """Start and end are complete: other decoders fill the middle with gray, or with the displaced rest of the image."""
    data = damage(saved(cv2.resize(PIXELS, (300, 200)), "JPEG", quality=95, **options))
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (200, 300, 3)
    with pytest.raises(ImageError, match=r"x is damaged \(Corrupt JPEG data: .*\); download it again, or remove it"):
        decode(data, "x")


def test_a_few_bytes_before_the_end_mark_are_allowed():
    """Some cameras write such bytes; all pixels are there."""
    data = saved(PIXELS, "JPEG")
    np.testing.assert_array_equal(pixels(data[:-2] + b"\1\2\3\4" + data[-2:]), pixels(data))
    with pytest.raises(ImageError, match="extraneous bytes before marker 0xd9"):
        pixels(data[:-2] + b"\1" * 300 + data[-2:])


def test_bytes_after_the_end_mark_are_allowed():
    """Some cameras append a preview."""
    for kind in ("JPEG", "PNG"):
        np.testing.assert_array_equal(pixels(saved(PIXELS, kind) + b"maker's notes"), pixels(saved(PIXELS, kind)))


def test_a_missing_file_a_directory_and_a_pipe_are_named(tmp_path):
    with pytest.raises(ImageError, match="nowhere.jpg is missing; download it again, or remove it and its entry"):
        read_image(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="is a directory, expected a file"):
        read_image(tmp_path)


_FILES = [saved(PIXELS, kind, **options) for kind, options in FORMATS] + [by_opencv(PIXELS.astype(np.uint16) * 9)]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_mutated_file_is_an_image_or_a_one_line_error(data):
    whole = bytearray(data.draw(st.sampled_from(_FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(0, 120), st.integers(0, len(whole) - 1)))
        whole[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=6))
    try:
        found = decode(bytes(whole), "x")
    except ImageError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert found.pixels_HW3.dtype == np.uint8 and found.pixels_HW3.ndim == 3 and found.pixels_HW3.shape[2] == 3


# ---- arrays and images of PIL


def test_images_of_pil_follow_the_same_rules():
    for mode in ("RGB", "L", "P", "RGBA", "LA", "CMYK", "1"):
        image = Image.fromarray(PIXELS).convert(mode)
        np.testing.assert_array_equal(read_image(image).pixels_HW3, np.asarray(image.convert("RGB")), err_msg=mode)
    half = read_image(one((200, 100, 50, 128), "RGBA"))
    assert half.pixels_HW3[0, 0].tolist() == [100, 50, 25] and half.remarks == (TRANSPARENT, BLANK)
    deep = read_image(Image.fromarray(np.array([[0, 4095]], np.uint16)))
    assert deep.pixels_HW3[0, :, 0].tolist() == [0, 255]
    with pytest.raises(ImageError, match="mode F; expected 8 or 16 bits"):
        read_image(Image.fromarray(np.zeros((2, 2), np.float32)))


def test_a_damaged_file_that_pil_reads_late_is_an_image_error():
    data = saved(PIXELS, "PNG")
    with pytest.raises(ImageError, match="can't be decoded"):
        read_image(Image.open(io.BytesIO(data[:-500])))


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_are_uint8_rgb(array):
    with pytest.raises(ImageError, match="expected uint8"):
        read_image(array)


# ---- resizing and normalization


def test_resize_averages_over_the_area_of_each_new_pixel():
    # 3 columns to 2: the first new pixel covers one and a half old ones, (0 + 60 / 2) / 1.5 = 20
    row = np.repeat(np.array([[[0], [60], [120]]], np.uint8), 3, axis=2)
    np.testing.assert_array_equal(resize(row, (1, 2))[0, :, 0], [20, 100])
    np.testing.assert_array_equal(resize(row, (1, 6))[0, :, 0], [0, 0, 60, 60, 120, 120])


def test_cut_border_crops_a_fraction_at_every_side():
    np.testing.assert_array_equal(cut_border(PIXELS, 0.1), PIXELS[4:36, 6:54])
    np.testing.assert_array_equal(cut_border(PIXELS, 0.0), PIXELS)


@pytest.mark.parametrize("side", [1, 2, 3, 10])
def test_cut_border_never_removes_a_whole_image(side):
    assert cut_border(np.zeros((side, side, 3), np.uint8), 0.499).size


def test_each_channel_is_normalized_by_its_mean_and_std():
    # (51 / 255 - 0.1) / 0.2 = 0.5, (102 / 255 - 0.2) / 0.4 = 0.5, (204 / 255 - 0.3) / 0.5 = 1
    image = np.full((2, 5, 3), (51, 102, 204), np.uint8)
    out = np.full((3, 2, 5), np.nan, np.float32)
    normalize(image, ViewSpec("drone", (2, 5), mean=(0.1, 0.2, 0.3), std=(0.2, 0.4, 0.5)), out)
    np.testing.assert_allclose(out, np.broadcast_to(np.array([0.5, 0.5, 1.0]).reshape(3, 1, 1), (3, 2, 5)), rtol=1e-5)


@pytest.mark.parametrize("shape", [(7, 4, 3), (4, 7, 3)])
def test_pixels_keep_their_position(shape):
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    out = np.empty((2, 3, *shape[:2]), np.float32)
    normalize(image, ViewSpec("drone", shape[:2], mean=mean, std=std), out[1])  # one row of a batch
    np.testing.assert_allclose(out[1], ((image / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)
