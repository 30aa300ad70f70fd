"""Pictures and labels on disk: every kind of file is read right or refused with a reason; writing loses nothing."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import io
from lavin.errors import InputError, LavinError


def save(path, image, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "PNG"])
def test_every_format_is_read_as_rgb(tmp_path, suffix):
    file = save(tmp_path / f"red.{suffix}", Image.new("RGB", (8, 6), (250, 10, 10)))
    image = io.read_image(file)
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert np.abs(np.asarray(image, int) - (250, 10, 10)).max() <= 12  # lossy formats


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    image = io.read_image(save(tmp_path / f"deep.{suffix}", Image.fromarray(values)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]
    assert image.mode == "RGB"


def test_transparent_pixels_show_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))
    read = io.read_image(save(tmp_path / "clear.png", image))
    assert [read.getpixel((x, 0)) for x in range(2)] == [(255, 255, 255), (10, 20, 30)]


def test_grey_with_alpha_shows_white(tmp_path):
    image = Image.new("LA", (1, 1), (0, 0))
    assert io.read_image(save(tmp_path / "grey.png", image)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("transparency", [None, 0])
def test_palette_becomes_its_colours(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    options = {} if transparency is None else {"transparency": transparency}
    read = io.read_image(save(tmp_path / "palette.png", image, **options))
    assert read.getpixel((1, 0)) == (0, 0, 255)
    assert read.getpixel((0, 0)) == ((255, 0, 0) if transparency is None else (255, 255, 255))


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])
def test_cmyk_becomes_rgb(tmp_path, suffix):
    image = io.read_image(save(tmp_path / f"print.{suffix}", Image.new("CMYK", (8, 8), (0, 255, 255, 0))))
    red, green, blue = image.getpixel((4, 4))
    assert image.mode == "RGB" and red > 240 and max(green, blue) < 15


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = io.read_image(save(tmp_path / "turned.jpg", Image.new("RGB", (30, 10)), exif=exif))
    assert image.size == (10, 30)


def test_one_pixel_is_a_picture(tmp_path):
    assert io.read_image(save(tmp_path / "dot.png", Image.new("RGB", (1, 1), "red"))).size == (1, 1)


def test_20000_pixels_wide_is_read(tmp_path):
    assert io.read_image(save(tmp_path / "wide.png", Image.new("L", (20_000, 40)))).size == (20_000, 40)


def test_pillows_own_limit_is_lifted_and_put_back(tmp_path, monkeypatch):
    file = save(tmp_path / "large.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert io.read_image(file).size == (100, 100)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    file = save(tmp_path / "bomb.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(io, "MAX_PIXELS", 9_999)
    with pytest.raises(InputError, match=r"bomb\.png: 100x100 is too large"):
        io.read_image(file)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tiff"])
def test_truncated_file_is_named(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = save(tmp_path / f"cut.{suffix}", Image.fromarray(pixels))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"cut\.{suffix}: (damaged|not an image)"):
        io.read_image(file)


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image_is_named(tmp_path, content):
    file = tmp_path / "text.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"text\.png"):
        io.read_image(file)


def test_missing_file_and_folder_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        io.read_image(tmp_path / "gone.png")
    with pytest.raises(InputError, match="is a folder"):
        io.read_image(tmp_path)


def test_floating_point_picture_is_refused(tmp_path):
    file = save(tmp_path / "float.tiff", Image.fromarray(np.ones((2, 2), np.float32)))
    with pytest.raises(InputError, match="floating-point"):
        io.read_image(file)


def test_output_is_kept_unless_forced(tmp_path):
    file = tmp_path / "prediction.png"
    io.write_image(file, Image.new("RGB", (2, 2), "red"))
    with pytest.raises(InputError, match=r"output exists: .*prediction\.png; give another --out or --force"):
        io.write_image(file, Image.new("RGB", (2, 2), "blue"))
    assert io.read_image(file).getpixel((0, 0)) == (255, 0, 0)
    io.write_image(file, Image.new("RGB", (2, 2), "blue"), force=True)
    assert io.read_image(file).getpixel((0, 0)) == (0, 0, 255)
    assert [path.name for path in tmp_path.iterdir()] == ["prediction.png"]  # nothing left beside it


def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch):
    file = io.write_bytes(tmp_path / "prediction.png", b"before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(io.os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"):
        io.write_bytes(file, b"after", force=True)
    assert file.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_only_png_is_written(tmp_path):
    with pytest.raises(InputError, match=r"ends in \.png"):
        io.write_image(tmp_path / "prediction.jpg", Image.new("RGB", (1, 1)))


def test_labels_read_back(tmp_path):
    depth = np.linspace(0, 1, 6, dtype=np.float32).reshape(1, 2, 3)
    read = np.asarray(Image.open(io.write_label(tmp_path / "depth", depth, "depth")))
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read / 65535, depth[0], atol=1 / 65535)

    mask = np.array([[[True, False]]])
    assert np.asarray(Image.open(io.write_label(tmp_path / "mask", mask, "foreground"))).tolist() == [[255, 0]]

    ids = np.array([[[0, 7, 300]]])
    assert np.asarray(Image.open(io.write_label(tmp_path / "ids", ids, "instance"))).tolist() == [[0, 7, 300]]

    normals = np.random.default_rng(0).standard_normal((3, 1, 4, 5)).astype(np.float32)
    read = np.load(io.write_label(tmp_path / "normals", normals, "normals"))
    np.testing.assert_array_equal(read, normals[:, 0].transpose(1, 2, 0))

    clip = np.zeros((5, 4, 3), bool)
    assert np.load(io.write_label(tmp_path / "clip", clip, "foreground")).shape == (5, 4, 3)
    panoptic = np.array([[[-1, 1002, 132_000]]])
    assert np.load(io.write_label(tmp_path / "panoptic", panoptic, "panoptic")).tolist() == [[-1, 1002, 132_000]]
    people = {"keypoints": torch.arange(102.0).view(2, 17, 3), "area": torch.tensor([5.0, 6.0])}
    read = json.loads(io.write_label(tmp_path / "people", people, "pose").read_text())
    assert [thing["area"] for thing in read] == [5.0, 6.0] and read[1]["keypoints"][16] == [99.0, 100.0, 101.0]


def test_nan_is_never_saved(tmp_path):
    with pytest.raises(LavinError, match="depth label has NaN"):
        io.write_label(tmp_path / "depth", np.full((1, 2, 2), np.nan, np.float32), "depth")
    assert not list(tmp_path.iterdir())


def test_grid_shows_pairs_and_predictions():
    red, blue = (Image.new("RGB", (64, 32), colour) for colour in ("red", "blue"))
    grid = io.draw_grid([(red, blue), (red, blue), (blue, red)], pairs=2, side=64)
    colours = [grid.getpixel((grid.width - 10, y)) for y in (10, grid.height - 10)]
    assert colours == [(0, 0, 255), (255, 0, 0)]  # the last column: query above, prediction below
    assert grid.size == (3 * 64 + 4 * 2 + 8, 2 * 32 + 3 * 2)
