"""What people look at is what models are trained on; examples of clips come back as they were drawn."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import STVAE, cli
from lavin.cli_data import LazyPool, training_contexts
from lavin.clips import write_clip
from lavin.data.mixture import Pool, draw_context
from lavin.data.scenes import Scenes
from lavin.io import draw_grid, film_strip, stack
from lavin.tasks import REGISTRY, codes
from lavin.tasks.base import Task
from lavin.training.config import PretrainConfig, load_config
from lavin.training.latents import LatentWriter, build_cache

CONFIG = """
run: {seed: 7}
scenes: {size: 32, train_scenes: 30}
tasks: {weights: {depth: 1.0, foreground: 2.0}, held_out_classes: [box], held_out_colours: [red]}
cache: {contexts: 12, pairs: 3}
train_pairs: 3
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(CONFIG)
    return load_config(PretrainConfig, "small.yaml")


def preview(*options):
    return cli.main(["data", "preview", "small.yaml", *map(str, options)])


def error(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("error: "), captured
    return lines[0]


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def levels(clip):
    return ((clip[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


# --- Preview ----------------------------------------------------------------------------------------------------------


def test_the_contexts_shown_are_those_of_the_training_cache(config):
    """Encoded, they are its first latents of every task."""
    torch.manual_seed(0)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).eval()
    pool = Pool(Scenes("train", size=32), range(30))
    cache = build_cache(stvae, pool, config.tasks, config.cache.contexts, config.cache.pairs, config.run.seed)
    shown = list(training_contexts(config, rows=2, seed=config.run.seed))
    assert [name for name, _ in shown] == ["depth", "depth", "foreground", "foreground"]
    for task, name in enumerate(cache.tasks):
        numbers = (cache.task_ids == task).nonzero().flatten().tolist()
        episodes = [episode for found, episode in shown if found == name]
        assert len(numbers) >= 2
        for number, episode in zip(numbers[:2], episodes, strict=True):
            inputs, targets = LatentWriter(stvae).encode_episodes([episode])
            torch.testing.assert_close(inputs[0], cache.inputs[number], atol=2e-3, rtol=0)  # float16, other batches
            torch.testing.assert_close(targets[0], cache.targets[number], atol=2e-3, rtol=0)
            assert episode.definition.to_dict().get("class_name") != "box"


def test_a_row_a_task_is_drawn_with_the_query_at_the_right(config, capsys):
    assert preview("--out", "grid.png") == 0
    assert capsys.readouterr().out == "grid.png\n"
    picture = pixels("grid.png")
    gap, side = 4, 128
    block = 2 * side + 3 * gap
    assert picture.shape[0] == 2 * block
    shown = [episode for _, episode in training_contexts(config, rows=1, seed=7)]
    for row, episode in enumerate(shown):
        right = picture[row * block : (row + 1) * block, -gap - side : -gap]
        for half, clip in enumerate(episode.query):
            cell = right[gap + half * (side + gap) :][:side]
            np.testing.assert_array_equal(cell, levels(clip).repeat(4, 0).repeat(4, 1))
    margin = picture.shape[1] - (3 * (side + gap) + gap + 16)
    for row in range(2):  # the task's name stands beside its row
        assert 20 < (picture[row * block : (row + 1) * block, :margin] < 128).sum() < 3000


def test_seeds_rows_and_overrides(config, capsys):
    for name, options in {
        "a": (),
        "b": (),
        "seed": ("--seed", 8),
        "run": ("run.seed=8",),
        "rows": ("--rows", 2),
        "pairs": ("train_pairs=2",),
    }.items():
        assert preview("--out", f"{name}.png", *options) == 0
    np.testing.assert_array_equal(pixels("a.png"), pixels("b.png"))
    np.testing.assert_array_equal(pixels("seed.png"), pixels("run.png"))
    assert (pixels("a.png") != pixels("seed.png")).any()
    assert pixels("rows.png").shape[0] == 2 * pixels("a.png").shape[0]
    assert pixels("pairs.png").shape[1] == pixels("a.png").shape[1] - 132
    assert capsys.readouterr().err == ""


def test_a_task_with_too_few_contexts_is_said(config, capsys):
    assert preview("--out", "grid.png", "cache.contexts=1") == 0
    (note,) = capsys.readouterr().err.splitlines()
    assert note.endswith("has 0 of the cache's 1 contexts; more are drawn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "mine.png"], "output exists: mine.png; give another --out or --force"),
        (["--out", "grid.jpg"], "give a name that ends in .png"),
        (["scenes.sise=3"], "unknown key 'scenes.sise'; did you mean 'scenes.size'?"),
        (["tasks.weights.dept=1"], "tasks.weights: unknown task 'dept'; did you mean 'depth'?"),
        (["scenes.train_scenes=2"], "no definition fits 3 of the 2 samples; training on this configuration would stop"),
        (["--rows", "0"], "--rows"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(config, capsys, options, message):
    Image.new("RGB", (1, 1)).save("mine.png")
    assert preview(*options) == 2
    assert message in error(capsys)
    assert pixels("mine.png").shape == (1, 1, 3)


def test_a_missing_config_is_named_and_force_overwrites(config, capsys):
    assert cli.main(["data", "preview", "gone.yaml"]) == 2
    assert "config gone.yaml: no such file" in error(capsys)
    Image.new("RGB", (1, 1)).save("mine.png")
    assert preview("--out", "mine.png", "--force") == 0
    assert pixels("mine.png").shape[0] > 100


def test_a_lazy_pool_has_the_samples_of_an_eager_one_and_makes_each_once():
    eager, lazy = Pool(Scenes("train", size=32), range(4)), LazyPool(Scenes("train", size=32), 4)
    assert len(lazy) == 4 and lazy.vocabulary == eager.vocabulary
    for index in (2, np.int64(0)):
        assert torch.equal(lazy[index].clip, eager[index].clip) and lazy[index] is lazy[int(index)]


def test_a_stack_is_its_pictures_one_below_the_other():
    one, two = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (50, 10), "blue")
    array = np.asarray(stack([one, two]))
    assert array.shape == (30, 50, 3)
    assert (array[:20, :30] == [255, 0, 0]).all() and (array[20:] == [0, 0, 255]).all()
    assert (array[:20, 30:] == 255).all()
    grid = draw_grid([(one, one)], 1)
    np.testing.assert_array_equal(np.asarray(stack([grid])), np.asarray(grid))


# --- Examples of clips ------------------------------------------------------------------------------------------------


class Rewind(Task):
    """The clip backwards: a task of clips whose truth is plain to see."""

    name = "rewind"
    description = "the clip backwards, last frame first"
    clips = True

    def label(self, sample, definition):
        return sample.rgb().flip(1)

    def paint(self, label, definition):
        return label

    def read(self, clip, definition):
        return clip

    def metric(self):
        raise AssertionError("nothing is scored here")


@pytest.fixture
def rewind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(REGISTRY, "rewind", Rewind())


def read_clip(path):
    av = pytest.importorskip("av")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return np.stack(frames), float(container.streams.video[0].average_rate)


def test_examples_of_clips_are_mp4_of_the_exact_colours(rewind, tmp_path):
    pytest.importorskip("av")
    options = ["--size", "32", "--frames", "5", "--pairs", "2"]
    assert cli.main(["examples", "e", "--task", "rewind", "--task", "depth", *options]) == 0
    names = sorted(path.name for path in (tmp_path / "e/rewind").iterdir())
    assert names[:3] == ["query.mp4", "query_target.mp4", "scene01_input.mp4"] and len(names) == 6
    assert (tmp_path / "e/depth/query.png").is_file()
    pool = LazyPool(Scenes("validation", size=32, frames=5), 96)
    episode = draw_context(pool, REGISTRY["rewind"], 2, np.random.default_rng(0), evaluation=True)
    for name, clip in {"query": episode.query.input, "scene02_target": episode.pairs[1].target}.items():
        frames, fps = read_clip(f"e/rewind/{name}.mp4")
        np.testing.assert_array_equal(frames, codes.levels_from_clip(clip).round().byte().permute(1, 2, 3, 0).numpy())
        assert fps == episode.query_sample.fps
    forwards, backwards = read_clip("e/rewind/query.mp4")[0], read_clip("e/rewind/query_target.mp4")[0]
    np.testing.assert_array_equal(forwards[::-1], backwards)


def test_existing_clips_are_kept(rewind, tmp_path, capsys):
    pytest.importorskip("av")
    (tmp_path / "e/rewind").mkdir(parents=True)
    (tmp_path / "e/rewind/query.mp4").write_bytes(b"mine")
    assert cli.main(["examples", "e", "--task", "rewind", "--size", "32"]) == 2
    assert "output exists: e/rewind/query.mp4" in error(capsys)


def test_without_pyav_clips_are_an_error_or_left_out_and_said(rewind, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for name in [name for name in REGISTRY if name not in ("rewind", "depth")]:
        monkeypatch.delitem(REGISTRY, name)
    assert cli.main(["examples", "e", "--task", "rewind"]) == 2
    assert error(capsys) == (
        "error: --task rewind: clips are read and written with PyAV, which is not installed: pip install 'lavin[video]'"
    )
    assert cli.main(["examples", "e", "--size", "32"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "e/depth\n" and "note: left out rewind: clips are read and written with PyAV" in captured.err
    with pytest.raises(ValueError, match=r"x\.mp4: clips are read and written with PyAV"):
        write_clip("x.mp4", [Image.new("RGB", (4, 4))], 12)


def test_frames_that_no_clip_has_are_refused(rewind, capsys):
    assert cli.main(["examples", "e", "--frames", "12"]) == 2
    assert "--frames 12: a clip has 1 + 4k frames; take 9" in error(capsys)


def test_of_a_clip_the_preview_shows_first_middle_and_last_frame():
    frames = [Image.new("RGB", (8, 6), (10 * number, 0, 0)) for number in range(5)]
    strip = np.asarray(film_strip(frames, 16))
    assert strip.shape == (36, 16, 3) and strip[::12, 0, 0].tolist() == [0, 20, 40]
    np.testing.assert_array_equal(film_strip(frames[3:4], 16), film_strip(frames[3], 16))
    assert film_strip(None, 16) is None


def test_examples_in_prefix_mode_follow_each_other(tmp_path, monkeypatch, capsys):
    """Pairs and query, put together, are one clip of a scene."""
    pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    options = ["--task", "video_depth", "--prefix", "--frames", "5", "--pairs", "2", "--size", "32"]
    assert cli.main(["examples", "e", *options]) == 0
    names = ("scene01_input", "scene02_input", "query")
    shown = np.concatenate([read_clip(f"e/video_depth/{name}.mp4")[0] for name in names])
    scenes = Scenes("validation", size=32, frames=17)
    assert any(np.array_equal(shown, scenes[number].clip[:15].numpy()) for number in range(96))
    capsys.readouterr()
    assert cli.main(["examples", "e", "--task", "depth", "--prefix"]) == 2
    assert "--prefix: pairs of task 'depth' cannot be parts of the query's clip" in error(capsys)
