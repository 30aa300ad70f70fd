"""The J-DiT's training, on tiny models and few scenes: resume, parallel targets, overfitting, caches."""

import json

import numpy as np
import pytest
import torch

from lavin import config_dir, flow
from lavin.data.mixture import Pool, draw_context
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.stvae import STVAE
from lavin.pipeline import LavinPipeline
from lavin.training import checkpoint, pretrain
from lavin.training.config import PretrainConfig, TasksConfig, load_config
from lavin.training.latents import LatentCache, build_cache, training_context
from lavin.training.objective import draw_timesteps, sequence_loss
from lavin.training.pretrain import load_stvae, train

SMALL = [
    "run.batch_size=2", "run.validate_every=0", "run.precision=fp32", "run.log_every=1", "scenes.size=32",
    "scenes.train_scenes=60", "scenes.validation_scenes=60", "cache.contexts=6", "cache.validation_contexts=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def stvae(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("stvae")
    STVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pool():
    return Pool(Scenes("train", size=32), range(60))


def config(folder, stvae, *overrides):
    values = [*SMALL, f"run.output_dir={folder}", f"stvae={stvae}", *overrides]
    return load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", values)


def weights(folder):
    return torch.load(checkpoint.steps(folder / "checkpoints")[-1] / checkpoint.STATE, weights_only=True)


def test_targets_of_other_length_than_inputs_train_in_parallel_as_alone():
    """Inputs of 2 latent frames, targets of 3: the loss is that of each target in a sequence of its own."""
    torch.manual_seed(0)
    model = JDiT(latent_channels=4, hidden_size=16, num_layers=2, num_heads=2, attention="causal").double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    inputs, targets = torch.randn(2, 3, 4, 2, 4, 4), torch.randn(2, 3, 4, 3, 4, 4)
    cache = LatentCache(inputs, targets, torch.zeros(2, dtype=torch.long), ["frame_prediction"])
    condition, clean, _ = (part.double() for part in cache.sequences(np.random.default_rng(0), 2, 3))
    assert condition.shape[2] == 3 * 2 + 2 * 3 and clean.shape[2] == 9
    assert torch.equal(condition[:, :, 2:5], clean[:, :, :3])  # x1 y1 x2 y2 x3
    t = flow.draw_timesteps((2, 3), torch.Generator().manual_seed(2))
    together = sequence_loss(model, condition, clean, t, 3, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)  # draws the noise, as above
    noise = torch.randn(clean.shape, generator=generator, dtype=clean.dtype)
    for number in range(3):
        span = slice(3 * number, 3 * number + 3)
        own_t = t[:, number].double()
        noisy = torch.lerp(noise[:, :, span], clean[:, :, span], own_t.view(-1, 1, 1, 1, 1))
        velocity = model(noisy, own_t, condition[:, :, : 5 * number + 2], clip_frames=[2, 3] * number + [2])
        error = (velocity - (clean[:, :, span] - noise[:, :, span])).square().mean((1, 2, 3, 4))
        torch.testing.assert_close(together[:, number].double(), error, atol=1e-5, rtol=1e-5)  # t is float32


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_frame_prediction_trains_and_its_model_predicts_thirteen_frames_from_nine(tmp_path, stvae, attention):
    overrides = [
        "scenes.frames=21", "scenes.train_scenes=12", "scenes.validation_scenes=12", "cache.pairs=3", "train_pairs=3",
        "cache.contexts=3", "run.max_steps=2", f"model.attention={attention}", "context_dropout=0.5",
        "tasks.weights.depth=0", "tasks.weights.foreground=0", "tasks.weights.frame_prediction=1",
    ]  # fmt: skip
    train(config(tmp_path / "run", stvae, *overrides))
    pipeline = LavinPipeline.from_pretrained(tmp_path / "run")
    clips = torch.rand(4, 3, 21, 32, 32) * 2 - 1
    pairs = [(clip[:, :9], clip[:, 8:]) for clip in clips[1:]]
    (prediction,) = pipeline(pairs, clips[0, :, :9], num_inference_steps=4, output_type="pt").images
    assert prediction.shape == (3, 13, 32, 32) and prediction.isfinite().all()


def test_two_steps_a_checkpoint_and_two_more_equal_four(tmp_path, stvae):
    train(config(tmp_path / "whole", stvae, "run.max_steps=4"))
    train(config(tmp_path / "halves", stvae, "run.max_steps=2"))
    train(config(tmp_path / "halves", stvae, "run.max_steps=4"))
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    for name, value in whole["model"].items():
        assert torch.equal(value, halves["model"][name]), name
    for name, value in whole["average"].items():
        assert torch.equal(value, halves["average"][name]), name
    record = json.loads((checkpoint.steps(tmp_path / "halves" / "checkpoints")[-1] / checkpoint.RECORD).read_text())
    assert record["step"] == 4
    assert record["config"]["run"]["max_steps"] == 4


def test_exported_model_is_the_average_and_loads(tmp_path, stvae):
    folder = train(config(tmp_path, stvae, "run.max_steps=3"))
    state = weights(tmp_path)
    loaded = LavinPipeline.from_pretrained(folder).jdit
    averages, exported = state["average"], dict(loaded.named_parameters())
    assert averages.keys() == exported.keys()
    assert all(torch.equal(average, exported[name]) for name, average in averages.items())
    assert any(not torch.equal(average, state["model"][name]) for name, average in averages.items())


def test_a_run_of_another_model_is_not_overwritten(tmp_path, stvae):
    train(config(tmp_path, stvae, "run.max_steps=1"))
    before = weights(tmp_path)
    with pytest.raises(InputError, match=r"another model \(model.hidden_size was 64 and is 32\)"):
        train(config(tmp_path, stvae, "run.max_steps=2", "model.hidden_size=32"))
    assert all(torch.equal(value, before["model"][name]) for name, value in weights(tmp_path)["model"].items())


def test_cached_latents_equal_fresh_ones_and_pairs_share_a_definition(stvae, pool):
    vae = load_stvae(str(stvae))
    settings = config("unused", stvae, "tasks.weights={depth: 1, inpainting: 1, foreground: 1}").tasks
    cache = build_cache(vae, pool, settings, contexts=5, pairs=3, seed=7)
    assert len(cache) == 5
    for number in range(5):
        name = cache.tasks[int(cache.task_ids[number])]
        episode = draw_context(pool, name, 2, np.random.default_rng((7, number)))
        for pair, example in enumerate([*episode.pairs, episode.query]):
            for latents, clip in zip((cache.inputs, cache.targets), example, strict=True):
                fresh = vae.to_latent(clip[None])[0]
                torch.testing.assert_close(latents[number, pair].float(), fresh, atol=2e-3, rtol=2e-3)  # stored in fp16


def test_sequences_keep_inputs_beside_their_targets():
    inputs = torch.arange(12.0).view(2, 6, 1, 1, 1, 1)
    cache = LatentCache(inputs, inputs + 100, torch.tensor([0, 1]), ["depth", "edges"])
    condition, targets, task_ids = cache.sequences(np.random.default_rng(0), 8, 3)
    condition, targets = condition.flatten(1), targets.flatten(1)
    assert condition.shape == (8, 5) and targets.shape == (8, 3)
    assert torch.equal(condition[:, 0::2] + 100, targets)
    assert torch.equal(condition[:, 1::2], targets[:, :-1])
    assert all(len(set(row.tolist())) == 3 for row in targets)
    assert torch.equal(condition[:, 0] // 6, task_ids.float())
    assert len({tuple(row.tolist()) for row in targets}) > 4


def test_parallel_loss_is_the_mean_over_separate_sequences(stvae):
    """x1 y1 ... xn with all noised targets: each target's loss is that of its own sequence."""
    torch.manual_seed(0)
    model = JDiT(latent_channels=4, hidden_size=48, num_layers=2, num_heads=4, attention="causal").double()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    pairs = 4
    x, y = torch.randn(2, 2, 4, pairs, 4, 4, dtype=torch.float64)
    condition = torch.stack((x, y), dim=3).flatten(2, 3)[:, :, :-1]
    generator = torch.Generator().manual_seed(1)
    t = draw_timesteps(y, pairs, True, generator, 0.0)
    together = sequence_loss(model, condition, y, t, pairs, generator)
    generator = torch.Generator().manual_seed(1)
    t = flow.draw_timesteps((2, pairs), generator)
    noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    for i in range(pairs):
        noisy, velocity = flow.interpolate(noise[:, :, i : i + 1], y[:, :, i : i + 1], t[:, i])
        error = model(noisy, t[:, i], condition[:, :, : 2 * i + 1]) - velocity
        torch.testing.assert_close(together[:, i], error.square().mean(dim=(1, 2, 3, 4)), atol=1e-5, rtol=0)


def test_a_tiny_model_overfits_one_batch(tmp_path, stvae):
    run = ["run.overfit_batch=true", "run.max_steps=150", "run.checkpoint_every=150", "optimizer.learning_rate=3e-3"]
    losses = []
    original = pretrain.sequence_loss

    def recording(*args, **kwargs):
        losses.append(original(*args, **kwargs))
        return losses[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "sequence_loss", recording)
        train(config(tmp_path, stvae, *run, "tasks.weights={depth: 1}"))
    first, last = (torch.cat([loss.detach().flatten() for loss in part]).mean() for part in (losses[:10], losses[-30:]))
    assert last < 0.6 * first


def test_full_models_train_too(tmp_path, stvae):
    folder = train(config(tmp_path, stvae, "run.max_steps=2", "model.attention=full", "context_dropout=0.5"))
    assert LavinPipeline.from_pretrained(folder).jdit.config.attention == "full"


def test_training_can_start_from_a_models_weights(tmp_path, stvae):
    """With a learning rate too small to matter, a run that starts from a model ends as it."""
    first = train(config(tmp_path / "first", stvae, "run.max_steps=2"))
    run = ["run.max_steps=1", "run.seed=5", f"init={first}", "optimizer.learning_rate=1e-12"]
    second = train(config(tmp_path / "second", stvae, *run))
    expected = LavinPipeline.from_pretrained(first).jdit.state_dict()
    for name, weight in LavinPipeline.from_pretrained(second).jdit.state_dict().items():
        torch.testing.assert_close(weight, expected[name], atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="other sizes"):
        train(config(tmp_path / "third", stvae, f"init={first}", "model.hidden_size=32"))


def test_missing_stvae_is_named(stvae, tmp_path):
    with pytest.raises(InputError, match="no ST-VAE in 'nowhere'"):
        train(config(tmp_path, "nowhere"))


def test_clips_train_and_export(tmp_path, stvae):
    none = ["tasks.weights.depth=0", "tasks.weights.foreground=0"]
    clips = ["scenes.frames=5", "tasks.weights.optical_flow=1", "tasks.weights.video_depth=1"]
    small = ["scenes.train_scenes=8", "scenes.validation_scenes=8", "run.max_steps=2", "run.validate_every=2"]
    pipeline = LavinPipeline.from_pretrained(train(config(tmp_path, stvae, *none, *clips, *small)))
    pair = [torch.rand(3, 5, 32, 32) for _ in range(2)]
    assert pipeline([pair], pair[0], num_inference_steps=4, output_type="pt").images[0].shape == (3, 5, 32, 32)


def test_latents_cached_in_bf16_are_near_those_in_fp32(pool):
    """Of the bundled ST-VAE: 0.1 % on scenes."""
    vae, tasks = load_stvae("lavin-tiny"), load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml").tasks
    exact, fast = (build_cache(vae, pool, tasks, 4, 3, 0, precision).inputs.float() for precision in ("fp32", "bf16"))
    assert 0 < (fast - exact).norm() / exact.norm() < 3e-3


def test_clips_of_a_cache_are_equally_long():
    """Flow with a stride of 2 would show 5 of 13 frames: such definitions are drawn again."""
    pool = Pool(Scenes("train", size=16, frames=13), range(4))
    tasks = TasksConfig(weights={"optical_flow": 1.0})
    strides = {draw_context(pool, "optical_flow", 1, np.random.default_rng((0, n))).definition.stride for n in range(8)}
    assert 1 in strides and len(strides) > 1
    for number in range(8):
        assert training_context(pool, tasks, 0, number, 2, 0).query.input.shape == (3, 13, 16, 16)
