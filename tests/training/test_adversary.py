"""The ST-VAE's training with a discriminator: resumed, on two ranks, through steps that are not finite, collapsed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lavin import config_dir
from lavin.errors import InputError, LavinError
from lavin.models.stvae import STVAE
from lavin.training import adversary, checkpoint
from lavin.training import stvae as stvae_training
from lavin.training.adversary import Watch
from lavin.training.config import STVAEConfig, load_config
from lavin.training.discriminator import PatchDiscriminator

ROOT = Path(__file__).parents[2]
SMALL = [
    "run.precision=fp32", "run.batch_size=2", "run.validate_every=0", "run.log_every=1", "run.checkpoint_every=2",
    "scenes.size=32", "scenes.train_scenes=12", "scenes.validation_scenes=12", "pictures=12", "clips=4",
    "tasks.weights={edges: 1, colorization: 1}", "clip_share=0.5", "clip_frames=5", "model.linear_shortcut=false",
    "losses.discriminator.weight=0.5", "losses.discriminator.start=1", "losses.discriminator.channels=8",
    "losses.discriminator.layers=2", "losses.discriminator.r1_weight=10", "losses.discriminator.r1_every=2",
]  # fmt: skip


def run(folder: Path, *overrides: str) -> None:
    settings = [*SMALL, f"output_dir={folder}", *overrides]
    stvae_training.train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", settings))


def state(folder: Path) -> dict:
    return checkpoint.newest(folder / "checkpoints").state()


def assert_same(ours, theirs, **tolerance) -> None:
    """Two states, tensor by tensor; to the bit without a tolerance."""
    if isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name], **tolerance)
    elif isinstance(ours, list):
        for pair in zip(ours, theirs, strict=True):
            assert_same(*pair, **tolerance)
    else:
        torch.testing.assert_close(ours, theirs, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Four steps in one go."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, "run.max_steps=4", "run.accumulation=2")
    return folder


def test_a_resumed_run_is_the_same_run_discriminator_and_all(whole, tmp_path):
    run(tmp_path, "run.max_steps=2", "run.accumulation=2")
    run(tmp_path, "run.max_steps=4", "run.accumulation=2")
    assert_same(state(tmp_path), state(whole))


def test_it_learns_from_its_start_on(whole, tmp_path):
    """One of four steps is before the start."""
    assert state(whole)["companion"]["step"] == 3
    assert state(whole)["optimizer"]["step"] == 4
    run(tmp_path, "run.max_steps=2", "losses.discriminator.start=2")
    saved = state(tmp_path)["companion"]
    assert saved["step"] == 0
    assert all((moment == 0).all() for moment in saved["exp_avg"])


def test_causality_survives_training(whole):
    """What a clip's later frames are changes no earlier latent and no earlier decoded frame; chunks equal the whole."""
    trained = STVAE.from_pretrained(whole / "stvae").eval()
    generator = torch.Generator().manual_seed(0)
    clip, other = torch.rand(2, 1, 3, 17, 32, 32, generator=generator) * 2 - 1
    other[:, :, :9] = clip[:, :, :9]
    with torch.no_grad():
        latent, changed = trained.to_latent(clip), trained.to_latent(other)
        torch.testing.assert_close(changed[:, :, :3], latent[:, :, :3], atol=1e-5, rtol=0)
        assert (changed[:, :, 3] - latent[:, :, 3]).abs().max() > 1e-2
        torch.testing.assert_close(trained.to_latent(clip[:, :, :1]), latent[:, :, :1], atol=1e-5, rtol=0)
        decoded = trained.from_latent(latent)
        torch.testing.assert_close(trained.from_latent(changed)[:, :, :9], decoded[:, :, :9], atol=1e-5, rtol=0)
        trained.enable_chunking(8)
        torch.testing.assert_close(trained.to_latent(clip), latent, atol=1e-5, rtol=0)
        torch.testing.assert_close(trained.from_latent(latent), decoded, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_ranks_train_as_one_that_accumulates(whole, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "train/stvae.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    settings = ["configs/stvae/debug.yaml", *SMALL, f"output_dir={tmp_path}", "run.max_steps=4"]
    done = subprocess.run([*command, *settings], cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    ours, theirs = state(tmp_path), state(whole)
    for part in ("model", "average"):
        assert_same(ours[part], theirs[part], rtol=1e-4, atol=2e-5)  # sums in another order, through four AdamW steps
    assert_same(ours["companion"]["model"], theirs["companion"]["model"], rtol=1e-4, atol=2e-5)
    assert (tmp_path / "stvae" / "config.json").exists()


def test_a_bad_batch_changes_neither(tmp_path, monkeypatch, capsys):
    """Step 2 sees a clip that is not finite: both are left as they were, both count it."""
    run(tmp_path / "good", "run.max_steps=2")
    draw, calls = stvae_training.FixedPictures.draw, []

    def spoilt(self, rng, count):
        clip = draw(self, rng, count)
        calls.append(count)
        return clip * float("nan") if len(calls) == 3 else clip

    monkeypatch.setattr(stvae_training.FixedPictures, "draw", spoilt)
    run(tmp_path / "bad", "run.max_steps=3")
    good, bad = state(tmp_path / "good"), state(tmp_path / "bad")
    assert_same(bad["model"], good["model"])
    assert_same(bad["companion"]["model"], good["companion"]["model"])
    assert "discriminator_skipped 1" in capsys.readouterr().out


def test_its_own_bad_step_leaves_the_st_vae_learning(tmp_path, monkeypatch):
    run(tmp_path / "good", "run.max_steps=2")
    monkeypatch.setattr(adversary, "hinge_discriminator", lambda real, fake: real[0].mean() * float("nan"))
    run(tmp_path / "bad", "run.max_steps=2")
    good, bad = state(tmp_path / "good"), state(tmp_path / "bad")
    assert_same(bad["model"], good["model"])
    assert good["companion"]["step"] == 1
    assert bad["companion"]["step"] == 0
    assert all(value.isfinite().all() for value in bad["companion"]["model"].values())


# --- Collapse ---------------------------------------------------------------------------------------------------------


def watched(*steps: tuple[float, float, float, float]) -> Watch:
    watch = Watch(len(steps), torch.device("cpu"))
    for step in steps:
        watch.update(*torch.tensor(step).unbind())
    return watch


@pytest.mark.parametrize(
    ("hinge", "accuracy", "gap", "message"),
    [
        (0.001, 0.999, 4.0, "has won: it tells 100% of the patches"),
        (1.0, 0.5, 0.001, "tells nothing: its logits .* differ by 0.001"),
        (1.1, 0.4, -0.2, "tells nothing"),
        (0.6, 0.75, 0.8, None),
        (0.1, 0.99, 2.5, None),  # ahead, and still learning
    ],
)
def test_a_collapse_is_told_from_a_game(hinge, accuracy, gap, message):
    watch = watched(*[(0.0, hinge, accuracy, gap)] * 5)
    found = watch.look()
    assert (found is None) == (message is None)
    if message:
        assert re.match(message, found)
    assert watch.sums.tolist() == [0, 0, 0, 0, 0, float(message is not None)]


def test_skipped_steps_do_not_count_towards_a_collapse():
    nan = float("nan")
    assert watched((0.0, 0.6, 0.75, 0.8), (1.0, nan, nan, nan)).look() is None
    with pytest.raises(LavinError, match=r"not finite in 2 steps in a row.*discriminator\.learning_rate"):
        watched((1.0, nan, nan, nan), (1.0, nan, nan, nan)).look()


def test_a_collapse_is_reported_once_and_counted(tmp_path, capsys, monkeypatch):
    """With a bound that no gap reaches every window is a collapse: three in six steps."""
    monkeypatch.setattr(adversary, "LOST_GAP", 1e3)
    run(
        tmp_path, "run.max_steps=6", "losses.discriminator.start=0", "losses.discriminator.watch=2",
        "losses.discriminator.r1_weight=0", "losses.discriminator.learning_rate=1e-12", "clip_share=0",
    )  # fmt: skip
    out = capsys.readouterr().out
    assert out.count("warning: at step 2 the discriminator tells nothing") == 1
    assert out.count("the discriminator tells nothing") == 1
    assert "discriminator_collapsed 3" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.kind=cogvideo"], "model.kind is 'cogvideo'; it must be one of stvae, cogvideox"),
        (["model.kind=cogvideox"], "model: no AutoencoderKLCogVideoX .*linear_shortcut"),
        (["model.kind=cogvideox", "clip_share=0.5", "clip_frames=5"], "clip_frames is 5; .*1 . 8k frames only"),
        (["model.block_out_channel=[8,8,8,8]"], "model: no STVAE can be made .*block_out_channel"),
        (["model.block_out_channels=[8,8,8]"], "model: no STVAE can be made .*four stages"),
    ],
)
def test_models_that_cannot_be_are_named(tmp_path, overrides, message):
    settings = [f"output_dir={tmp_path}/run", *overrides]
    config = load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", settings)
    with pytest.raises(InputError, match=message):
        stvae_training.train(config)
    assert not (tmp_path / "run").exists()


def test_a_backbone_that_is_missing_stops_the_run_before_it_begins(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(InputError, match=r"losses\.perceptual_weight=0"):
            run(tmp_path / "run", "run.max_steps=1", "losses.perceptual_weight=1")
    finally:
        torch.hub.set_dir(before)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("over_time", [False, True])
def test_the_smallest_picture_has_a_verdict(layers, over_time):
    picture = torch.randn(1, 3, *[5] * over_time, 32, 32)
    verdict = PatchDiscriminator(8, layers, over_time)(picture)
    assert verdict.shape[1] == 1 and min(verdict.shape[-2:]) >= 1 and verdict.isfinite().all()
