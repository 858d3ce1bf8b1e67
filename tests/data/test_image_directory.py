"""The images in a directory: names, what is passed over, links, unreadable files left out or named."""

import os

import pytest
from PIL import Image

from mindloc.data.image_directory import list_images
from mindloc.errors import DataError, ImageError
from mindloc.vocabulary import ViewSpec

VIEW = ViewSpec("drone", (8, 8))


def touch(directory, *names):
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


def photo(path, level=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (8, 8), (level, 0, 0))
    image.putpixel((0, 0), (0, 0, 0))
    image.save(path, "PNG")


def test_images_of_all_subdirectories_are_sorted_and_relative(tmp_path):
    touch(tmp_path, "b/1.JPG", "c.png", "a/1.jpeg", "é.png", "d.MPO", "e.jfif", "f.webp", "g.tif", "h.TIFF", "i.bmp")
    names = ["a/1.jpeg", "b/1.JPG", "c.png", "d.MPO", "e.jfif", "f.webp", "g.tif", "h.TIFF", "i.bmp", "é.png"]
    found = list_images(tmp_path)
    assert found.names == names and found.note() is None


def test_two_files_of_one_name_are_two_images(tmp_path):
    touch(tmp_path, "flight1/DJI_0001.JPG", "flight2/DJI_0001.JPG")
    assert list_images(tmp_path).names == ["flight1/DJI_0001.JPG", "flight2/DJI_0001.JPG"]


def test_hidden_files_thumbnails_and_other_files_are_passed_over_and_counted(tmp_path):
    touch(tmp_path, "1.jpg", "._1.jpg", ".DS_Store", "@eaDir/1.jpg/THUMB.jpg", ".Trash/old.jpg", ".cache/a/b.png")
    touch(tmp_path, "log.txt", "b/track.SRT", "b/other.txt", "b/@eaDir/x.jpg", "README", "x.\x1b[31m", "b/2.jpg")
    found = list_images(tmp_path)
    assert found.names == ["1.jpg", "b/2.jpg"]
    assert dict(found.passed_over) == {
        "hidden files": 2,
        "@eaDir directories": 2,
        "hidden directories": 2,
        ".txt": 2,
        ".srt": 1,
        "files without a suffix": 1,
        "files with other suffixes": 1,
    }
    note = found.note()
    assert note.startswith("passed over: ") and "hidden files (2)" in note and note.endswith("others (2)")
    assert "\n" not in note and "\x1b" not in note


def test_a_linked_directory_is_followed_once(tmp_path):
    touch(tmp_path, "elsewhere/7.jpg", "photos/1.jpg", "photos/deep/2.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos/card")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos/card2")  # the same place
    os.symlink(tmp_path / "photos", tmp_path / "photos/deep/loop")
    os.symlink(tmp_path / "photos/deep", tmp_path / "photos/a")  # its name is sorted before its target
    found = list_images(tmp_path / "photos")
    assert found.names == ["1.jpg", "card/7.jpg", "deep/2.jpg"]
    assert found.note() == "passed over: links to directories read already (3)"


def test_a_directory_can_be_listed_without_its_subdirectories(tmp_path):
    touch(tmp_path, "1.png", "deep/2.png", ".git/3.png")
    found = list_images(tmp_path, below=False)
    assert found.names == ["1.png"]
    assert dict(found.passed_over) == {"directories": 1, "hidden directories": 1}


def test_a_name_that_is_not_utf8_is_an_error(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")  # Latin-1
    except OSError:
        pytest.skip("this file system accepts only UTF-8 names")
    with pytest.raises(DataError, match=r"'caf\\udce9.png' is not UTF-8 text; rename the image"):
        list_images(tmp_path)


def test_a_directory_without_images_is_a_one_line_error(tmp_path):
    with pytest.raises(DataError, match="has no images; expected .png"):
        list_images(tmp_path)
    touch(tmp_path, "a.gif", "._a.png")
    with pytest.raises(DataError, match=r"has no images \(passed over: hidden files \(1\), .gif \(1\)\); expected"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="is not a directory"):
        list_images(tmp_path / "nowhere")


# ---- unreadable images


@pytest.fixture
def directory(tmp_path):
    """Six photos: two with a broken header, one whose damage only decoding finds, three good ones."""
    for level in (1, 2, 3, 4):
        photo(tmp_path / f"{level}.png", level)
    data = bytearray((tmp_path / "3.png").read_bytes())
    data[45] ^= 1
    (tmp_path / "3.png").write_bytes(data)
    touch(tmp_path, "0.png")
    (tmp_path / "5.jpg").write_bytes(b"<html>")
    return tmp_path


def read(images, batch_size=2):
    """(red channel of the first pixel of each image that is read, the messages)."""
    batches = images.batches(VIEW, batch_size, 2)
    reds = [round(127.5 * (1 + row[0, 4, 4])) for batch, count in batches for row in batch[:count]]
    said: list[str] = []
    images.say_after(said.append)
    return reds, said


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_unreadable_images_are_left_out_and_named(directory, batch_size):
    images = list_images(directory).checked(skip_bad=True)
    assert images.names == ["1.png", "2.png", "3.png", "4.png"] and list(images.left_out) == ["0.png", "5.jpg"]
    reds, lines = read(images, batch_size)
    assert reds == [1, 2, 4]
    assert lines[0] == "left out: 3 of 6 images, which can't be read"
    assert [name in line for name, line in zip(("0.png is empty", "5.jpg is not", "3.png is"), lines[1:], strict=True)]
    assert list(images.left_out) == ["0.png", "5.jpg", "3.png"]


def test_without_skip_bad_the_first_unreadable_image_is_an_error(directory):
    with pytest.raises(ImageError, match="0.png is empty"):
        list_images(directory).checked(skip_bad=False)
    for name in ("0.png", "5.jpg"):
        (directory / name).unlink()
    with pytest.raises(ImageError, match="3.png is damaged"):
        read(list_images(directory).checked(skip_bad=False))


def test_no_readable_image_is_an_error_in_any_case(tmp_path):
    touch(tmp_path, "a.png", "b.png")
    with pytest.raises(ImageError, match="b.png is empty"):
        list_images(tmp_path).checked(skip_bad=True)


def test_many_unreadable_images_are_counted(tmp_path):
    photo(tmp_path / "good.png")
    touch(tmp_path, *(f"{number}.png" for number in range(5)))
    _, lines = read(list_images(tmp_path).checked(skip_bad=True))
    assert lines[0] == "left out: 5 of 6 images, which can't be read" and lines[-1] == "  ... and 2 more"
    assert len(lines) == 5


def test_remarks_on_images_are_counted(tmp_path):
    photo(tmp_path / "a.png")
    for name in ("b/1.png", "b/2.png"):
        (tmp_path / "b").mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8)).save(tmp_path / name)
    _, lines = read(list_images(tmp_path).checked(skip_bad=True))
    assert lines == [
        "note: 2 images of a single color, which can't be distinguished (first b/1.png)",
        "note: 2 images with transparent parts, which are black (first b/1.png)",
    ]


def test_what_is_passed_over_is_reported_at_once(tmp_path):
    photo(tmp_path / "a.png")
    touch(tmp_path, "._a.png")
    said = []
    list_images(tmp_path).checked(skip_bad=True, say=said.append)
    assert said == ["passed over: hidden files (1)"]
