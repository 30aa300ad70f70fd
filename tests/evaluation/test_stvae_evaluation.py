"""The ST-VAE's report: its numbers beside slow ones, and a run as a user starts it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

from lavin.data.mixture import Pool
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.evaluation import stvae as report
from lavin.models.linear_codec import LinearCodec
from lavin.models.stvae import STVAE
from lavin.tasks import REGISTRY
from lavin.training.cogvideox_baseline import AutoencoderKLCogVideoX
from tests.test_photos import plane_depth, unit, write_rgbd

ROOT = Path(__file__).parents[2]
SIZES = {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}


class Darker:
    """Returns every frame darker than the one before by so many levels."""

    device = torch.device("cpu")

    def __init__(self, levels: float):
        self.levels = levels

    def reconstruct(self, clip):
        return clip - torch.arange(1, clip.shape[2] + 1)[:, None, None] * self.levels / 127.5


def test_psnr_by_frame_equals_its_formula():
    """An error of n levels everywhere is 20 log10(255 / n) dB; the fall is from the first frame to the worst."""
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randint(60, 200, (3, 5, 16, 16), generator=generator) / 127.5 - 1 for _ in range(2)]
    codec = LinearCodec(4)
    codec.fit([clip[None] for clip in clips])
    found = report.quality("clips", Darker(2), codec, clips, None)
    wanted = [20 * math.log10(255 / (2 * n)) for n in range(1, 6)]
    assert found.psnr_by_frame == pytest.approx(wanted, abs=1e-6)
    assert found.psnr_db == pytest.approx(np.mean(wanted), abs=1e-6)
    assert found.fall_db == pytest.approx(20 * math.log10(5), abs=1e-6)
    assert found.lpips is None and (found.count, found.frames) == (2, 5)
    assert found.ssim_by_frame[0] > found.ssim_by_frame[-1]


def test_lpips_stands_beside_the_rest_where_it_is_available(random_squeezenet):
    clip = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5
    codec = LinearCodec(4)
    codec.fit([clip[None]])
    lpips, why_not = report.make_lpips("squeeze")
    found = report.quality("clips", Darker(3), codec, [clip], lpips)
    assert why_not is None
    assert found.lpips == pytest.approx(np.mean(found.lpips_by_frame))
    assert found.lpips_by_frame[0] < found.lpips_by_frame[-1]


class KnownLatent:
    """Its latent is what the clip says: means along known directions, one channel that never moves."""

    device = torch.device("cpu")

    def encode(self, clip):
        mean = torch.cat([2 * clip[:, :1] + 1, clip[:, 1:2], torch.zeros_like(clip[:, :1])], 1)
        return AutoencoderKLOutput(
            latent_dist=DiagonalGaussianDistribution(torch.cat([mean, -torch.ones(mean.shape)], 1))
        )


def test_latent_statistics_equal_their_definition():
    clips = list(torch.randn(40, 3, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    found = report.latent_statistics(KnownLatent(), clips)
    x = torch.stack(clips).transpose(0, 1).flatten(1).double()
    assert found.mean == pytest.approx([2 * x[0].mean().item() + 1, x[1].mean().item(), 0])
    assert found.variance == pytest.approx([4 * x[0].var().item(), x[1].var().item(), 0])
    assert found.noise == pytest.approx([math.exp(-1)] * 3)
    assert found.dead_channels == [2]
    assert found.kl[2] == pytest.approx((math.exp(-1) - 1 + 1) / 2)
    assert found.spectrum == pytest.approx([0.8, 0.2, 0], abs=0.01)
    assert found.effective_channels == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)), abs=0.02)


def test_a_lossless_model_reaches_the_codes_own_ceiling_and_a_lossy_one_does_not():
    pool = Pool(Scenes("validation", size=32), range(20))
    exact, dark = (report.ceiling(Darker(levels), REGISTRY["depth"], pool, 4) for levels in (0, 30))
    assert exact.through == pytest.approx(exact.code, abs=1e-9)
    assert dark.through > 2 * dark.code
    assert (exact.metric, exact.queries, exact.higher_is_better) == ("AbsRel", 4, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((60, 17, False), "size is 60; it must be a multiple of 8"),
        ((24, 17, True), "multiple of 8, 32 or more"),
        ((64, 16, False), "frames is 16; clips have 1 . 4k frames, k at least 1, e.g. 17"),
        ((64, 1, False), "e.g. 5"),
    ],
)
def test_impossible_sizes_are_refused_by_option(arguments, message):
    with pytest.raises(InputError, match=message):
        report.check(*arguments)


def test_the_validation_part_of_an_rgbd_video_is_shown_as_clips_too(tmp_path):
    write_rgbd(tmp_path / "rgbd", [plane_depth(unit(0, 0, 1))] * 80)  # the last 12 frames: 68 to 79
    shown = report.photo_clips(tmp_path, 16, 3, 5)
    assert [len(clips) for clips in shown.values()] == [3, 2]
    reds = [((clip[0].mean((1, 2)) + 1) * 127.5).round().tolist() for clip in shown["rgbd, video"]]
    assert np.abs(np.array(reds) - [[68, 69, 70, 71, 72], [73, 74, 75, 76, 77]]).max() <= 1
    assert list(report.photo_clips(tmp_path, 16, 3, 13)) == ["rgbd"]


@pytest.mark.parametrize("wrong", ["", "8,", "fast", "0", "8,-1", "inf", "nan"])
def test_rates_are_numbers_above_0(wrong):
    assert report.rates("8, 24.5") == [8, 24.5]
    with pytest.raises(InputError, match=r"--fps is '.*'; it must be numbers above 0"):
        report.rates(wrong)


def test_the_ancestor_has_our_weights_count_and_is_read_back_as_itself(tmp_path):
    ours, theirs = STVAE(**SIZES), AutoencoderKLCogVideoX(**SIZES)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    clip = torch.rand(1, 3, 9, 16, 16) * 2 - 1
    theirs.measure_latents([clip, -clip])
    theirs.eval().save_pretrained(tmp_path)
    again = report.load(str(tmp_path))
    assert type(again) is AutoencoderKLCogVideoX
    with torch.no_grad():
        torch.testing.assert_close(again.reconstruct(clip), theirs.reconstruct(clip))
        latent = (again.encode(clip).latent_dist.mode() - again.config.shift_factor) * again.config.scaling_factor
    assert latent.std().item() == pytest.approx(1, abs=0.3)


@pytest.mark.slow
def test_report_as_a_user_starts_it(tmp_path):
    torch.manual_seed(0)
    STVAE(**SIZES).save_pretrained(tmp_path / "model")
    command = [
        sys.executable, "eval/stvae.py", "quality", "--model", str(tmp_path / "model"), "--size", "32", "--frames", "5",
        "--fps", "8,32", "--images", "3", "--clips", "1", "--tasks", "edges", "--queries", "2", "--pool", "12",
        "--out", str(tmp_path / "report.json"), "--picture", str(tmp_path / "report.png"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    content = json.loads((tmp_path / "report.json").read_text())
    assert [kind["kind"] for kind in content["reconstruction"]] == ["scenes", "clips, 8 fps", "clips, 32 fps"]
    assert len(content["reconstruction"][1]["psnr_by_frame"]) == 5
    assert content["tasks"][0]["task"] == "edges"
    assert "LPIPS" in done.stdout or content["reconstruction"][0]["lpips"] is not None
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert again.returncode == 2 and len(again.stderr.splitlines()) == 1 and "report.json" in again.stderr
