"""A user's folder of pairs: what is read, in which order, and what is refused by name."""

import pytest
from PIL import Image

from lavin import load_pairs
from lavin.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write(*names, size=(4, 3)):
        for name in names:
            Image.new("RGB", size).save(tmp_path / name)
        return tmp_path

    return write


def test_pairs_come_sorted_with_their_names(write):
    folder = write("b_input.png", "b_target.webp", "a_input.JPG", "a_target.png", "c_x_input.bmp", "c_x_target.tiff")
    pairs = load_pairs(folder)
    assert pairs.names == ["a", "b", "c_x"]
    assert all(half.size == (4, 3) and half.mode == "RGB" for pair in pairs for half in pair)
    assert load_pairs(folder, limit=2).names == ["a", "b"]
    assert pairs[1:].names == ["b", "c_x"]


def test_other_files_are_left_alone(write):
    folder = write("a_input.png", "a_target.png", "query.png", "query_target.png", "photo.png", "._b_input.png")
    (folder / "README.md").write_text("pairs")
    (folder / "more_input.png").mkdir()
    assert load_pairs(folder).names == ["a"]


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"context folder .*gone does not exist"):
        load_pairs(tmp_path / "gone")


def test_file_instead_of_folder(write):
    with pytest.raises(InputError, match="is a file; a folder"):
        load_pairs(write("a_input.png") / "a_input.png")


def test_zero_pairs(write):
    with pytest.raises(InputError, match=r"has no <name>_input\.\*, <name>_target\.\* pairs \(png, "):
        load_pairs(write("query.png"))


def test_half_pairs_are_named(write):
    with pytest.raises(InputError, match=r"cat_input\.png has no cat_target\.\*; dog_target\.png has no dog_input\.\*"):
        load_pairs(write("cat_input.png", "dog_target.png", "a_input.png", "a_target.png"))


def test_duplicates_are_named(write):
    with pytest.raises(InputError, match=r"pair 'cat' has both cat_input\.jpg and cat_input\.png"):
        load_pairs(write("cat_input.png", "cat_input.jpg", "cat_target.png"))


def test_sizes_must_agree(write):
    write("cat_input.png", size=(640, 480))
    message = r"context pair 'cat': cat_input\.png is 640x480 but cat_target\.png is 512x512; both must have one size"
    with pytest.raises(InputError, match=message):
        load_pairs(write("cat_target.png", size=(512, 512)))


def test_broken_picture_is_named(write):
    folder = write("cat_input.png", "cat_target.png")
    (folder / "cat_target.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"cat_target\.png: not an image"):
        load_pairs(folder)


def test_limit_below_one(write):
    with pytest.raises(InputError, match="at least 1 pair, not 0"):
        load_pairs(write("a_input.png", "a_target.png"), limit=0)
