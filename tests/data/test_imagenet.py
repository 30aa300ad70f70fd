"""A miniature of ImageNet's validation photos in both of its layouts."""

import numpy as np
import pytest
import torch
from PIL import Image

from lavin.data.public import open_dataset
from lavin.errors import InputError

COLOURS = {"ILSVRC2012_val_00000001": (200, 30, 60), "ILSVRC2012_val_00000002": (90, 90, 90)} | {
    "ILSVRC2012_val_00000003": (20, 160, 40)
}
FOLDERS = dict(zip(COLOURS, ("n02", "n03", "n01")))
"""In the order of the folders another photo comes first."""


def write(root, nested):
    """The first is CMYK, the second grey, the third a PNG by the wrong name."""
    for (name, colour), mode, kind in zip(COLOURS.items(), ("CMYK", "L", "RGB"), ("JPEG", "JPEG", "PNG")):
        folder = root / "val" / FOLDERS[name] if nested else root / "val"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), colour).convert(mode).save(folder / f"{name}.JPEG", kind)
    return root


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("place", ["", "ILSVRC/Data/CLS-LOC"])
def test_both_layouts_give_the_same_photos_in_rgb(tmp_path, nested, place):
    write(tmp_path / place, nested)
    data = open_dataset("imagenet", tmp_path)
    assert data.names == list(COLOURS) and data.expected() == 50_000
    for sample, (name, colour) in zip(data, COLOURS.items()):
        assert sample.id == f"imagenet/val/{name}" and sample.clip.shape == (1, 20, 30, 3)
        assert (sample.clip.float() - torch.tensor(colour)).abs().max() <= 4, name  # JPEG


def test_training_photos_are_found_in_their_classes(tmp_path):
    (tmp_path / "train/n01").mkdir(parents=True)
    Image.new("RGB", (5, 6)).save(tmp_path / "train/n01/n01_7.JPEG")
    assert open_dataset("imagenet", tmp_path, "train").names == ["n01_7"]


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no folder val; imagenet needs val/<wnid>/\*\.JPEG or val/\*\.JPEG"):
        open_dataset("imagenet", tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="no pictures of split 'val'"):
        open_dataset("imagenet", tmp_path)
    write(tmp_path, nested=True)
    path = tmp_path / "val/n03/ILSVRC2012_val_00000002.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:900])
    data = open_dataset("imagenet", tmp_path)
    assert data[0].clip is not None
    with pytest.raises(InputError, match=r"ILSVRC2012_val_00000002\.JPEG: damaged"):
        data[1]
