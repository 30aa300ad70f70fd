"""Batches of several shapes in one run: what each step draws, that all shapes train, and what is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lavin import config_dir, context, flow
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.stvae import STVAE
from lavin.training import checkpoint, pretrain
from lavin.training.buckets import buckets_of, plan_batch
from lavin.training.config import PretrainConfig, load_config, to_dict
from lavin.training.objective import sequence_loss
from lavin.training.supply import share_out, steps_of

SMALL = [
    "run.batch_size=4", "run.validate_every=0", "run.precision=fp32", "run.log_every=1", "scenes.size=32",
    "scenes.train_scenes=120", "scenes.validation_scenes=120", "cache.contexts=16", "cache.validation_contexts=4",
    "tasks.weights={depth: 1, foreground: 1, video_depth: 1}", "model.hidden_size=32",
    "buckets=[{height: 32, width: 32, weight: 2}, {height: 32, width: 64}, {height: 32, width: 32, frames: 5}]",
]  # fmt: skip


@pytest.fixture(scope="module")
def stvae(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stvae")
    STVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).save_pretrained(folder)
    return folder


def config(*overrides):
    return load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", [*SMALL, *overrides])


def test_a_bucket_has_its_share_of_the_steps_and_as_many_tokens_as_the_others():
    settings = config("train_pairs=3", "model.attention=full", "context_dropout=0.25", "cache.contexts=64")
    buckets = buckets_of(settings)
    assert [bucket.name for bucket in buckets] == ["1x32x32", "1x32x64", "5x32x32"]
    assert [bucket.batch_size for bucket in buckets] == [4, 2, 2]
    assert [sorted(bucket.tasks.probabilities()) for bucket in buckets] == [["depth", "foreground"]] * 2 + [
        ["video_depth"]
    ]
    plans = [plan_batch(settings, buckets, step) for step in range(2000)]
    counts = np.bincount([plan.bucket.number for plan in plans]) / 2000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.25], atol=0.04)  # three standard deviations are 0.034
    lengths = np.bincount([plan.pairs for plan in plans])
    assert list(np.flatnonzero(lengths)) == [2, 3] and abs(lengths[2] / 2000 - 0.5) < 0.04
    dropped = np.concatenate([plan.dropped for plan in plans])
    assert abs(dropped.mean() - 0.25) < 0.02
    assert all(len(plan.dropped) == plan.bucket.batch_size for plan in plans)
    again = plan_batch(settings, buckets_of(settings), 1234)
    assert (again.bucket.name, again.pairs) == (plans[1234].bucket.name, plans[1234].pairs)
    assert np.array_equal(again.dropped, plans[1234].dropped)


def test_causal_models_draw_a_length_only_if_asked_to():
    lengths = [
        {plan_batch(settings, buckets_of(settings), step).pairs for step in range(60)}
        for settings in (config("train_pairs=3"), config("train_pairs=3", "min_context=0"))
    ]
    assert lengths == [{3}, {1, 2, 3}]


def test_a_configuration_without_buckets_has_one_of_its_scenes():
    settings = config("buckets=[]", "tasks.weights.video_depth=0")
    (bucket,) = buckets_of(settings)
    assert (bucket.batch_size, bucket.contexts, bucket.name) == (4, 16, "1x32x32")
    assert bucket.scenes is settings.scenes and bucket.tasks is settings.tasks


def test_all_shapes_train_in_one_run_and_a_resumed_run_is_the_same(tmp_path, stvae, monkeypatch):
    """Pictures, wide pictures and clips; two halves equal the whole, bit for bit."""
    shapes, plans = [], []
    original = pretrain.sequence_loss

    def recording(model, condition, targets, *args):
        shapes.append((len(targets), *targets.shape[2:]))
        return original(model, condition, targets, *args)

    monkeypatch.setattr(pretrain, "sequence_loss", recording)
    run = [f"stvae={stvae}", "min_context=0", "run.accumulation=2", "run.seed=3"]
    whole = config(*run, f"output_dir={tmp_path}/whole", "run.max_steps=6")
    pretrain.train(whole)
    for step in range(6):
        plan = plan_batch(whole, buckets_of(whole), step)
        frames, height, width = plan.bucket.latent_shape
        plans += [(plan.bucket.batch_size, plan.pairs * frames, height, width)] * 2
    assert shapes == plans
    assert {plan_batch(whole, buckets_of(whole), step).bucket.number for step in range(6)} == {0, 1, 2}
    assert {plan_batch(whole, buckets_of(whole), step).pairs for step in range(6)} == {1, 2}
    pretrain.train(config(*run, f"output_dir={tmp_path}/halves", "run.max_steps=3"))
    pretrain.train(config(*run, f"output_dir={tmp_path}/halves", "run.max_steps=6"))
    first, second = (checkpoint.newest(tmp_path / name / "checkpoints").state() for name in ("whole", "halves"))
    assert all(torch.equal(value, second["average"][name]) for name, value in first["average"].items())
    caches = [load_file(path)["inputs"].shape for path in (tmp_path / "whole").glob("latents-train-*")]
    assert sorted(caches) == sorted([(8, 3, 16, 1, 4, 4), (4, 3, 16, 1, 4, 8), (4, 3, 16, 2, 4, 4)])


ALONE = [
    "tasks.weights={depth: 2, foreground: 1, video_depth: 1, frame_prediction: 1}",
    "buckets=[{height: 32, width: 32, tasks: [foreground]}, {height: 32, width: 32, tasks: [depth]}, "
    "{height: 32, width: 32, frames: 21}, {height: 32, width: 32, frames: 21, tasks: [frame_prediction]}]",
]


def test_a_bucket_shows_the_tasks_that_it_names_and_lengths_of_their_own_stay_apart():
    buckets = buckets_of(config(*ALONE))
    assert [bucket.tasks.probabilities() for bucket in buckets] == [
        {"foreground": 1}, {"depth": 1}, {"video_depth": 1}, {"frame_prediction": 1}
    ]  # fmt: skip
    others = [f"tasks.weights.{name}=0" for name in ("depth", "foreground", "video_depth")]
    (alone,) = buckets_of(config(*others, "tasks.weights.frame_prediction=1", "buckets=[{frames: 21}]"))
    assert alone.tasks.probabilities() == {"frame_prediction": 1}


def test_frame_prediction_trains_beside_other_tasks(tmp_path, stvae):
    few = ["cache.pairs=2", "train_pairs=2", "run.batch_size=8", "scenes.train_scenes=60", "cache.contexts=32"]
    run = [f"stvae={stvae}", f"output_dir={tmp_path}", "run.max_steps=12", "scenes.validation_scenes=60"]
    settings = config(*ALONE, *few, *run)
    assert {plan_batch(settings, buckets_of(settings), step).bucket.number for step in range(12)} == {0, 1, 2, 3}
    folder = pretrain.train(settings)
    assert checkpoint.newest(folder / "checkpoints").step == 12
    lengths = [
        (part["inputs"].shape[3], part["targets"].shape[3]) for part in map(load_file, tmp_path.glob("latents-train-*"))
    ]
    assert sorted(lengths) == [(1, 1), (1, 1), (3, 4), (6, 6)]


def test_streams_serve_every_bucket(tmp_path, stvae):
    stream = ["stream.workers=3", "stream.batch=2", "stream.fresh=2", "stream.scenes_per_context=0.5"]
    folder = pretrain.train(config(*stream, f"stvae={stvae}", f"output_dir={tmp_path}", "run.max_steps=5"))
    assert checkpoint.newest(folder / "checkpoints").step == 5 and not list(folder.glob("latents-train-*"))


def test_a_resumed_stream_counts_the_steps_of_its_bucket():
    settings = config()
    buckets = buckets_of(settings)
    drawn = [plan_batch(settings, buckets, step).bucket.number for step in range(50)]
    assert steps_of(settings, buckets, 50) == [drawn.count(number) for number in range(3)]
    assert share_out(3, [0.5, 0.25, 0.25]) == [1, 1, 1]
    assert share_out(14, [0.5, 0.25, 0.25]) in ([7, 4, 3], [7, 3, 4])
    assert share_out(14, [0.98, 0.01, 0.01]) == [12, 1, 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["buckets=[{heigth: 32}]"], r"unknown key 'buckets\[0\].heigth'; did you mean 'buckets\[0\].height'"),
        (["run.trackers={a: 1}"], "debug.yaml: "),
        (["buckets=[{height: 40}]"], "height is 40; it must be a multiple of 16"),
        (["buckets=[{frames: 4}]"], "frames is 4; it must be 1, or 1 . 4k"),
        (["buckets=[{weight: 0}]"], "weight is 0.0; it must be above 0"),
        (["buckets=[{}, {frames: 5}]", "tasks.weights.video_depth=0"], r"buckets\[1\] \(5x64x64\) is empty: no task"),
        (["buckets=[{}]", "tasks.weights={video_depth: 1}"], "video_depth: set scenes.frames to 1 . 4k"),
        (
            ["cache.contexts=8"],
            r"buckets\[0\] \(1x32x32\) has 4 of cache.contexts=8|buckets\[1\].* fewer than its batch",
        ),
        (
            ["buckets=[{tasks: [dept]}]", "tasks.weights.video_depth=0"],
            r"buckets\[0\].tasks: unknown task 'dept'; did you mean 'depth'",
        ),
        (
            ["buckets=[{tasks: [normals]}]", "tasks.weights.video_depth=0"],
            r"buckets\[0\].tasks: 'normals' is not trained; give it a weight",
        ),
        (
            ["buckets=[{}, {frames: 5, tasks: [depth]}]"],
            r"buckets\[1\].tasks: 'depth' cannot be drawn there: set frames to 1, it is of pictures",
        ),
        (
            ["buckets=[{}, {frames: 21, tasks: [video_depth, frame_prediction]}]", "tasks.weights.frame_prediction=1"],
            r"buckets\[1\].tasks: the inputs and targets of 'frame_prediction' are not as long .* a bucket to itself",
        ),
        (
            ["buckets=[{}, {frames: 21}]", "tasks.weights.frame_prediction=1"],
            r"weights.frame_prediction: no bucket shows it; give it one \(buckets: tasks: \[frame_prediction\]\)",
        ),
        (["stream.workers=2"], "stream.workers is 2; 3 buckets need at least one each"),
        (["min_context=2"], r"min_context is 2; it must be 0 to 1"),
        (["model.attention=full", "min_context=0"], r"min_context is 0; it must be 1 to 1"),
        (["model.attention=full", "train_pairs=1"], "a 'full' model needs 2 or more"),
        (["context_dropout=1.5"], r"context_dropout is 1.5; it must be in \[0, 1\]"),
    ],
)
def test_impossible_buckets_and_lengths_are_refused_by_name(overrides, message):
    if overrides == ["cache.contexts=8"]:
        overrides = ["cache.contexts=8", "run.batch_size=8"]
    with pytest.raises(InputError, match=message):
        config(*overrides)


def test_buckets_that_are_no_list_are_refused():
    with pytest.raises(InputError, match="buckets must be a list of mappings"):
        load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", ["buckets={height: 32}"])


def test_too_few_scenes_for_a_bucket_are_named(tmp_path, stvae):
    with pytest.raises(InputError, match=r"bucket 1x32x32, 2 scenes of validation: task '.*raise scenes"):
        pretrain.train(config(f"stvae={stvae}", f"output_dir={tmp_path}", "scenes.validation_scenes=4"))


def test_samples_that_lose_their_pairs_see_a_zero_frame_and_their_query():
    """One batch with some sequences dropped equals each sequence by itself, float64; clips of two latent frames."""
    torch.manual_seed(0)
    model = JDiT(latent_channels=4, hidden_size=48, num_layers=2, num_heads=4).double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    pairs, frames, dropped = 3, 2, np.array([False, True, False, True, True])
    x, y = torch.randn(2, 5, 4, pairs, frames, 4, 4, dtype=torch.float64)
    condition = torch.stack((x, y), dim=3).flatten(2, 4)[:, :, :-frames]
    t, noise = torch.rand(5), torch.randn(5, 4, frames, 4, 4, dtype=torch.float64)
    expected = []
    for row in range(5):
        query = x[row : row + 1, :, -1]
        seen = context.unconditional(query) if dropped[row] else condition[row : row + 1]
        noisy, velocity = flow.interpolate(noise[row : row + 1], y[row : row + 1, :, -1], t[row : row + 1])
        error = model(noisy, t[row : row + 1], seen, clip_frames=[seen.shape[2]]) - velocity
        expected.append(error.square().mean())
    given = iter([noise[~dropped], noise[dropped]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *args, **kwargs: next(given))
        found = sequence_loss(model, condition, y.flatten(2, 3), t, pairs, None, dropped=dropped)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)  # embedded timesteps are float32


def test_buckets_are_in_the_record():
    assert to_dict(config())["buckets"][1] == {"height": 32, "width": 64, "frames": 1, "weight": 1.0, "tasks": []}
