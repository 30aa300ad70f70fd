"""Tiny data sets are written in each format, so that what a sample should be is known without the code under test."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lavin.data.depth import normals_from_depth
from lavin.data.mixture import Pool, draw_context
from lavin.data.photos import KINDS, CamVid, open_photos
from lavin.errors import InputError
from lavin.pictures import squash
from lavin.tasks.regions import ForegroundDefinition, InstanceDefinition

WIDTH, HEIGHT = 96, 72
FOCAL = 80.0
PALETTE = np.random.default_rng(3).permutation(216)[:12]
PALETTE = np.stack([PALETTE // 36, PALETTE // 6 % 6, PALETTE % 6], -1).astype(np.uint8) * 51  # 12 colours far apart


def camvid_labels(number):
    """A mosaic of 12 x 12 pixel tiles of all 12 classes."""
    tiles = np.random.default_rng(number).permutation(np.arange(48) % 12).reshape(HEIGHT // 12, WIDTH // 12)
    return np.kron(tiles, np.ones((12, 12))).astype(np.uint8)


def write_camvid(folder, split="train", count=3):
    """The picture of every label is its classes in ``PALETTE``."""
    for name in ("images", "labels"):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        labels = camvid_labels(number)
        Image.fromarray(labels).save(folder / split / "labels" / f"{number:03}.png")
        Image.fromarray(PALETTE[labels]).save(folder / split / "images" / f"{number:03}.png")
    return folder


def write_bsds(folder, split="train"):
    for name in ("images", "boundaries"):
        (folder / split / name).mkdir(parents=True, exist_ok=True)
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    levels[:, WIDTH // 2 :] = 255
    levels[:, : WIDTH // 4] = 51
    Image.fromarray(np.repeat(levels[..., None], 3, axis=2)).save(folder / split / "images" / "a.jpg", quality=100)
    Image.fromarray(levels).save(folder / split / "boundaries" / "a.png")
    return folder


def plane_depth(normal, distance=1.5, scale=1):
    """Planar depth in metres of the plane whose unit normal is (x right, y up, z to the viewer)."""
    height, width, focal = HEIGHT * scale, WIDTH * scale, FOCAL * scale
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([(x - width / 2) / focal, -(y - height / 2) / focal, -np.ones_like(x)], -1)
    return -distance / (rays @ normal)


def unit(*vector):
    return np.array(vector) / np.linalg.norm(vector)


def write_rgbd(folder, depths):
    """Frames whose red level is their number."""
    (folder / "train").mkdir(parents=True)
    np.savetxt(folder / "camera-intrinsics.txt", [[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
    for number, depth in enumerate(depths):
        stem = folder / "train" / f"frame-{5 * number:06}"
        Image.new("RGB", (WIDTH, HEIGHT), (number, 128, 128)).save(f"{stem}.color.jpg", quality=100)
        Image.fromarray((depth * 1000).round().astype(np.uint16)).save(f"{stem}.depth.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind -> a folder with both splits."""
    root = tmp_path_factory.mktemp("photos")
    for split in ("train", "val"):
        write_camvid(root / "camvid", split)
        write_bsds(root / "bsds500", split)
    write_rgbd(root / "rgbd", [plane_depth(unit(0.3, 0.2, 0.9))] * 20)
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_samples_are_squares_of_one_frame_with_names_of_their_own(folders, kind, split):
    source = open_photos(kind, folders[kind], split, 40)
    samples = source.samples(range(3 * len(source)))
    assert all(sample.clip.shape == (1, 40, 40, 3) and sample.clip.dtype == torch.uint8 for sample in samples)
    assert len({sample.id for sample in samples}) == len(samples)
    assert {(sample.dataset, sample.split) for sample in samples} == {(kind, split)}


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_is_a_function_of_seed_and_index(folders, kind):
    first, second, other = (open_photos(kind, folders[kind], "train", 32, seed=seed) for seed in (1, 1, 2))
    second[0]  # what was asked for before makes no difference
    a, b = first.samples([5, 17]), second.samples([17, 5])
    assert torch.equal(a[0].clip, b[1].clip) and torch.equal(a[1].clip, b[0].clip)
    seen = torch.stack([sample.semantic if kind == "camvid" else sample.clip for sample in other.samples(range(20))])
    if kind != "rgbd":  # its pictures have one colour
        mine = [sample.semantic if kind == "camvid" else sample.clip for sample in first.samples(range(20))]
        assert not torch.equal(seen, torch.stack(mine))
        assert not torch.equal(mine[0], mine[len(first)])  # the same picture, another crop


@pytest.mark.parametrize("kind", KINDS)
def test_validation_is_the_whole_picture_squashed_as_the_pipeline_does(folders, kind):
    source = open_photos(kind, folders[kind], "validation", 24)
    picture, _ = source.files[0]
    levels = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None]
    expected = squash(levels, 24)
    assert (source[0].rgb() - expected).abs().max() <= 2 / 127.5
    assert torch.equal(source[0].clip, source[len(source)].clip)
    plain = open_photos(kind, folders[kind], "train", 24, augment=False)
    assert torch.equal(plain[0].clip, plain[len(plain)].clip)


@pytest.mark.parametrize("shape", [(72, 96), (96, 72), (321, 481), (481, 321), (100, 100), (40, 200), (200, 40)])
def test_crops_are_at_least_half_and_not_too_oblong(tmp_path, shape):
    """Corner coordinates are painted into the picture, so that a crop tells where it was."""
    height, width = shape
    y, x = np.mgrid[:height, :width]
    places = np.stack([y, x, np.zeros_like(x)], -1) / max(shape) * 255
    for name in ("images", "labels"):
        (tmp_path / "train" / name).mkdir(parents=True)
    Image.fromarray(places.astype(np.uint8)).save(tmp_path / "train/images/a.png")
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "train/labels/a.png")
    clips = torch.stack([sample.clip[0] for sample in CamVid(tmp_path, "train", 64).samples(range(200))]).float()
    tall, wide = ((clips[..., i].amax((1, 2)) - clips[..., i].amin((1, 2))) * max(shape) / 255 for i in range(2))
    blur = 0.03 * max(shape)  # of the levels, and of the first and last pixel of the square
    for side, length in ((tall, height), (wide, width)):
        assert side.min() >= length / 2 - blur and side.max() <= length + blur
    longest = max(shape) / min(shape)
    allowed = max(4 / 3, longest / 2)  # half of the long side and all of the short one
    assert ((wide - blur) / tall).max() <= allowed and ((tall - blur) / wide).max() <= allowed
    if longest < 2:
        assert tall.std() > 0.05 * height and wide.std() > 0.05 * width


def test_labels_follow_the_crop_of_their_picture(folders):
    source = CamVid(folders["camvid"], "train", 64)
    for sample in source.samples(range(12)):
        classes = sample.semantic[0].long()
        painted = torch.from_numpy(PALETTE.astype(int))[torch.where(classes == 255, 11, classes)]
        near = (sample.clip[0].long() - painted).abs().amax(-1) <= 40
        assert near.float().mean() > 0.75  # all but the seams between tiles, which bicubic blurs
        mirrored = (sample.clip[0].long() - painted.flip(1)).abs().amax(-1) <= 40
        assert mirrored.float().mean() < 0.5


def test_half_of_the_crops_are_mirrored(folders):
    """The picture is brighter to the right; a mirrored crop to the left."""
    samples = open_photos("bsds500", folders["bsds500"], "train", 16).samples(range(400))
    slope = torch.tensor(
        [float(s.clip[..., 8:, :].float().mean() - s.clip[..., :8, :].float().mean()) for s in samples]
    )
    assert 0.4 < (slope < 0).float().mean() < 0.6


def test_camvid_marks_void_and_gives_whole_classes_as_crowds(folders):
    source = CamVid(folders["camvid"], "validation", 48)
    sample = source[1]
    assert source.vocabulary.things[3] == "road" and len(source.vocabulary.classes) == 11
    rows, columns = ((np.arange(48) + 0.5) * side / 48 for side in (HEIGHT, WIDTH))
    expected = camvid_labels(1)[rows.astype(int)][:, columns.astype(int)]
    assert np.array_equal(sample.semantic[0].numpy(), np.where(expected == 11, 255, expected))
    assert [one.class_id for one in sample.instances] == list(range(11))
    for one in sample.instances:
        assert torch.equal(one.mask, sample.semantic == one.class_id) and one.crowd and one.is_thing
        y, x = one.mask[0].nonzero(as_tuple=True)
        assert one.box.tolist() == [[x.min(), y.min(), x.max() + 1, y.max() + 1]]


def test_camvid_serves_foreground_but_nothing_that_counts_objects(folders):
    pool = Pool(CamVid(folders["camvid"], "train", 48), range(8))
    rng = np.random.default_rng(0)
    episode = draw_context(pool, "foreground", 2, rng, definition=ForegroundDefinition("road"))
    assert torch.equal(episode.truth, episode.query_sample.semantic == 3)
    assert InstanceDefinition().single(pool[0]) == []
    for task in ("instance", "detection", "referring"):
        with pytest.raises(ValueError, match="no definition fits"):
            draw_context(pool, task, 2, rng)


def test_bsds_boundaries_are_shares_that_follow_the_picture(folders):
    source = open_photos("bsds500", folders["bsds500"], "validation", 32)
    boundaries = source[0].boundaries[0]
    assert boundaries.shape == (32, 32) and boundaries.dtype == torch.float32
    torch.testing.assert_close(boundaries[:, [2, 12, 28]], torch.tensor([0.2, 0, 1]).expand(32, 3))
    for sample in open_photos("bsds500", folders["bsds500"], "train", 32).samples(range(6)):
        grey = sample.clip[0, ..., 0].float() / 255
        assert (grey - sample.boundaries[0]).abs().median() < 0.02


def rgbd(tmp_path, depth, **options):
    """Source of frames that all have this depth."""
    return open_photos(
        "rgbd", write_rgbd(tmp_path / "rgbd", [depth] * 7), options.pop("split", "validation"), **options
    )


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.5, 0, 0.8), (0, 0.7, 0.7), (-0.4, -0.3, 0.8)])
def test_normals_of_a_plane_are_its_own(normal):
    """Within 2 degrees, at the border and beside a hole too, with a depth camera's noise."""
    depth = plane_depth(unit(*normal), scale=4)
    depth *= np.random.default_rng(0).normal(1, 0.001, depth.shape)
    depth[120:160, 200:240] = np.nan
    K = np.array([[4 * FOCAL, 0, 2 * WIDTH], [0, 4 * FOCAL, 2 * HEIGHT], [0, 0, 1]])
    normals = normals_from_depth(depth.astype(np.float32), K)
    known = normals.any(-1)
    assert known.mean() > 0.95 and not known[120:160, 200:240].any()
    np.testing.assert_allclose(np.linalg.norm(normals[known], axis=-1), 1, atol=1e-5)
    angle_deg = np.degrees(np.arccos((normals[known] @ unit(*normal)).clip(-1, 1)))
    assert np.median(angle_deg) < 1 and np.quantile(angle_deg, 0.99) < 2


def test_a_mirrored_crop_mirrors_normals_depth_and_camera(tmp_path):
    """Back-projected by the sample's own K, the points of any crop lie on the plane or its mirror image."""
    normal, distance = unit(0.5, 0.2, 0.8), 1.5
    source = rgbd(tmp_path, plane_depth(normal, distance), split="train", size=48)
    signs = set()
    for sample in source.samples(range(16)):
        sign = 1 if sample.normals[0].mean() > 0 else -1
        signs.add(sign)
        plane = normal * [sign, 1, 1]
        found = sample.normals.mean((1, 2, 3)).numpy()
        assert found @ plane / np.linalg.norm(found) > np.cos(np.radians(1))
        K, depth = sample.K.double().numpy(), sample.depth[0].double().numpy()
        y, x = np.mgrid[:48, :48] + 0.5
        points = np.stack([(x - K[0, 2]) / K[0, 0] * depth, -(y - K[1, 2]) / K[1, 1] * depth, -depth], -1)
        assert np.abs(points @ plane + distance).max() < 0.02  # nearest pixels are up to a pixel off
    assert signs == {1, -1}


def test_unknown_depth_is_nan_and_its_normals_zero(tmp_path):
    depth = plane_depth(unit(0, 0, 1))
    depth[20:40, 30:50] = 0
    depth[50:60, 60:80] = 65.535
    sample = rgbd(tmp_path, depth, size=HEIGHT)[0]
    columns = ((np.arange(HEIGHT) + 0.5) * WIDTH / HEIGHT).astype(int)
    unknown = torch.from_numpy(((depth == 0) | (depth > 65))[:, columns])
    assert torch.equal(sample.depth[0].isnan(), unknown)
    assert torch.allclose(sample.depth[0][~unknown], torch.tensor(1.5)) and sample.depth_kind == "metric_z"
    assert not sample.normals[:, 0][:, unknown].any()
    assert sample.normals[2].mean() > 0.8


def test_normals_across_a_jump_of_depth_are_unknown(tmp_path):
    """Two walls that face the camera: nothing between them is a slope."""
    depth = np.full((HEIGHT, WIDTH), 1.0)
    depth[:, WIDTH // 2 :] = 1.1
    normals = rgbd(tmp_path, depth, size=HEIGHT)[0].normals[:, 0]
    known = normals.any(0)
    assert not known[:, HEIGHT // 2 - 1 : HEIGHT // 2 + 1].any()
    assert known[:, : HEIGHT // 2 - 4].all() and known[:, HEIGHT // 2 + 4 :].all()
    assert normals[2][known].min() > np.cos(np.radians(3))


@pytest.mark.parametrize(("frames", "train", "validation"), [(20, 16, 3), (7, 5, 1), (160, 128, 24)])
def test_a_videos_splits_share_no_frame_and_leave_a_gap(tmp_path, frames, train, validation):
    folder = write_rgbd(tmp_path / "rgbd", [np.ones((HEIGHT, WIDTH))] * frames)
    names = [
        [picture.name for picture, _ in open_photos("rgbd", folder, split, 16).files]
        for split in ("train", "validation")
    ]
    everything = sorted(path.name for path in (folder / "train").glob("*.color.jpg"))
    assert names == [everything[:train], everything[-validation:]]
    assert train + validation < frames


@pytest.mark.parametrize("kind", KINDS)
def test_sources_work_in_worker_processes(folders, kind):
    source = open_photos(kind, folders[kind], "train", 24)
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[3].clip, source[3].clip)
    loader = DataLoader(range(6), num_workers=2, collate_fn=source.samples, batch_size=3)
    clips = [sample.clip for batch in loader for sample in batch]
    assert all(torch.equal(clip, source[index].clip) for index, clip in enumerate(clips))


def test_unknown_names_are_refused_with_the_nearest(folders):
    with pytest.raises(InputError, match="unknown kind of photos 'camvit'; did you mean 'camvid'"):
        open_photos("camvit", folders["camvid"], "train", 32)
    with pytest.raises(InputError, match="unknown split 'valid'; did you mean 'validation'"):
        open_photos("camvid", folders["camvid"], "valid", 32)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_folder_is_named(tmp_path, kind):
    with pytest.raises(InputError, match="nowhere"):
        open_photos(kind, tmp_path / "nowhere", "train", 32)


def test_an_empty_folder_has_no_pictures(tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="images: no pictures"):
        open_photos("camvid", tmp_path, "train", 32)
    write_rgbd(tmp_path / "short", [np.ones((HEIGHT, WIDTH))] * 6)
    with pytest.raises(InputError, match="6 frames"):
        open_photos("rgbd", tmp_path / "short", "train", 32)


def test_a_missing_label_is_named(tmp_path):
    folder = write_camvid(tmp_path)
    (folder / "train/labels/001.png").unlink()
    with pytest.raises(InputError, match=r"labels.001\.png: no such file; it is the label of 001\.png"):
        open_photos("camvid", folder, "train", 32)


def test_a_label_of_another_size_is_named(tmp_path):
    folder = write_camvid(tmp_path)
    Image.new("L", (95, HEIGHT)).save(folder / "train/labels/002.png")
    with pytest.raises(InputError, match=r"labels.002\.png: is 95x72 but its picture 002\.png is 96x72"):
        open_photos("camvid", folder, "train", 32)


def test_damaged_and_strange_files_are_named(tmp_path):
    folder = write_camvid(tmp_path, count=4)
    whole = (folder / "train/labels/000.png").read_bytes()
    (folder / "train/labels/000.png").write_bytes(whole[: len(whole) - 30])
    Image.fromarray(camvid_labels(1) + 9).save(folder / "train/labels/001.png")
    Image.fromarray(PALETTE[camvid_labels(2)]).save(folder / "train/labels/002.png")
    source = open_photos("camvid", folder, "train", 32)
    for index, message in enumerate([r"000\.png: damaged", r"001\.png: class index", r"002\.png: .* one channel"]):
        with pytest.raises(InputError, match=message):
            source[index]
    (folder / "train/images/003.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"003\.png: not an image"):
        open_photos("camvid", folder, "train", 32)


@pytest.mark.parametrize("content", ["no numbers", "1 0\n0 1"])
def test_strange_intrinsics_are_named(tmp_path, content):
    folder = write_rgbd(tmp_path / "rgbd", [np.ones((HEIGHT, WIDTH))] * 7)
    (folder / "camera-intrinsics.txt").write_text(content)
    with pytest.raises(InputError, match=r"camera-intrinsics\.txt: "):
        open_photos("rgbd", folder, "train", 32)
