"""The suite of photos on tiny data sets: which pictures it asks about, with what it compares, what it writes."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lavin.data.mixture import Episode
from lavin.data.sample import Sample
from lavin.errors import InputError
from lavin.evaluation import baselines, photos, scores
from lavin.metrics.restoration import PSNR
from lavin.tasks import REGISTRY, Definition, HeldOut, codes
from lavin.tasks.regions import ForegroundDefinition
from lavin.tasks.restoration import DenoisingDefinition, InpaintingDefinition
from tests.test_photos import HEIGHT, WIDTH, plane_depth, unit, write_camvid, write_rgbd

SIZE = 32
PAIRS = 2
ROWS = [
    "camvid/foreground",
    "camvid/semantic",
    "camvid/detection",
    "rgbd/depth",
    "rgbd/normals",
    "rgbd/depth_to_image",
    "rgbd/normals_to_image",
    "bsds500/colorization",
    "bsds500/inpainting",
    "bsds500/denoising",
    "bsds500/edges",
    "bsds500/deraining",
    "bsds500/demotionblur",
]


def write_smooth_photos(folder, split, count=4):
    for name in ("images", "boundaries"):
        (folder / split / name).mkdir(parents=True)
    for number in range(count):
        levels = np.random.default_rng((split == "val", number)).integers(0, 256, (4, 5, 3), np.uint8)
        photo = Image.fromarray(levels).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        photo.save(folder / split / "images" / f"{number}.jpg", quality=95)
        Image.new("L", (WIDTH, HEIGHT)).save(folder / split / "boundaries" / f"{number}.png")


def leave_one_bicyclist(file):
    """Of the mosaic's four tiles of 12 pixels the first: 2 % of the picture."""
    labels = np.array(Image.open(file))
    row, column = np.argwhere(labels == 10)[0]
    labels[labels == 10] = 3
    labels[row : row + 12, column : column + 12] = 10
    Image.fromarray(labels).save(file)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "val"):
        write_camvid(root / "camvid", split, count=4)
        for file in (root / "camvid" / split / "labels").iterdir():
            leave_one_bicyclist(file)
        write_smooth_photos(root / "bsds500", split)
    write_rgbd(root / "rgbd", [plane_depth(unit(0.02 * number, 0.3, 0.8)) for number in range(20)])
    return root


@pytest.fixture(scope="module")
def data_sets(data):
    return photos.open_data_sets(data, SIZE)


@pytest.fixture(scope="module")
def rows(data_sets):
    return {row.name: row for row in photos.make_rows(data_sets)}


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).parents[2] / "eval" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def draw(data_sets, row, pairs=PAIRS, seed=0, index=0, **options):
    return data_sets[row.name.split("/")[0]].of(row).draw_episode(row, pairs, seed, index, **options)


def same(first, second):
    return (
        all(map(torch.equal, first.context.clips(), second.context.clips())) and first.definition == second.definition
    )


@pytest.mark.parametrize("name", ROWS)
def test_pairs_are_of_the_training_split_and_queries_of_the_other(data_sets, rows, name):
    row, data = rows[name], data_sets[name.split("/")[0]]
    count = len(data.validation)
    episodes = [draw(data_sets, row, index=index) for index in range(count)]
    every = [part[index] for part in (data.train, data.validation) for index in range(len(part))]
    whole = {sample.id: sample.clip for sample in every}
    for episode in episodes:
        assert episode.query_sample.split == "validation"
        assert {sample.split for sample in episode.pair_samples} == {"train"}
        assert len({sample.id for sample in episode.pair_samples}) == PAIRS
        for sample in [episode.query_sample, *episode.pair_samples]:  # not augmented
            assert torch.equal(sample.clip, whole[sample.id])
    queries = [episode.query_sample.id.rsplit("/")[-1] for episode in episodes]
    assert sorted(int(number) % count for number in queries) == list(range(count))


@pytest.mark.parametrize("name", ROWS)
def test_episodes_are_functions_of_seed_row_and_index(data_sets, rows, name):
    row = rows[name]
    first = draw(data_sets, row, index=1)
    assert same(first, draw(data_sets, row, index=1))
    assert not same(first, draw(data_sets, row, index=2)) and not same(first, draw(data_sets, row, seed=1, index=1))
    longer = draw(data_sets, row, pairs=3, index=1)
    assert torch.equal(longer.query.target, first.query.target)


@pytest.mark.parametrize("name", ROWS)
def test_the_truth_scores_perfectly(data_sets, rows, name):
    row = rows[name]
    episodes = [draw(data_sets, row, index=index) for index in range(3)]
    value = scores.score(episodes, [episode.target for episode in episodes], row.metric)
    best = {"rgbd/depth": (0, 0.01), "rgbd/normals": (0, 0.5)}.get(name, (100 if row.metric is PSNR else 1, 1e-6))
    assert value == pytest.approx(best[0], abs=best[1])


def test_foreground_is_the_road(data_sets, rows):
    episode = draw(data_sets, rows["camvid/foreground"])
    assert torch.equal(episode.truth, episode.query_sample.semantic == 3)


def test_detection_asks_for_the_box_of_what_is_in_one_piece(data_sets, rows, tmp_path):
    """One tile of bicyclist has a box; classes of several tiles are still crowds, and torn ones are not asked for."""
    row = rows["camvid/detection"]
    episode = draw(data_sets, row)
    seen = episode.query_sample.semantic[0] == 10
    y, x = seen.nonzero(as_tuple=True)
    box = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    box[:, y.min() : y.max() + 1, x.min() : x.max() + 1] = True
    assert torch.equal(episode.truth, box) and 0.01 < box.float().mean() < 0.03
    crowds = [thing.class_name for thing in episode.query_sample.instances if thing.crowd]
    assert "sky" in crowds and "bicyclist" not in crowds
    for split in ("train", "val"):
        write_camvid(tmp_path / "camvid", split, count=3)
    for number in range(2):
        leave_one_bicyclist(tmp_path / f"camvid/train/labels/{number:03}.png")
    leave_one_bicyclist(tmp_path / "camvid/val/labels/001.png")
    torn = photos.open_data_sets(tmp_path, SIZE)
    assert {draw(torn, row, index=index).query_sample.id for index in range(4)} == {"camvid/validation/1"}
    with pytest.raises(InputError, match="2 training pictures fit, not 3"):
        draw(torn, row, pairs=3)


def test_semantic_draws_the_largest_classes_in_colours_of_each_context(tmp_path):
    """Areas in the training split: building 40, car 12, sky 10, tree 4, void 2, pole 3 and sign 1 of 72 rows."""
    for split in ("train", "val"):
        write_camvid(tmp_path / "camvid", split, count=1)
    labels = np.repeat(np.repeat([1, 8, 0, 5, 11, 2, 6], [40, 12, 10, 4, 2, 3, 1])[:, None], WIDTH, axis=1)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "camvid/train/labels/000.png")
    data_sets = photos.open_data_sets(tmp_path, SIZE)
    names = ["building", "car", "sky", "tree", "pole"]
    assert photos.largest_classes(data_sets["camvid"].train) == names
    held_out = HeldOut(palettes=codes.P63[::2])
    row = photos.make_row("camvid", "semantic", data_sets["camvid"], held_out)
    vocabulary = data_sets["camvid"].train.vocabulary
    definitions = [row.draw_definition(np.random.default_rng(seed), vocabulary) for seed in range(9)]
    assert {definition.classes for definition in definitions} == {("sky", "building", "pole", "tree", "car")}
    assert {definition.class_ids for definition in definitions} == {(0, 1, 2, 5, 8)}
    assert len({definition.colours for definition in definitions}) == 9
    assert not any(set(definition.colours) & set(held_out.palettes) for definition in definitions)


def test_pairs_show_every_class_of_the_query(tmp_path):
    """Only the last training picture has what the query has beside road, so each context must hold it."""
    write_camvid(tmp_path / "camvid", "train", count=6)
    write_camvid(tmp_path / "camvid", "val", count=1)
    road = np.full((HEIGHT, WIDTH), 3, np.uint8)
    tree = road.copy()
    tree[: HEIGHT // 2] = 5
    for number in range(6):
        Image.fromarray(tree if number == 5 else road).save(tmp_path / f"camvid/train/labels/{number:03}.png")
    Image.fromarray(tree).save(tmp_path / "camvid/val/labels/000.png")
    data_sets = photos.open_data_sets(tmp_path, SIZE)
    (row,) = photos.make_rows(data_sets, ["semantic"])
    for index in range(8):
        assert "camvid/train/5" in [sample.id for sample in draw(data_sets, row, index=index).pair_samples]


# --- Baselines --------------------------------------------------------------------------------------------------------


def restoration(photo, name, definition):
    """An episode that asks for a photo, float32 (3, 1, height, width) in whole levels."""
    levels = ((photo + 1) * 127.5).round().to(torch.uint8)
    sample = Sample("photo", levels.permute(1, 2, 3, 0).contiguous())
    query = REGISTRY[name].example(sample, definition, np.random.default_rng(0))
    return Episode(REGISTRY[name], definition, [], query, [], sample)


def ramp(size=48):
    """A photo that is linear in x and y."""
    y, x = torch.meshgrid(*[torch.linspace(-0.9, 0.9, size)] * 2, indexing="ij")
    return torch.stack([x, y, (x + y) / 2])[:, None]


def test_grey_copy_is_the_input():
    episode = restoration(ramp(), "colorization", Definition())
    assert torch.equal(baselines.grey_copy(episode), episode.query.input)
    assert (baselines.grey_copy(episode)[0] == baselines.grey_copy(episode)[1]).all()


def test_biharmonic_continues_a_ramp_into_the_hole_and_changes_nothing_else():
    episode = restoration(ramp(), "inpainting", InpaintingDefinition())
    hole = torch.from_numpy(baselines.hole_of(episode))
    assert hole.sum() == 24 * 24 and (episode.query.input[:, 0, hole] == -1).all()
    found = baselines.biharmonic(episode)
    assert (found - episode.target).abs().max() < 0.03  # whole levels make the ramp a staircase
    torch.testing.assert_close(found[:, 0, ~hole], episode.target[:, 0, ~hole])


def test_biharmonic_of_an_invisible_hole_is_the_input():
    episode = restoration(-torch.ones(3, 1, 32, 32), "inpainting", InpaintingDefinition())
    assert torch.equal(baselines.biharmonic(episode), episode.query.input)


def test_nl_means_removes_noise():
    episode = restoration(ramp(), "denoising", DenoisingDefinition())
    clips = episode.query.input, baselines.nl_means(episode)
    noisy, clean = (scores.score([episode], [clip], PSNR) for clip in clips)
    assert noisy == pytest.approx(20 * np.log10(255 / 25), abs=0.5)  # dB, sigma = 25
    assert clean > noisy + 6


def test_without_scikit_image_the_extra_is_named(data_sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(InputError, match=r"pip install 'lavin\[test\]'"):
        photos.make_rows(data_sets)
    assert [row.name for row in photos.make_rows(data_sets, ["depth", "edges"])] == ["rgbd/depth", "bsds500/edges"]


# --- The command ------------------------------------------------------------------------------------------------------


def test_the_command_scores_every_row(command, model, data, tmp_path, capsys):
    def run(name):
        arguments = f"--suite photos --data {data} --model {model} --queries 3 --pairs 2 --steps 4 --batch 2"
        assert command([*arguments.split(), "--out", str(tmp_path / name)]) == 0
        return (tmp_path / name).read_bytes()

    content = run("first.json")
    assert run("second.json") == content
    found = json.loads(content)
    assert [result["task"] for result in found["results"]] == ROWS
    own = {"colorization": "grey_copy", "inpainting": "biharmonic", "denoising": "nl_means"}
    own |= {"deraining": "input_copy", "demotionblur": "input_copy"}
    for result in found["results"]:
        task = result["task"].split("/")[1]
        names = ["copy_nearest", "mean_target"] + ([own[task]] if task in own else [])
        assert list(result["baselines"]) == names
        assert (result["metric"] == "PSNR") is (task in own or task.endswith("to_image"))
        assert (result["queries"], result["pairs"]) == (3, 2)
        numbers = [result["value"], *result["baselines"].values(), *result["ceilings"].values()]
        assert all(isinstance(value, float) for value in numbers)
    protocol = found["protocol"]
    assert (protocol["suite"], protocol["resolution"], protocol["model"]["name"]) == ("real", 32, "small")
    assert protocol["pictures"] == {
        "camvid": {"train": 4, "validation": 4},
        "rgbd": {"train": 16, "validation": 3},
        "bsds500": {"train": 4, "validation": 4},
    }
    assert protocol["definitions"]["foreground"] == ["road"] and len(protocol["definitions"]["semantic"]) == 5
    printed = capsys.readouterr().out
    assert "grey copy" in printed and "camvid/semantic" in printed


def test_the_bundled_model_takes_any_subset_of_the_data(command, data, tmp_path, capsys):
    shutil.copytree(data / "bsds500", tmp_path / "bsds500")
    arguments = f"--suite photos --data {tmp_path} --queries 1 --pairs 2 --steps 4 --guidance 1"
    assert command([*arguments.split(), "--out", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [result["task"] for result in found["results"]] == [name for name in ROWS if name.startswith("bsds500")]
    assert "camvid" not in found["protocol"]["pictures"] and found["protocol"]["definitions"] == "standard"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite real", "--suite real needs --data DIR"),
        ("--suite photos --data {empty}", "none of the subfolders camvid, bsds500, rgbd"),
        ("--suite photos --data {data} --tasks dept", "did you mean 'depth'?"),
        ("--suite photos --data {data} --tasks pose", "unknown task of these photos 'pose'"),
        ("--suite photos --data {data} --tasks edges --pairs 9", "4 training pictures fit, not 9; take fewer pairs"),
        ("--suite photos --data {data} --pool 9", "--pool is for --suite scenes"),
        ("--suite photos --data {data} --held-out", "--held-out is for --suite scenes"),
        ("--suite scenes --data {data}", "--data is for --suite real"),
        ("--suite photo --data {data}", "did you mean 'photos'?"),
    ],
)
def test_mistakes_are_one_line(command, model, data, tmp_path, arguments, message, capsys):
    arguments = arguments.format(data=data, empty=tmp_path).split()
    assert command([*arguments, "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_a_query_without_fitting_pictures_is_an_error(data_sets, rows):
    row = replace(rows["camvid/foreground"], draw_definition=lambda *_: ForegroundDefinition("unicorn"))
    with pytest.raises(InputError, match="none of the 4 pictures of the validation split fits"):
        draw(data_sets, row)
