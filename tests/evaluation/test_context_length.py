"""eval/context_length.py: nested contexts, controls that break what they say, and a study that can be stopped."""

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lavin.data.mixture import Pool
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.evaluation import curves, nested
from lavin.evaluation.context_length import OTHER_TASK, SHUFFLED, Study, control_pairs, draw_question, plan
from lavin.evaluation.episodes import Row, Settings, draw_episode, noise_generator
from lavin.evaluation.predictions import predict
from lavin.tasks import REGISTRY
from tests.evaluation.small import SIZE, make_pipeline

STUDY = Study((0, 1, 2, 4), control_length=2, steps=4, pool=24)


@pytest.fixture(scope="module")
def pool():
    return Pool(Scenes("validation", size=SIZE), range(STUDY.pool))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_pipeline(num_layers=2, max_pairs=2).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).parents[2] / "eval" / "context_length.py"
    spec = importlib.util.spec_from_file_location("eval_context_length", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def row_of(name):
    return Row(name, REGISTRY[name])


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_every_length_predicts_what_its_own_context_does(pool, model, attention):
    """Encoded once and continued, a context of K pairs answers as the benchmark's own episode of K pairs."""
    runner, row = nested.Runner(make_pipeline(attention, num_layers=2, max_pairs=2), model, STUDY), row_of("depth")
    runner.pools._made[False, False] = pool
    episodes = [draw_question(pool, row, STUDY, index) for index in range(2)]
    generators = [[noise_generator(0, row.name, index) for index in range(2)] for _ in range(4)]
    found = runner.predict(episodes, generators[0], [np.random.default_rng(i) for i in range(2)])
    for length, noise in zip((1, 2, 4), generators[1:], strict=True):
        short = [draw_episode(pool, row, length, STUDY.seed, index) for index in range(2)]
        settings = Settings(queries=2, pairs=length, steps=STUDY.steps, pool=STUDY.pool)
        expected = predict(runner.pipeline, short, noise, settings)
        for clip, other in zip(found[str(length)], expected, strict=True):
            torch.testing.assert_close(clip, other, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found["1"][0], found["4"][0], atol=1e-3)
    assert set(found) == {"0", "1", "2", "4", OTHER_TASK, SHUFFLED}


def test_other_contexts_have_the_same_query_and_other_pairs(pool):
    row = row_of("semantic")
    first, second, again = (draw_question(pool, row, STUDY, 3, context) for context in (0, 1, 1))
    assert torch.equal(first.query.input, second.query.input)
    assert first.definition == second.definition
    ids = [[sample.id for sample in episode.pair_samples] for episode in (first, second, again)]
    assert ids[0] != ids[1] == ids[2]
    assert len(set(ids[1])) == STUDY.longest
    assert first.query_sample.id not in ids[1]


@pytest.mark.parametrize("name", ["depth", "normals", "denoising", "foreground"])
def test_controls_keep_the_inputs_and_no_target(pool, name):
    episode = draw_question(pool, row_of(name), STUDY, 0)
    controls = control_pairs(episode, 4, np.random.default_rng(0), pool.vocabulary)
    for pairs in controls.values():
        assert all(torch.equal(pair.input, own.input) for pair, own in zip(pairs, episode.pairs, strict=True))
        assert not any(torch.equal(pair.target, own.target) for pair, own in zip(pairs, episode.pairs, strict=True))
    targets = [{pair.target.numpy().tobytes() for pair in pairs} for pairs in (controls[SHUFFLED], episode.pairs)]
    assert targets[0] == targets[1]


def test_remembered_latents_are_those_of_the_stvae_and_are_forgotten_in_turn():
    pipeline = make_pipeline(num_layers=2, max_pairs=2)
    latents = nested.RememberedLatents(pipeline, capacity=2)
    clips = list(torch.rand(3, 3, 1, SIZE, SIZE) * 2 - 1)
    with torch.no_grad():
        expected = pipeline.stvae.to_latent(torch.stack(clips)).float()
        found = latents([clips[0], clips[1], clips[0], clips[2]])
        torch.testing.assert_close(found, expected[[0, 1, 0, 2]], atol=1e-5, rtol=1e-5)
        assert len(latents._latents) == 2
        torch.testing.assert_close(latents(clips), expected, atol=1e-5, rtol=1e-5)


def test_controls_take_the_longest_context_of_training():
    assert plan([4, 0, 1, 2], max_pairs=3).control_length == 2
    assert plan([0, 1, 2, 4], max_pairs=None).control_length == 4
    assert plan([0, 1, 4], max_pairs=2).control_length is None
    assert plan([4, 0, 4, 1], max_pairs=8).lengths == (0, 1, 4)
    for lengths in ([-1, 2], [0, 1]):
        with pytest.raises(InputError, match="one of them 2 or more"):
            plan(lengths, max_pairs=8)


# --- What it found ----------------------------------------------------------------------------------------------------


def record(query, scores, context=0, shown=(1, 2, 4), task="foreground"):
    return {"task": task, "query": query, "context": context, "scores": scores, "shown": list(shown)}


def test_a_curve_by_hand():
    """Queries differ by far more than lengths do: only the paired difference can see that every query gains 0.1."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 1, 40)
    ceilings = {"code": 1.0, "tokenizer": 0.9}
    records = []
    for query, level in enumerate(levels):
        for context, gain in ((0, 0.05), (1, 0.15)):
            own = {"0": level - 0.2, "1": level, "2": level + gain, "4": level + 2 * gain}
            shown = (2, 4) if query % 4 == 0 and context == 0 else (1, 2, 4)
            records.append(record(query, own | ceilings | {SHUFFLED: level - 0.1}, context, shown))
    (curve,) = curves.summarise(records, [row_of("foreground")], STUDY, max_pairs=2)
    assert (curve.queries, curve.contexts, curve.claim_length) == (40, 2, 2)
    difference = curve.point(2).difference
    assert difference.mean == pytest.approx(0.1) == pytest.approx(difference.low) == pytest.approx(difference.high)
    assert curve.point(1).value.mean == pytest.approx(levels.mean())
    assert curve.point(1).value.high - curve.point(1).value.low > 0.1
    assert curve.point(SHUFFLED).difference.mean == pytest.approx(-0.2)
    assert [point.beyond_training for point in curve.points] == [False, False, False, True]
    assert [point.shown for point in curve.points] == [0, 0.875, 1, 1]
    assert curve.verdict == curves.HELPS
    assert curve.spearman_all == pytest.approx(1)
    assert curve.ceilings == pytest.approx(ceilings)


@pytest.mark.parametrize(
    ("name", "change", "verdict"),
    [("depth", -0.1, "help"), ("depth", 0.1, "hurt"), ("foreground", -0.1, "hurt"), ("depth", 0.0, "undecided")],
)
def test_verdicts_know_which_way_is_better(name, change, verdict):
    rng = np.random.default_rng(1)
    common = {"0": 0.5, "code": 0.0, "tokenizer": 0.0}
    records = [
        record(query, common | {"1": 0.5, "2": 0.5 + change + noise, "4": 0.5}, task=name)
        for query, noise in enumerate(rng.normal(0, 0.05, 40))
    ]
    (curve,) = curves.summarise(records, [row_of(name)], STUDY, max_pairs=2)
    assert curve.verdict == verdict


def test_queries_with_nothing_to_score_are_left_out_of_both_sides():
    scores = {"0": 0.0, "1": 0.2, "2": 0.5, "4": 0.5, "code": 1.0, "tokenizer": 1.0}
    records = [record(0, scores), record(1, scores | {"1": None}), record(2, scores)]
    (curve,) = curves.summarise(records, [row_of("foreground")], STUDY, max_pairs=2)
    assert curve.point(2).difference.mean == pytest.approx(0.3)


# --- The command ------------------------------------------------------------------------------------------------------

SMALL = ["--lengths", "0,1,2,4", "--steps", "4", "--pool", "24", "--batch", "1"]


def test_a_stopped_study_goes_on_and_ends_as_if_it_had_not_been(command, model, tmp_path, capsys):
    options = ["--model", str(model), "--tasks", "depth", *SMALL]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command([*options, "--queries", "3", "--contexts", "2", "--out", str(whole)]) == 0
    assert command([*options, "--queries", "2", "--out", str(parts)]) == 0
    lines = (parts / "records.jsonl").read_text().splitlines(keepends=True)
    (parts / "records.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20])  # killed while it wrote
    assert command([*options, "--queries", "3", "--contexts", "2", "--out", str(parts)]) == 0
    found = [
        {(r["task"], r["query"], r["context"]): r["scores"] for r in map(json.loads, read_lines(folder)[1:])}
        for folder in (whole, parts)
    ]
    assert found[0] == found[1]
    assert (whole / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert (whole / "figure.svg").read_text().count("pairs in the context") == 1
    rows = list(csv.DictReader((whole / "results.csv").open()))
    assert [row["name"] for row in rows if row["task"] == "depth"] == ["0", "1", "2", "4", OTHER_TASK, SHUFFLED]
    content = json.loads((whole / "results.json").read_text())
    assert content["protocol"]["trained_pairs"] == 2
    assert [point["beyond_training"] for point in content["curves"][0]["points"]] == [False, False, False, True]
    printed = capsys.readouterr().out
    assert "2 minus 1" in printed and "controls, 2 pairs" in printed
    table = (whole / "results.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table if line.startswith("| depth")] == ["depth", "depth"]
    before = (whole / "records.jsonl").read_bytes()
    assert command([*options, "--guidance", "3", "--out", str(whole)]) == 2
    assert "has records with guidance 1.5, not 3.0" in capsys.readouterr().err
    assert (whole / "records.jsonl").read_bytes() == before


def read_lines(folder):
    return (folder / "records.jsonl").read_text().splitlines()


def test_workers_answer_as_one_process_does(model):
    study = replace(STUDY, steps=4)
    work = nested.chunks([row_of("depth")], queries=4, contexts=1, batch=2, done=[])
    one, two = (
        {r["query"]: r["scores"] for found in nested.answers(work, model, study, "cpu", workers) for r in found}
        for workers in (1, 2)
    )
    assert one.keys() == two.keys() == {0, 1, 2, 3}
    for query, scores in one.items():
        assert two[query] == pytest.approx(scores, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tasks", "dept"], "unknown task 'dept'; did you mean 'depth'?"),
        (["--lengths", "1,two"], "--lengths is '1,two'"),
        (["--lengths", "1"], "one of them 2 or more"),
        (["--queries", "0"], "--queries is 0; it must be at least 1"),
        (["--pool", "4"], "pool is 4; 4 pairs and a query need at least 5"),
        (["--steps", "5"], "num_inference_steps"),
        (["--dtype", "float8"], "unknown dtype 'float8'"),
        (["--model", "lavin-tny"], "unknown model 'lavin-tny'; did you mean 'lavin-tiny'?"),
    ],
)
def test_mistakes_are_one_line(command, model, tmp_path, capsys, options, message):
    arguments = ["--model", str(model), "--tasks", "depth", *SMALL, "--out", str(tmp_path / "out"), *options]
    assert command(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
