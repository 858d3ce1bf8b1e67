"""Complete images pass, every kind of damaged file is a one-line error; names in a directory; normalized pixels."""

import os

import cv2
import numpy as np
import pytest
from PIL import Image

from mindloc.data.images import (
    bytes_problem,
    check_decodes,
    cut_border,
    decode,
    image_names,
    normalize,
    read_bytes,
    resize,
)
from mindloc.errors import DataError, ImageError
from mindloc.vocabulary import ViewSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(suffix):
    return cv2.imencode(suffix, cv2.cvtColor(PIXELS, cv2.COLOR_RGB2BGR))[1].tobytes()


def write(path, data):
    path.write_bytes(data)
    return path


def test_a_png_is_decoded_to_its_rgb_pixels(tmp_path):
    path = write(tmp_path / "a.png", encoded(".png"))
    np.testing.assert_array_equal(decode(read_bytes(path), path), PIXELS)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_other_kinds_of_png_become_rgb(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(read_bytes(tmp_path / "a.png"), "a.png"), expected)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.999, 0.9, 0.5, 0.1, 0.01])
def test_a_truncated_file_is_found(tmp_path, suffix, kept):
    data = encoded(suffix)
    path = write(tmp_path / f"cut{suffix}", data[: max(3, int(len(data) * kept))])
    with pytest.raises(ImageError, match=f"cut{suffix} is (truncated|neither)"):
        read_bytes(path)


def test_a_thumbnails_end_mark_does_not_hide_a_truncation():
    thumbnail = b"\xff\xd8" + b"thumbnail" + b"\xff\xd9"
    exif = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded(".jpg")
    whole = data[:2] + exif + data[2:]
    assert bytes_problem(whole) is None
    assert "truncated" in bytes_problem(whole[:-100])


def test_bytes_after_the_end_mark_are_allowed():
    assert bytes_problem(encoded(".jpg") + b"maker's notes") is None  # some cameras append a preview


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_files_of_real_encoders_pass(suffix, tmp_path):
    for options in ({"quality": 30}, {"progressive": True}, {"optimize": True}):
        Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}", **(options if suffix == ".jpg" else {}))
        assert bytes_problem((tmp_path / f"a{suffix}").read_bytes()) is None
        check_decodes(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"", "is empty"), (b"<html>not found</html>", "neither JPEG nor PNG"), (b"\xff\xd8\xff", "truncated")],
)
def test_other_files_are_named_with_their_problem(tmp_path, data, problem):
    path = write(tmp_path / "x.jpg", data)
    with pytest.raises(ImageError, match=f"x.jpg .*{problem}"):
        read_bytes(path)


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(ImageError, match="nowhere.jpg is missing"):
        read_bytes(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="can't be read"):
        read_bytes(tmp_path)


def test_damaged_pixels_between_complete_marks_are_found_by_decoding(tmp_path):
    data = bytearray(encoded(".png"))
    data[16:24] = b"\xff" * 8  # absurd width and height
    path = write(tmp_path / "x.png", bytes(data))
    read_bytes(path)
    with pytest.raises(ImageError, match="x.png is damaged"):
        decode(read_bytes(path), path)
    with pytest.raises(ImageError, match="x.png is damaged"):
        check_decodes(path)


def test_resize_averages_over_the_area_of_each_new_pixel():
    # 3 columns to 2: the first new pixel covers one and a half old ones, (0 + 60 / 2) / 1.5 = 20
    row = np.repeat(np.array([[[0], [60], [120]]], np.uint8), 3, axis=2)
    np.testing.assert_array_equal(resize(row, (1, 2))[0, :, 0], [20, 100])
    np.testing.assert_array_equal(resize(row, (1, 6))[0, :, 0], [0, 0, 60, 60, 120, 120])


def test_cut_border_crops_a_fraction_at_every_side():
    np.testing.assert_array_equal(cut_border(PIXELS, 0.1), PIXELS[4:36, 6:54])
    np.testing.assert_array_equal(cut_border(PIXELS, 0.0), PIXELS)


def test_images_of_all_subdirectories_are_sorted_and_relative(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("b/1.JPG", "c.png", "a.jpeg", "é.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert image_names(tmp_path) == ["a.jpeg", "b/1.JPG", "c.png", "é.png"]


def test_a_name_that_is_not_utf8_is_an_error(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")  # Latin-1
    except OSError:
        pytest.skip("this file system accepts only UTF-8 names")
    with pytest.raises(DataError, match=r"'caf\\udce9.png' is not UTF-8 text; rename the image"):
        image_names(tmp_path)


def test_a_directory_without_images_is_a_one_line_error(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        image_names(tmp_path)
    with pytest.raises(DataError, match="is not a directory"):
        image_names(tmp_path / "nowhere")


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
