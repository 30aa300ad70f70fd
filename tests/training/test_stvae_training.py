import re

import numpy as np
import pytest
import torch

from lavin import config_dir
from lavin.data.mixture import Pool
from lavin.data.scenes import Scenes
from lavin.models.stvae import STVAE
from lavin.training.config import STVAEConfig, load_config
from lavin.training.latents import load_stvae
from lavin.training.stvae import new_model, psnr, train
from lavin.training.stvae_data import as_clips, as_many_pixels, draw_size, random_parts, training_pictures


def test_psnr_equals_a_textbook_loop():
    pictures = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    offset, values = 9, []
    for picture in pictures.numpy().astype(np.float64):
        error = np.minimum(picture + offset, 255) - picture
        values.append(10 * np.log10(255**2 / (error**2).mean()))
    assert psnr(lambda clip: clip + offset / 127.5, pictures) == pytest.approx(np.mean(values), abs=1e-3)


def test_training_pictures_are_photos_and_painted_labels():
    pool = Pool(Scenes("train", size=32), range(60))
    settings = load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", ["tasks.weights={edges: 1}"]).tasks
    pictures = training_pictures(pool, settings, 10, seed=0)
    photos = {sample.clip[0].permute(2, 0, 1).numpy().tobytes() for sample in pool}
    assert all(picture.numpy().tobytes() in photos for picture in pictures[:5])
    assert all(set(picture.unique().tolist()) <= {0, 255} for picture in pictures[5:])


def test_parts_are_windows_of_their_own_clip_alike_in_all_frames():
    row, column = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    clips = torch.stack(
        [torch.stack([number + 0 * row, row, column])[:, None].repeat(1, 5, 1, 1) for number in range(6)]
    )
    parts = random_parts(clips, (8, 16), np.random.default_rng(0))
    assert parts.shape == (6, 3, 5, 8, 16)
    corners = set()
    for number, part in enumerate(parts):
        top, left = int(part[1, 0, 0, 0]), int(part[2, 0, 0, 0])
        torch.testing.assert_close(part, clips[number, :, :, top : top + 8, left : left + 16])
        corners.add((top, left))
    assert len(corners) > 3


def test_smaller_parts_come_in_larger_batches_of_no_more_pixels():
    rng = np.random.default_rng(0)
    sizes = {draw_size(rng, [32, 48, 64], 64) for _ in range(200)}
    assert sizes == {(h, w) for h in (32, 48, 64) for w in (32, 48, 64)}
    assert draw_size(rng, [], 64) == (64, 64)
    for height, width in sizes:
        count = as_many_pixels(6, 64, (height, width))
        assert count * height * width <= 6 * 64 * 64 < (count + 1) * height * width


def test_without_painted_labels_all_pictures_are_photos():
    pool = Pool(Scenes("train", size=32), range(20))
    settings = load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", ["tasks.weights={edges: 1}"]).tasks
    photos = {sample.clip[0].permute(2, 0, 1).numpy().tobytes() for sample in pool}
    pictures = training_pictures(pool, settings, 10, seed=0, label_share=0.0)
    assert all(picture.numpy().tobytes() in photos for picture in pictures)


def test_clips_are_moving_photos_and_moving_labels():
    pool = Pool(Scenes("train", size=32, frames=5), range(6))
    scenes = ["scenes.frames=5", "tasks.weights={video_depth: 1}"]
    settings = load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", scenes).tasks
    clips = training_pictures(pool, settings, 6, seed=0)
    assert clips.shape == (6, 3, 5, 32, 32)
    photos = {sample.clip.permute(3, 0, 1, 2).numpy().tobytes() for sample in pool}
    assert [clip.numpy().tobytes() in photos for clip in clips] == [True] * 3 + [False] * 3


def test_run_improves_on_its_linear_codec_and_measures_its_latents(tmp_path, capsys):
    """On one batch for ever: training starts where the linear codec ends and leaves it behind."""
    overrides = [
        f"run.output_dir={tmp_path}", "run.max_steps=60", "run.validate_every=0", "run.log_every=1",
        "run.precision=fp32", "run.batch_size=8", "run.overfit_batch=true", "optimizer.learning_rate=3e-3",
        "scenes.size=32", "scenes.train_scenes=60", "scenes.validation_scenes=60",
    ]  # fmt: skip
    folder = train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides))
    losses = [float(value) for value in re.findall(r"mse ([0-9.e-]+)", capsys.readouterr().out)]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:3])
    stvae = STVAE.from_pretrained(folder)
    pictures = torch.stack([sample.clip[0].permute(2, 0, 1) for sample in Pool(Scenes("train", size=32), range(60))])
    latents = stvae.to_latent(as_clips(pictures))
    assert latents.std().item() == pytest.approx(1, abs=0.3)
    assert latents.mean().abs() < 0.3


def test_a_frozen_encoder_keeps_its_latents_while_the_decoder_learns(tmp_path):
    """A J-DiT that was trained on these latents must go on to fit: weights, shift and scale are those of ``init``."""
    first = STVAE(**load_config(STVAEConfig, config_dir() / "stvae/debug.yaml").model, shift=0.25, scale=0.5)
    pictures = torch.stack([sample.clip[0].permute(2, 0, 1) for sample in Pool(Scenes("train", size=32), range(8))])
    first.fit_linear_shortcut([as_clips(pictures)])
    for conv in (first.encoder.conv_out, first.decoder.conv_out):
        torch.nn.init.normal_(conv.weight, std=0.05)
    first.save_pretrained(tmp_path / "first")
    overrides = [
        f"output_dir={tmp_path}/run", "run.max_steps=3", "run.validate_every=0", "run.precision=fp32",
        "run.batch_size=2", "run.ema_decay=0", "scenes.size=32", "scenes.train_scenes=12", "pictures=12",
        "scenes.validation_scenes=12", "tasks.weights={edges: 1}", f"init={tmp_path}/first", "freeze_encoder=true",
    ]  # fmt: skip
    second = STVAE.from_pretrained(train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides)))
    clip = as_clips(pictures)
    assert torch.equal(second.to_latent(clip), first.to_latent(clip))
    changed = {name for name, value in second.state_dict().items() if not torch.equal(value, first.state_dict()[name])}
    assert changed and all(name.startswith("decoder.") for name in changed)
    assert not torch.equal(second.from_latent(first.to_latent(clip)), first.from_latent(first.to_latent(clip)))


def test_a_started_model_keeps_what_it_is_told_of_the_past():
    overrides = ["init=lavin-tiny", "keep_of_past=0.25"]
    model = new_model(load_config(STVAEConfig, config_dir() / "stvae/tiny.yaml", overrides))
    first = load_stvae("lavin-tiny")
    slices = [vae.decoder.middle.blocks[0].conv1.weight for vae in (first, model)]
    torch.testing.assert_close(slices[1][:, :, :2], 0.25 * slices[0][:, :, :2])
    picture = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(model.eval().to_latent(picture), first.to_latent(picture), atol=1e-4, rtol=1e-4)


def test_frozen_pictures_stay_as_they_are_while_later_frames_learn(tmp_path):
    """A J-DiT that knows pictures alone must go on to fit, and what it draws must look the same."""
    first = STVAE(**load_config(STVAEConfig, config_dir() / "stvae/debug.yaml").model, shift=0.25, scale=0.5)
    moving = torch.stack([sample.rgb() for sample in Pool(Scenes("train", size=32, frames=5), range(8))])
    first.fit_linear_shortcut([moving[:, :, :1]])  # pictures alone, so later frames are taken to stand still
    for conv in (first.encoder.conv_out, first.decoder.conv_out):
        torch.nn.init.normal_(conv.weight, std=0.05)
    first.save_pretrained(tmp_path / "first")
    overrides = [
        f"output_dir={tmp_path}/run", "run.max_steps=6", "run.validate_every=0", "run.precision=fp32",
        "run.batch_size=10", "run.ema_decay=0", "scenes.size=32", "scenes.train_scenes=12", "pictures=12", "clips=12",
        "clip_share=0.8", "scenes.validation_scenes=12", "tasks.weights={edges: 1}", f"init={tmp_path}/first",
        "freeze_pictures=true", "optimizer.learning_rate=3e-3",
    ]  # fmt: skip
    train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", [*overrides, "run.max_steps=3"]))
    second = STVAE.from_pretrained(train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides)))
    overrides[0] = f"output_dir={tmp_path}/uninterrupted"
    third = STVAE.from_pretrained(train(load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides)))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in third.state_dict().items())
    before, after = first.to_latent(moving), second.to_latent(moving)
    torch.testing.assert_close(after[:, :, 0], before[:, :, 0], atol=1e-4, rtol=0)
    torch.testing.assert_close(second.to_latent(moving[:, :, :1]), before[:, :, :1], atol=1e-4, rtol=0)
    assert (after[:, :, 1:] - before[:, :, 1:]).abs().mean() > 0.01
    decoded = [vae.from_latent(before) for vae in (first, second)]
    torch.testing.assert_close(decoded[1][:, :, 0], decoded[0][:, :, 0], atol=1e-4, rtol=0)
    assert (decoded[1][:, :, 1:] - decoded[0][:, :, 1:]).abs().mean() > 0.01
