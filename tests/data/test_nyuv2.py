"""Miniatures of NYUv2's three layouts, written from one set of arrays: the same pictures must come out of each."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lavin.data.nyuv2 import COLOUR_CAMERA, LABELED
from lavin.data.public import open_dataset
from lavin.errors import InputError

HEIGHT, WIDTH = 48, 64
COUNT = 7
TEST, TRAIN = [1, 3, 6], [0, 2, 4, 5]
"""Numbers from 0."""


def arrays():
    """Pictures (7, height, width, 3), raw and filled depth in metres (7, height, width); raw has holes of 0."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (COUNT, HEIGHT, WIDTH, 3), dtype=np.uint8)
    filled = rng.integers(500, 9000, (COUNT, HEIGHT, WIDTH)) / np.float32(1000)
    raw = np.where(rng.random(filled.shape) < 0.1, 0, filled).astype(np.float32)
    return rgb, raw, filled.astype(np.float32)


def write_labeled(root):
    """As MATLAB writes it: HDF5 with the axes of (height, width, 3, n) reversed."""
    h5py = pytest.importorskip("h5py")
    root.mkdir(exist_ok=True)
    rgb, raw, filled = arrays()
    with h5py.File(root / LABELED, "w") as file:
        file["images"] = np.moveaxis(rgb, 0, -1).T
        file["rawDepths"], file["depths"] = np.moveaxis(raw, 0, -1).T, np.moveaxis(filled, 0, -1).T
    savemat(
        root / "splits.mat",
        {"trainNdxs": np.array(TRAIN[::-1])[:, None] + 1, "testNdxs": np.array(TEST, np.uint16)[:, None] + 1},
    )
    return root


def write_official(root):
    rgb, raw, _ = arrays()
    for split, numbers in (("test", TEST), ("train", TRAIN)):
        for number in numbers:
            folder = root / "official_splits" / split / ("study_0009" if number % 2 else "bathroom")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rgb[number]).save(folder / f"rgb_{number:05}.png")
            depth_mm = (raw[number] * 1000).round().astype(np.uint16)
            Image.fromarray(depth_mm).save(folder / f"sync_depth_{number:05}.png")
    return root


def unit_vectors(rng, *shape):
    vectors = rng.normal(size=(*shape, 3)) + [0, 0, 2]
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def write_dsine(root):
    """DSINE's x points left; its files have round((n + 1) / 2 * 255), and black where nothing is known."""
    rng = np.random.default_rng(1)
    normals = unit_vectors(rng, COUNT, HEIGHT, WIDTH)
    known = rng.random((COUNT, HEIGHT, WIDTH)) < 0.9
    for split, numbers in (("test", TEST), ("train", TRAIN)):
        (root / split).mkdir(parents=True)
        for number in numbers:
            stem = root / split / f"{number:06}"
            Image.fromarray(arrays()[0][number]).save(f"{stem}_img.png")
            levels = ((normals[number] * [-1, 1, 1] + 1) / 2 * 255).round() * known[number][..., None]
            Image.fromarray(levels.astype(np.uint8)).save(f"{stem}_normal.png")
            np.save(f"{stem}_intrins.npy", np.float32([[500, 0, 32], [0, 510, 24], [0, 0, 1]]))
    return normals, known


@pytest.mark.parametrize("write", [write_labeled, write_official])
@pytest.mark.parametrize(("split", "numbers"), [("test", TEST), ("train", TRAIN)])
def test_every_layout_gives_the_same_pictures_and_raw_depth(tmp_path, write, split, numbers):
    rgb, raw, _ = arrays()
    data = open_dataset("nyuv2", write(tmp_path / "nyu"), split, depth="raw")
    assert [sample.id for sample in data] == [f"nyuv2/{split}/{number:06}" for number in numbers]
    for sample, number in zip(data, numbers):
        assert np.array_equal(sample.clip[0].numpy(), rgb[number])
        expected = np.where(raw[number] == 0, np.nan, raw[number])
        np.testing.assert_allclose(sample.depth[0].numpy(), expected, rtol=1e-6)
        assert sample.depth.dtype == torch.float32 and sample.depth_kind == "metric_z"
        torch.testing.assert_close(sample.K, torch.from_numpy(COLOUR_CAMERA).float())


def test_training_depth_is_filled_and_test_depth_raw_unless_said(tmp_path):
    _, raw, filled = arrays()
    root = write_labeled(tmp_path)
    np.testing.assert_array_equal(open_dataset("nyuv2", root, "train")[1].depth[0].numpy(), filled[TRAIN[1]])
    holes = open_dataset("nyuv2", root)[0].depth[0].isnan().numpy()
    assert np.array_equal(holes, raw[TEST[0]] == 0) and holes.any()
    assert not open_dataset("nyuv2", root, "test", depth="filled")[0].depth.isnan().any()


def test_a_text_list_replaces_splits_mat(tmp_path):
    root = write_labeled(tmp_path)
    (root / "splits.mat").unlink()
    (tmp_path / "mine.txt").write_text("7\n2\n")
    data = open_dataset("nyuv2", root, "test", split_file=tmp_path / "mine.txt")
    assert data.names == ["000001", "000006"]


def test_normals_of_depth_are_those_of_the_plane(tmp_path):
    """A wall that turns to the right, drawn by the camera that the adapter assumes."""
    normal = np.array([0.4, 0.1, 0.9]) / np.linalg.norm([0.4, 0.1, 0.9])
    K = COLOUR_CAMERA
    y, x = np.mgrid[:480, :640] + 0.5
    rays = np.stack([(x - K[0, 2]) / K[0, 0], -(y - K[1, 2]) / K[1, 1], -np.ones_like(x)], -1)
    depth_mm = (-2000 / (rays @ normal)).round().astype(np.uint16)
    folder = tmp_path / "test" / "office"
    folder.mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(folder / "rgb_00000.jpg")
    Image.fromarray(depth_mm).save(folder / "sync_depth_00000.png")
    sample = open_dataset("nyuv2", tmp_path)[0]
    known = sample.normals[:, 0].any(0)
    cosine = torch.einsum("chw,c->hw", sample.normals[:, 0], torch.from_numpy(normal).float())[known]
    assert known.float().mean() > 0.95 and cosine.clamp(max=1).arccos().rad2deg().median() < 1
    assert sample.provenance == "ground truth; normals from depth"
    assert open_dataset("nyuv2", tmp_path, normals="none")[0].normals is None


def test_dsines_normals_come_in_our_axes(tmp_path):
    normals, known = write_dsine(tmp_path / "dsine")
    data = open_dataset("nyuv2", tmp_path / "dsine")
    assert data.names == [f"{number:06}" for number in TEST]
    for sample, number in zip(data, TEST):
        found = sample.normals[:, 0].permute(1, 2, 0).numpy()
        assert np.array_equal(found.any(-1), known[number])
        np.testing.assert_allclose(found[known[number]], normals[number][known[number]], atol=0.01)
        np.testing.assert_allclose(np.linalg.norm(found[known[number]], axis=-1), 1, atol=1e-6)
        assert sample.depth is None and sample.K[0, 0] == 500


@pytest.mark.parametrize("write", [write_labeled, write_official])
def test_dsines_normals_join_the_depth_of_other_layouts(tmp_path, write):
    normals, known = write_dsine(tmp_path / "dsine")
    sample = open_dataset("nyuv2", write(tmp_path / "nyu"), normals=tmp_path / "dsine")[1]
    assert sample.depth is not None and sample.provenance == "ground truth"
    found = sample.normals[:, 0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found[known[TEST[1]]], normals[TEST[1]][known[TEST[1]]], atol=0.01)


def test_nothing_is_known_outside_the_eigen_crop(tmp_path):
    folder = tmp_path / "test" / "office"
    folder.mkdir(parents=True)
    Image.new("RGB", (640, 480)).save(folder / "rgb_00000.jpg")
    Image.fromarray(np.full((480, 640), 2000, np.uint16)).save(folder / "sync_depth_00000.png")
    sample = open_dataset("nyuv2", tmp_path, eigen_crop=True)[0]
    inside = torch.zeros(480, 640, dtype=torch.bool)
    inside[45:471, 41:601] = True  # rows 45 to 470, columns 41 to 600
    assert torch.equal(sample.depth[0].isfinite(), inside)
    assert not sample.normals[:, 0][:, ~inside].any() and sample.normals[2, 0][inside].any()


# --- What can be wrong ------------------------------------------------------------------------------------------------


def test_missing_files_are_named_with_root_and_layout(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: does not exist; nyuv2 needs nyu_depth_v2_labeled\.mat and splits"):
        open_dataset("nyuv2", tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"neither nyu_depth_v2_labeled\.mat nor pictures of split 'test'"):
        open_dataset("nyuv2", tmp_path)
    root = write_official(tmp_path / "nyu")
    (root / "official_splits/test/study_0009/sync_depth_00003.png").unlink()
    with pytest.raises(InputError, match=r"1 of the files listed are missing, the first is .*sync_depth_00003\.png"):
        open_dataset("nyuv2", root)
    data = open_dataset("nyuv2", root, complete=False)
    assert len(data) == 3 and data[0].depth is not None
    with pytest.raises(InputError, match="sync_depth_00003"):
        data[1]


def test_a_picture_that_is_there_twice_is_refused(tmp_path):
    root = write_official(tmp_path)
    twin = root / "official_splits/test/other"
    twin.mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(twin / "rgb_00003.png")
    with pytest.raises(InputError, match="picture 3 is there twice"):
        open_dataset("nyuv2", root)


def test_depth_of_another_size_and_broken_depth_are_named(tmp_path):
    root = write_official(tmp_path)
    folder = root / "official_splits/test/study_0009"
    Image.fromarray(np.ones((HEIGHT, WIDTH - 1), np.uint16)).save(folder / "sync_depth_00001.png")
    whole = (folder / "sync_depth_00003.png").read_bytes()
    (folder / "sync_depth_00003.png").write_bytes(whole[: len(whole) // 2])
    data = open_dataset("nyuv2", root)
    with pytest.raises(
        InputError, match=f"depth of picture 1 is {WIDTH - 1}x{HEIGHT} but the picture {WIDTH}x{HEIGHT}"
    ):
        data[0]
    with pytest.raises(InputError, match=r"sync_depth_00003\.png: damaged"):
        data[1]


def test_a_damaged_matlab_file_is_named(tmp_path):
    h5py = pytest.importorskip("h5py")
    root = write_labeled(tmp_path)
    whole = (root / LABELED).read_bytes()
    (root / LABELED).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=f"{LABELED}: damaged"):
        open_dataset("nyuv2", root)
    with h5py.File(root / LABELED, "w") as file:
        file["images"] = np.zeros((2, 3, 4, 5), np.uint8)
    with pytest.raises(InputError, match=f"{LABELED}: damaged, or not the labelled set"):
        open_dataset("nyuv2", root)


def test_without_h5py_the_matlab_file_says_so(tmp_path, monkeypatch):
    (tmp_path / LABELED).write_bytes(b"")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match="h5py reads it, but is not installed: pip install"):
        open_dataset("nyuv2", tmp_path)


@pytest.mark.parametrize("content", ["0\n1\n", "8\n", "2\n2\n", "kitchen\n", ""])
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_lists_with_other_things_than_the_pictures_numbers_are_refused(tmp_path, content):
    root = write_labeled(tmp_path)
    (tmp_path / "mine.txt").write_text(content)
    with pytest.raises(InputError, match=r"mine\.txt: .*the split 'test'"):
        open_dataset("nyuv2", root, split_file=tmp_path / "mine.txt")


def test_a_missing_or_broken_split_file_is_named(tmp_path):
    root = write_labeled(tmp_path)
    (root / "splits.mat").write_bytes(b"MATLAB no more")
    with pytest.raises(InputError, match=r"splits\.mat: cannot be read as the split"):
        open_dataset("nyuv2", root)
    (root / "splits.mat").unlink()
    with pytest.raises(InputError, match=r"splits\.mat: no such file"):
        open_dataset("nyuv2", root)


def test_options_are_checked(tmp_path):
    root = write_official(tmp_path / "nyu")
    with pytest.raises(InputError, match="depth is 'inpainted'"):
        open_dataset("nyuv2", root, depth="inpainted")
    with pytest.raises(InputError, match=f"depth='filled' is in {LABELED} only"):
        open_dataset("nyuv2", root, depth="filled")
    with pytest.raises(InputError, match="normals may be 'depth', 'none' or DSINE's folder"):
        open_dataset("nyuv2", root, normals=tmp_path)
    with pytest.raises(InputError, match="unknown option of nyuv2 'normal'; did you mean 'normals'"):
        open_dataset("nyuv2", root, normal="none")
