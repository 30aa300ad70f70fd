"""The suite of scenes: its scores are right on known predictions, its episodes repeat, its report can be read."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lavin.data.mixture import Pool
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.evaluation import baselines, report, scenes, scores
from lavin.tasks import REGISTRY, HeldOut
from tests.evaluation.small import SIZE, make_pipeline

SETTINGS = scenes.Settings(queries=3, pairs=2, steps=4, pool=48, batch=2)
HELD_OUT = {"held_out_classes": ["torus"], "held_out_colours": ["orange"], "held_out_palettes": [[255, 85, 170]]}


@pytest.fixture(scope="module")
def pool():
    return Pool(Scenes("validation", size=SIZE), range(SETTINGS.pool))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_pipeline().save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(HELD_OUT))
    return folder


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).parents[2] / "eval" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def episodes_of(pool, name, pairs=SETTINGS.pairs, queries=SETTINGS.queries):
    return [scenes.draw_episode(pool, scenes.Row(name, REGISTRY[name]), pairs, 0, index) for index in range(queries)]


FLOORS = {"depth": 0.03, "normals": 0.5, "video_depth": 0.03, "video_normals": 0.5, "optical_flow": 0.05, "pose": 0.6}
"""Error of the code itself: disparity, normals and flow are drawn with 8 bits, and joints, 4 pixels wide in a picture
of 32, hide each other."""


@pytest.mark.parametrize("name", sorted(name for name in REGISTRY if name != "referring_caption"))
def test_the_truth_scores_perfectly(pool, name):
    task = REGISTRY[name]
    if task.clips or task.people:
        pool = scenes.make_pool(task, SIZE, 8)
    episodes = episodes_of(pool, name)
    task = REGISTRY[name]
    value = scores.score(episodes, [episode.target for episode in episodes])
    assert scores.error(task.metric_name, value, task.metric().higher_is_better) <= FLOORS.get(name, 1e-6)


def test_baselines_equal_a_loop_over_pixels(pool):
    (episode,) = episodes_of(pool, "normals", pairs=3, queries=1)
    query = episode.query.input.double().numpy()
    differences, mean = [], np.zeros(query.shape)
    for pair in episode.pairs:
        squares = [(a - b) ** 2 for a, b in zip(pair.input.double().numpy().flat, query.flat, strict=True)]
        differences.append(sum(squares) / len(squares))
        mean += pair.target.double().numpy() / 3
    nearest = episode.pairs[int(np.argmin(differences))].target
    assert torch.equal(baselines.copy_nearest(episode), nearest)
    np.testing.assert_allclose(baselines.mean_target(episode).numpy(), mean, atol=1e-6)  # float32 means


@pytest.mark.parametrize(
    ("metric", "value", "higher", "others", "expected"),
    [
        ("IoU", 0.8, True, (0.5, 0.2), 0.6),  # errors 0.2 against 0.5
        ("AbsRel", 0.06, False, (0.1, 0.08), 0.25),
        ("mean angle", 30.0, False, (20.0, 40.0), -0.5),  # worse than the better baseline
        ("PSNR", 20.0, True, (10.0, 5.0), 0.9),  # MSE 0.01 against 0.1
    ],
)
def test_error_reduction_by_hand(metric, value, higher, others, expected):
    named = dict(zip(baselines.BASELINES, others, strict=True))
    assert scores.error_reduction(metric, value, higher, named) == pytest.approx(expected)


def test_a_perfect_baseline_leaves_nothing_to_reduce():
    assert math.isnan(scores.error_reduction("IoU", 1.0, True, {"copy_nearest": 1.0, "mean_target": 0.5}))


def test_episodes_are_functions_of_seed_row_and_index(pool):
    row = scenes.Row("inpainting", REGISTRY["inpainting"])
    first, again = (scenes.draw_episode(pool, row, 2, 0, 1) for _ in range(2))
    for clip, same in zip(first.context.clips(), again.context.clips(), strict=True):
        assert torch.equal(clip, same)
    for seed, index in ((1, 1), (0, 0)):
        assert not torch.equal(scenes.draw_episode(pool, row, 2, seed, index).query.input, first.query.input)
    longer = scenes.draw_episode(pool, row, 3, 0, 1)
    assert torch.equal(longer.query.target, first.query.target)


def test_ordinary_rows_leave_the_held_out_to_rows_of_their_own(pool):
    held_out = HeldOut(("torus",), ("orange",), ((255, 85, 170),))
    row = scenes.Row("foreground", REGISTRY["foreground"])
    drawn = [scenes.draw_episode(pool, row, 1, 0, index, held_out).definition for index in range(20)]
    assert all(d.class_name != "torus" and d.colour != "orange" for d in drawn)
    rows = {row.name: row for row in scenes.held_out_rows(held_out, "model")}
    definitions = {name: scenes.draw_episode(pool, row, 1, 0, 0, held_out).definition for name, row in rows.items()}
    assert definitions["foreground/held_out_class"].class_name == "torus"
    assert definitions["foreground/held_out_colour"].colour == "orange"
    palette = definitions["foreground/held_out_palette"]
    assert palette.foreground_rgb == (255, 85, 170)
    assert palette.class_name not in (None, "torus")


def test_two_unseen_colours_make_a_scheme_of_their_own():
    pink, green, similar = (255, 85, 170), (0, 170, 85), (255, 85, 85)
    assert scenes.unseen_schemes([pink, green]) == [(pink, green), (green, pink)]
    assert scenes.unseen_schemes([pink, similar]) == [(pink, (0, 0, 0)), (similar, (0, 0, 0))]


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_a_batch_of_contexts_predicts_what_the_pipeline_does_one_by_one(pool, attention):
    pipeline = make_pipeline(attention)
    episodes = episodes_of(pool, "depth", queries=2)

    def generator(index):
        return scenes.noise_generator(0, "depth", index)

    together = scenes.predict(pipeline, episodes, [generator(0), generator(1)], SETTINGS)
    for index, (episode, clip) in enumerate(zip(episodes, together, strict=True)):
        alone = pipeline(
            episode.pairs,
            episode.query.input,
            SETTINGS.steps,
            generator=generator(index),
            output_type="pt",
            speed="exact",
        )
        torch.testing.assert_close(clip, alone.images[0], atol=1e-4, rtol=0)  # float32, three steps and the decoder


def test_following_the_context_is_being_closer_to_the_task_shown(pool, monkeypatch):
    """A model that always draws depth follows its context when depth is shown, and never when normals are."""

    def draw_depth(pipeline, episodes, generators, settings):
        depth = REGISTRY["depth"]
        definition = depth.draw_definition(np.random.default_rng(0), pool.vocabulary, evaluation=True)
        return [depth.paint(depth.label(episode.query_sample, definition), definition) for episode in episodes]

    monkeypatch.setattr(scenes, "predict", draw_depth)
    pipeline = make_pipeline()
    assert scenes.follows_context(pipeline, pool, "depth", "normals", SETTINGS) == 1
    assert scenes.follows_context(pipeline, pool, "normals", "depth", SETTINGS) == 0
    with pytest.raises(InputError, match="different inputs"):
        scenes.follows_context(pipeline, pool, "depth", "colorization", SETTINGS)


def test_the_command_writes_the_same_report_twice(command, model, tmp_path, capsys):
    def run(name):
        arguments = f"--suite scenes --model {model} --tasks foreground,depth --held-out --queries 2 --pairs 2"
        code = command([*arguments.split(), "--steps", "4", "--pool", "48", "--out", str(tmp_path / name)])
        assert code == 0
        return (tmp_path / name).read_bytes()

    content = run("first.json")
    assert run("second.json") == content
    found = json.loads(content)
    assert [result["task"] for result in found["results"]] == [
        "foreground",
        "depth",
        "foreground/held_out_class",
        "foreground/held_out_colour",
        "foreground/held_out_palette",
    ]
    for result in found["results"]:
        assert result["queries"] == 2
        assert result["pairs"] == 2
        assert set(result["baselines"]) == {"copy_nearest", "mean_target"}
        assert result["higher_is_better"] is (result["metric"] == "IoU")
        numbers = [result["value"], *result["baselines"].values(), *result["ceilings"].values()]
        assert all(isinstance(value, float) for value in numbers)
        assert result["error_reduction"] < 1  # random weights
    protocol = found["protocol"]
    assert (protocol["suite"], protocol["split"], protocol["resolution"]) == ("scenes", "validation", SIZE)
    assert protocol["model"]["name"] == "small"
    assert protocol["held_out"]["classes"] == ["torus"]
    assert "held_out_palette" in capsys.readouterr().out


def test_a_number_that_does_not_exist_is_null():
    assert report.tidy({"value": math.nan, "baselines": {"mean_target": 0.123456789}}) == {
        "value": None,
        "baselines": {"mean_target": 0.123457},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--suite scenes --tasks dept", "did you mean 'depth'?"),
        ("--suite scene", "did you mean 'scenes'?"),
        ("--suite scenes --queries 0", "queries is 0; it must be at least 1"),
        ("--suite scenes --pairs 60 --pool 48", "need at least 61 scenes"),
        ("--suite scenes --steps 5", "even number of points"),
        ("--suite scenes --dtype float16", "unknown dtype 'float16'"),
    ],
)
def test_mistakes_are_one_line(command, model, arguments, message, capsys):
    assert command([*arguments.split(), "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_an_existing_report_is_kept(command, model, tmp_path, capsys):
    out = tmp_path / "report.json"
    out.write_text("mine")
    assert command(["--suite", "scenes", "--model", str(model), "--out", str(out)]) == 2
    assert out.read_text() == "mine"
    assert "--force" in capsys.readouterr().err


def test_tasks_kept_out_of_training_are_read_from_the_models_record(tmp_path):
    assert scenes.unseen_tasks(tmp_path) == []
    record = {"config": {"tasks": {"weights": {"depth": 1.0}, "held_out_tasks": ["deraining", "edge_detection"]}}}
    (tmp_path / "training.json").write_text(json.dumps(record))
    assert scenes.unseen_tasks(tmp_path) == ["deraining", "edges"]
    assert scenes.trained_tasks(tmp_path) == ["depth"]


def test_held_out_rows_need_the_models_record(tmp_path):
    assert scenes.read_held_out(tmp_path) is None
    with pytest.raises(InputError, match=r"no training\.json"):
        scenes.held_out_rows(None, "small")
    (tmp_path / "training.json").write_text('{"held_out_classes": ["dragon"]}')
    with pytest.raises(InputError, match="dragon"):
        scenes.read_held_out(tmp_path)
