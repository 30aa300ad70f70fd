"""What holds for every public data set, and the three whose training sources are in ``lavin.data.photos``."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from lavin.data.adapter import PublicData
from lavin.data.photos import open_photos
from lavin.data.public import DATASETS, open_dataset
from lavin.data.sample import Sample
from lavin.errors import InputError
from lavin.pictures import squash
from tests.data import test_imagenet, test_nyuv2, test_refcoco, test_voc
from tests.test_photos import camvid_labels, plane_depth, unit, write_bsds, write_camvid, write_rgbd

POSE = np.array([[0, 0, 1, 2.0], [1, 0, 0, 3], [0, 1, 0, 4], [0, 0, 0, 1]])
"""Of a camera that looks along the world's x; its right is the world's y, its down the world's z."""


def write(name, root):
    """A miniature of the data set."""
    if name in ("refcoco", "refcoco+", "refcocog"):
        return test_refcoco.write(root, name, "umd" if name == "refcocog" else "unc")
    if name == "rgbd":
        write_rgbd(root, [plane_depth(unit(0.3, 0.2, 0.9))] * 20)
        for path in root.glob("train/*.color.jpg"):
            np.savetxt(path.with_name(path.name.replace("color.jpg", "pose.txt")), POSE)
        return root
    writers = {
        "nyuv2": test_nyuv2.write_official,
        "voc2012": test_voc.write_voc,
        "pascal5i": test_voc.write_voc,
        "imagenet": lambda root: test_imagenet.write(root, nested=True),
        "camvid": lambda root: write_camvid(root, "val"),
        "bsds500": lambda root: write_bsds(root, "val"),
    }
    return writers[name](root)


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    roots = {name: tmp_path_factory.mktemp(name) / "root" for name in DATASETS}
    return {name: open_dataset(name, write(name, root)) for name, root in roots.items()}


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_is_a_sized_sequence_of_named_samples(data_sets, name):
    data = data_sets[name]
    samples = list(data)  # ends
    assert isinstance(data, PublicData) and len(samples) == len(data) == len(data.names) > 0
    assert len({sample.id for sample in samples}) == len(samples)
    for sample, own in zip(samples, data.names):
        assert isinstance(sample, Sample) and sample.id == f"{name}/{data.split}/{own}"
        assert (sample.dataset, sample.split) == (name, data.split) and sample.licence and sample.provenance
        frames, height, width = sample.size
        assert frames == 1 and sample.clip.dtype == torch.uint8
        for label in (sample.semantic, sample.depth, sample.boundaries, *(one.mask for one in sample.instances or [])):
            assert label is None or label.shape == (1, height, width)
        for one in sample.instances or []:
            assert data.vocabulary.classes[one.class_id] == one.class_name
    assert torch.equal(data[-1].clip, samples[-1].clip)
    for index in (len(data), -len(data) - 1):
        with pytest.raises(IndexError):
            data[index]
    assert torch.equal(data.samples([len(data) - 1, 0])[1].clip, samples[0].clip)


@pytest.mark.parametrize("name", DATASETS)
def test_data_sets_work_in_worker_processes(data_sets, name):
    copy = pickle.loads(pickle.dumps(data_sets[name]))
    assert copy[0].id == data_sets[name][0].id and torch.equal(copy[0].clip, data_sets[name][0].clip)


@pytest.mark.parametrize("name", DATASETS)
def test_errors_name_the_root_and_the_layout(tmp_path, name):
    kind = DATASETS[name]
    for root, what in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "")):
        with pytest.raises(InputError) as caught:
            open_dataset(name, root)
        assert str(root) in str(caught.value) and what in str(caught.value) and f"{name} needs " in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is no folder"):
        open_dataset(name, tmp_path / "file")
    with pytest.raises(InputError, match=rf"unknown split of {kind.dataset.replace('+', '.')} 'elsewhere'"):
        open_dataset(name, tmp_path, "elsewhere")


def test_names_and_options_are_checked(tmp_path):
    with pytest.raises(InputError, match="unknown data set 'nyu2'; did you mean 'nyuv2'"):
        open_dataset("nyu2", tmp_path)
    with pytest.raises(InputError, match="unknown option of pascal5i 'folds'; did you mean 'fold'"):
        open_dataset("pascal5i", tmp_path, folds=1)


@pytest.mark.parametrize("name", ["camvid", "bsds500", "rgbd"])
def test_whole_pictures_are_those_of_the_training_source(data_sets, name):
    """Squashed, they are what the source gives; but of their own size."""
    data = data_sets[name]
    source = open_photos(name, data.root, "validation", 24)
    for whole, square in zip(data, source.samples(range(len(data)))):
        assert whole.size == (1, 72, 96)
        expected = squash(whole.clip.permute(0, 3, 1, 2), 24)
        assert (square.rgb() - expected).abs().max() <= 2 / 127.5


def test_whole_labels_are_those_of_the_files(data_sets):
    expected = camvid_labels(1)
    assert np.array_equal(data_sets["camvid"][1].semantic[0], np.where(expected == 11, 255, expected))
    assert data_sets["bsds500"][0].boundaries[0, 5, [2, 40, 90]].tolist() == pytest.approx([0.2, 0, 1])
    sample = data_sets["rgbd"][0]
    np.testing.assert_allclose(sample.depth[0], plane_depth(unit(0.3, 0.2, 0.9)), atol=6e-4)
    torch.testing.assert_close(sample.K, torch.tensor([[80.0, 0, 48], [0, 80, 36], [0, 0, 1]]))


def test_poses_take_points_of_our_camera_to_the_world(data_sets):
    """One to the right, one up and two in front of the camera (z is towards the viewer) is seen at x + 2, y + 1, z - 1
    of the world."""
    point = torch.tensor([1.0, 1, -2, 1])
    found = data_sets["rgbd"][0].pose[0] @ point
    torch.testing.assert_close(found, torch.tensor([2.0 + 2, 3 + 1, 4 - 1, 1]))


def test_a_missing_pose_is_none_and_a_strange_one_is_named(tmp_path):
    root = write("rgbd", tmp_path / "rgbd")
    data = open_dataset("rgbd", root)
    path = data.files(0)[0]
    pose = path.with_name(path.name.replace("color.jpg", "pose.txt"))
    pose.write_text("1 0\n0 1\n")
    with pytest.raises(InputError, match=r"pose\.txt: holds \(2, 2\) numbers"):
        data[0]
    pose.unlink()
    assert data[0].pose is None


def test_files_are_asked_for_unless_told_not_to(tmp_path):
    root = write("camvid", tmp_path / "camvid")
    (root / "val/labels/001.png").unlink()
    with pytest.raises(InputError, match=r"1 of the files listed are missing, the first is .*001\.png"):
        open_dataset("camvid", root)
    assert len(open_dataset("camvid", root, complete=False)) == 3
    Image.new("L", (9, 9)).save(root / "val/labels/001.png")
    with pytest.raises(InputError, match=r"001\.png: is 9x9 but its picture 001\.png is 96x72"):
        open_dataset("camvid", root)
