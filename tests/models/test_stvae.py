"""The ST-VAE: what depends on what in time, images as 2D, the linear shortcut, saving, and the errors."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from lavin.models.stvae import STVAE, pad_frames
from lavin.models.stvae_layers import CausalConv3d, Frames, fold, unfold

EXACT = {"atol": 1e-12, "rtol": 1e-12}  # float64
SMALL = {"latent_channels": 4, "block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture(autouse=True)
def one_thread():
    """On tensors this small two threads only wait for each other, on a busy machine for minutes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_clip(batch: int, frames: int, height: int = 8, width: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, frames, height, width, generator=generator, dtype=torch.float64) * 2 - 1


def random_latent(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, 4, frames, 1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_vae(norm_scope: str = "frame", linear_shortcut: bool = False, **config) -> STVAE:
    """Small, float64, no layer left at its special start; the shortcut, if any, is fitted to clips."""
    torch.manual_seed(0)
    vae = STVAE(**{**SMALL, **config}, norm_scope=norm_scope, linear_shortcut=linear_shortcut).double().eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if linear_shortcut:
        vae.fit_linear_shortcut([random_clip(4, 5, 32, 32, seed=7)])
    return vae.requires_grad_(False)


def moments(vae: STVAE, clip: Tensor) -> Tensor:
    return vae.encode(clip).latent_dist.parameters


def decode(vae: STVAE, latent: Tensor) -> Tensor:
    return vae.decode(latent).sample


def test_full_size_has_the_released_parameter_count():
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in STVAE().parameters()) == 215_583_907


@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_frame_scope_encodes_causally(linear_shortcut):
    vae, clip = random_vae("frame", linear_shortcut), random_clip(2, 13)
    whole = moments(vae, clip)
    torch.testing.assert_close(moments(vae, clip[:, :, :1]), whole[:, :, :1], **EXACT)  # the image alone
    for k in (1, 2):  # any prefix of 1 + 4k frames
        torch.testing.assert_close(moments(vae, clip[:, :, : 1 + 4 * k]), whole[:, :, : 1 + k], **EXACT)
    for changed, latent in ((5, 2), (8, 2), (9, 3)):  # frames 4i - 3 ... 4i first show in latent i
        other = clip.clone()
        other[:, :, changed:] = random_clip(2, 13, seed=1)[:, :, changed:]
        difference = (moments(vae, other) - whole).abs().amax(dim=(0, 1, 3, 4))
        assert difference[:latent].max() <= 1e-12 and difference[latent] > 1e-3


@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_frame_scope_decodes_causally(linear_shortcut):
    vae, latent = random_vae("frame", linear_shortcut), random_latent(2, 4)
    whole = decode(vae, latent)
    for k in (0, 1, 2):  # frames 0 ... 4k come from latents 0 ... k
        torch.testing.assert_close(decode(vae, latent[:, :, : 1 + k]), whole[:, :, : 1 + 4 * k], **EXACT)
        other = latent.clone()
        other[:, :, 1 + k :] = random_latent(2, 4, seed=1)[:, :, 1 + k :]
        difference = (decode(vae, other) - whole).abs().amax(dim=(0, 1, 3, 4))
        assert difference[: 1 + 4 * k].max() <= 1e-12 and difference[1 + 4 * k] > 1e-3


@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_clip_scope_keeps_a_still_clip_still(linear_shortcut):
    vae = random_vae("clip", linear_shortcut)
    if linear_shortcut:  # images alone: later frames are then taken to stand still
        vae.fit_linear_shortcut([random_clip(8, 1, 32, 32, seed=7)])
    image, latent = random_clip(2, 1), random_latent(2, 1)
    still = {"atol": 1e-10, "rtol": 1e-10}  # float64; statistics over nine equal frames round differently
    torch.testing.assert_close(
        moments(vae, image.repeat(1, 1, 9, 1, 1)), moments(vae, image).repeat(1, 1, 3, 1, 1), **still
    )
    torch.testing.assert_close(
        decode(vae, latent.repeat(1, 1, 3, 1, 1)), decode(vae, latent).repeat(1, 1, 9, 1, 1), **still
    )


def test_scopes_agree_on_images_and_differ_on_clips():
    frame, clip = random_vae("frame"), random_vae("clip")
    image, video = random_clip(2, 1), random_clip(2, 5)
    assert torch.equal(frame(image).sample, clip(image).sample)
    assert (moments(frame, video) - moments(clip, video))[:, :, 0].abs().max() > 1e-3  # "clip" lets the future leak


def test_images_take_a_2d_path_that_equals_the_3d_one(monkeypatch):
    vae = random_vae()
    image, latent = random_clip(2, 1), random_latent(2, 1)
    with_2d = moments(vae, image), decode(vae, latent)

    def forward_3d(conv: CausalConv3d, x: Tensor, frames: Frames) -> Tensor:
        return fold(conv.over_time(unfold(x, frames.count)))

    def no_3d(conv: CausalConv3d, clip: Tensor, history: dict | None = None) -> Tensor:
        raise AssertionError("an image took the 3D path")

    with monkeypatch.context() as patch:
        patch.setattr(CausalConv3d, "over_time", no_3d)
        moments(vae, image), decode(vae, latent)
    monkeypatch.setattr(CausalConv3d, "forward", forward_3d)
    torch.testing.assert_close(with_2d, (moments(vae, image), decode(vae, latent)), atol=1e-10, rtol=1e-10)


def test_2d_path_has_the_gradient_of_the_3d_one():
    conv = CausalConv3d(3, 4)
    image = torch.randn(2, 3, 1, 8, 8)
    conv(fold(image), Frames(1)).square().sum().backward()
    found = conv.weight.grad.clone()
    conv.weight.grad = None
    conv.over_time(image).square().sum().backward()
    torch.testing.assert_close(found, conv.weight.grad, atol=1e-4, rtol=1e-4)  # float32, sums of 128 squares


def test_fresh_kernels_see_the_frame_alone_and_vary_as_2d_ones():
    conv, flat = CausalConv3d(64, 64), torch.nn.Conv2d(64, 64, 3)
    assert conv.weight[:, :, :2].abs().max() == 0
    assert conv.weight.sum(2).std().item() == pytest.approx(flat.weight.std().item(), rel=0.02)
    clip = random_clip(2, 5)
    conv = CausalConv3d(3, 4).double()
    by_frame = torch.stack([conv(frame, Frames(1)) for frame in clip.unbind(2)], dim=2)
    torch.testing.assert_close(conv.over_time(clip), by_frame, **EXACT)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_keeping_less_of_the_past_blends_into_the_frame_alone(share):
    looks_back, clip = CausalConv3d(3, 4).double(), random_clip(2, 5)
    torch.nn.init.normal_(looks_back.weight)
    blended, alone = copy.deepcopy(looks_back), copy.deepcopy(looks_back)
    blended.keep_of_past(share)
    alone.keep_of_past(0.0)
    assert alone.weight[:, :, :2].abs().max() == 0
    torch.testing.assert_close(blended.weight.sum(2), looks_back.weight.sum(2), **EXACT)  # what pictures see
    expected = torch.lerp(alone.over_time(clip), looks_back.over_time(clip), share)
    torch.testing.assert_close(blended.over_time(clip), expected, **EXACT)
    assert (alone.over_time(clip) - looks_back.over_time(clip)).abs().mean() > 0.1


@pytest.mark.parametrize("frames", range(1, 18))
def test_any_length_and_odd_sizes_round_trip_in_shape(frames):
    vae = random_vae(block_out_channels=(4, 4, 4, 4))
    clip = random_clip(1, frames, height=7 + frames % 5, width=17)
    assert vae.reconstruct(clip).shape == clip.shape


def test_padding_repeats_the_edge_and_nothing_else():
    clip = random_clip(1, 6)
    padded = pad_frames(clip)
    assert torch.equal(padded[:, :, :6], clip)
    assert torch.equal(padded[:, :, 6:], clip[:, :, 5:].expand(-1, -1, 3, -1, -1))
    assert torch.equal(pad_frames(clip[:, :, :5]), clip[:, :, :5])
    vae, image = random_vae(), random_clip(1, 1, height=9, width=16)
    edge = torch.cat([image, image[..., 8:, :].expand(-1, -1, -1, 7, -1)], dim=-2)
    assert torch.equal(vae.reconstruct(image), vae(edge).sample[..., :9, :])


@pytest.mark.parametrize("norm_scope", ["frame", "clip"])
def test_calls_and_samples_do_not_touch_each_other(norm_scope):
    vae, clip = random_vae(norm_scope), random_clip(3, 5)
    first = vae(clip).sample
    vae(random_clip(1, 9, seed=3))
    assert torch.equal(vae(clip).sample, first)  # no state between calls
    one_by_one = torch.cat([vae(sample[None]).sample for sample in clip])
    torch.testing.assert_close(one_by_one, first, **EXACT)


def test_log_variance_is_clamped_and_samples_follow_the_generator():
    vae, image = random_vae(), random_clip(2, 1)
    vae.encoder.conv_out.bias[4:] = torch.tensor([1e3, -1e3, 0.0, 0.0], dtype=torch.float64)
    posterior = vae.encode(image).latent_dist
    assert (posterior.logvar[:, 0] == 20).all() and (posterior.logvar[:, 1] == -30).all()
    samples = [posterior.sample(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])
    assert torch.equal(posterior.mode(), posterior.mean)


def test_measured_latents_have_zero_mean_and_unit_variance():
    vae = random_vae()
    batches = [random_clip(2, 5, seed=1), random_clip(3, 1, seed=2)]
    vae.measure_latents(batches)
    latents = torch.cat([vae.to_latent(clip).transpose(0, 1).flatten(1) for clip in batches], dim=1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(latents.std(1, unbiased=False), torch.ones(4, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(vae.from_latent(vae.to_latent(batches[0])), vae(batches[0]).sample, atol=1e-9, rtol=0)


def test_one_measured_scale_keeps_the_channels_proportions():
    vae, batches = random_vae(), [random_clip(2, 5, seed=1), random_clip(3, 1, seed=2)]
    raw = torch.cat([vae.encode(clip).latent_dist.mean.transpose(0, 1).flatten(1) for clip in batches], dim=1)
    vae.measure_latents(batches, per_channel=False)
    latents = torch.cat([vae.to_latent(clip).transpose(0, 1).flatten(1) for clip in batches], dim=1)
    assert latents.var(1, unbiased=False).mean().item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(latents, (raw - raw.mean(1, keepdim=True)) * vae.config.scale, atol=1e-9, rtol=0)


def test_released_scaling_is_one_number_for_all_channels():
    vae, image = random_vae(shift=0.032470703125, scale=1.08936170213), random_clip(1, 1)
    expected = (vae.encode(image).latent_dist.mean - 0.032470703125) * 1.08936170213
    torch.testing.assert_close(vae.to_latent(image), expected, **EXACT)


@pytest.mark.parametrize("linear_shortcut", [False, True])
def test_saved_and_loaded_is_the_same_model_bit_for_bit(tmp_path, linear_shortcut):
    vae, clip = random_vae("frame", linear_shortcut).float(), random_clip(2, 5).float()
    vae.measure_latents([clip])
    vae.save_pretrained(tmp_path)
    loaded = STVAE.from_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    assert loaded.config.shift == vae.config.shift and loaded.config.scale == vae.config.scale
    assert all(torch.equal(loaded.state_dict()[name], weight) for name, weight in vae.state_dict().items())
    assert torch.equal(loaded.to_latent(clip), vae.to_latent(clip))


def numpy_pca(patches: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, principal directions as rows and singular values of rows of patches, by SVD."""
    mean = patches.mean(0)
    _, singular, directions = np.linalg.svd(patches - mean, full_matrices=False)
    return mean, directions[:count], singular[:count] / len(patches) ** 0.5


def numpy_patches(clip: np.ndarray, frames: int) -> np.ndarray:
    """(batch, 3, n, height, width) -> (batch, n / frames, height / 8, width / 8, 3 * frames * 64)."""
    b, c, n, h, w = clip.shape
    blocks = clip.reshape(b, c, n // frames, frames, h // 8, 8, w // 8, 8).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return blocks.reshape(b, n // frames, h // 8, w // 8, -1)


def smooth_clip(batch: int, frames: int, seed: int = 0) -> Tensor:
    """Correlated pixels, as pictures have them, so that the leading components are well apart."""
    noise = random_clip(batch, frames, 32, 32, seed)
    smooth = torch.nn.functional.avg_pool3d(noise, (1, 5, 5), stride=1, padding=(0, 2, 2))
    return smooth + 0.7 * smooth.cumsum(2)


def test_shortcut_alone_is_the_pca_codec_at_the_start():
    """Fitted to clips: first frames by the PCA of 8x8 patches of all frames, later ones by that of 4x8x8 patches."""
    vae = STVAE(**SMALL, linear_shortcut=True).double()
    sample, clip = smooth_clip(16, 5), smooth_clip(2, 9, seed=1)
    vae.fit_linear_shortcut([sample[:7], sample[7:]])
    found = vae(clip).sample.detach().numpy()
    parts = ((sample, sample[:, :, 1:]), (clip[:, :, :1], clip[:, :, 1:]), (found[:, :, :1], found[:, :, 1:]))
    for fit_on, applied_to, result, frames in zip(*parts, (1, 4)):
        mean, directions, _ = numpy_pca(numpy_patches(fit_on.numpy(), frames).reshape(-1, 192 * frames), 4)
        patches = numpy_patches(applied_to.numpy(), frames) - mean
        expected = patches @ directions.T @ directions + mean
        np.testing.assert_allclose(numpy_patches(result, frames), expected, atol=1e-9)


def test_shortcut_is_half_whitened_and_touches_the_mean_only():
    vae = STVAE(**SMALL, linear_shortcut=True).double()
    images = smooth_clip(32, 1)
    vae.fit_linear_shortcut([images])
    posterior = vae.encode(images).latent_dist
    _, _, std = numpy_pca(numpy_patches(images.numpy(), 1).reshape(-1, 192), 4)
    latent_std = posterior.mean.detach().transpose(0, 1).flatten(1).std(1, unbiased=False)
    np.testing.assert_allclose(latent_std.numpy(), std**0.5, rtol=1e-6)
    assert posterior.logvar.unique().numel() == 1
    assert posterior.std.max() < 0.1 * latent_std.min()  # a sample, too, decodes as the codec does


def test_later_frames_alone_are_fitted_as_with_the_rest():
    vae = STVAE(**SMALL, linear_shortcut=True).double()
    vae.fit_linear_shortcut([smooth_clip(16, 5)])
    whole = copy.deepcopy(dict(vae.shortcut.named_buffers()))
    vae.fit_linear_shortcut([fold(smooth_clip(16, 5))[:, :, None]])  # the same frames as images: later ones stand still
    assert not torch.allclose(vae.shortcut.clip_basis, whole["clip_basis"])
    vae.shortcut.fit_later_frames([smooth_clip(16, 5)])
    for name, buffer in vae.shortcut.named_buffers():
        torch.testing.assert_close(buffer, whole[name])
    with pytest.raises(ValueError, match="clips of 5 frames or more"):
        vae.shortcut.fit_later_frames([smooth_clip(16, 1)])


def test_channels_that_stay_the_pictures_keep_still_frames_and_leave_the_rest_to_motion():
    """The first two channels code later frames as if they stood still; two more are the PCA of what is left."""
    vae = STVAE(**SMALL, linear_shortcut=True).double()
    vae.fit_linear_shortcut([smooth_clip(16, 1)])
    still, moving = copy.deepcopy(vae.shortcut), smooth_clip(16, 5, seed=1)
    vae.shortcut.fit_later_frames([moving], standing=2)
    found, before = (codec.encode(moving)[:, :, 1:] for codec in (vae.shortcut, still))
    torch.testing.assert_close(found[:, :2], before[:, :2])
    kept = still.clip_basis[:2].numpy()
    rows = numpy_patches(moving[:, :, 1:].numpy(), 4).reshape(-1, 768)
    _, directions, _ = numpy_pca(rows - rows @ kept.T @ kept, 2)
    np.testing.assert_allclose(np.abs(vae.shortcut.clip_basis[2:].numpy() @ directions.T), np.eye(2), atol=1e-9)


def test_shortcut_fitted_to_images_takes_later_frames_for_still():
    vae = STVAE(**SMALL, linear_shortcut=True).double()
    vae.fit_linear_shortcut([smooth_clip(32, 1)])
    clip = smooth_clip(2, 5, seed=1)
    mean_frame = clip[:, :, 1:].mean(2, keepdim=True)
    expected = torch.cat([vae(clip[:, :, :1]).sample, vae(mean_frame).sample.expand(-1, -1, 4, -1, -1)], dim=2)
    torch.testing.assert_close(vae(clip).sample, expected, atol=1e-9, rtol=0)


def test_gradient_checkpointing_recomputes_and_changes_no_gradient():
    vae, clip = random_vae().requires_grad_(True), random_clip(1, 5)
    vae(clip).sample.square().mean().backward()
    expected = {
        name: parameter.grad.clone() for name, parameter in vae.named_parameters() if parameter.grad is not None
    }
    vae.zero_grad()
    calls = Counter()
    block = vae.decoder.stages[0].blocks[0]
    block.register_forward_pre_hook(lambda *_: calls.update(["block"]))
    vae.enable_gradient_checkpointing()
    vae(clip).sample.square().mean().backward()
    assert calls["block"] == 2  # forward, and again backwards: it is active
    for name, gradient in expected.items():
        torch.testing.assert_close(vae.get_parameter(name).grad, gradient, **EXACT)


def test_autocast_leaves_latents_and_the_linear_codec_in_float32():
    vae = STVAE(**SMALL, linear_shortcut=True)
    image = smooth_clip(4, 1).float()
    vae.fit_linear_shortcut([image])
    with torch.no_grad():
        expected = vae(image).sample
        with torch.autocast("cpu", torch.bfloat16):
            found = vae(image).sample
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 1, 16, 16), "an image has frames = 1"),
        ((1, 4, 1, 16, 16), "expected a clip"),
        ((1, 3, 4, 16, 16), "1 \\+ 4k frames, got 4"),
        ((1, 3, 0, 16, 16), "1 \\+ 4k frames, got 0"),
        ((1, 3, 1, 15, 16), "multiples of 8, got 15x16"),
        ((1, 3, 1, 16, 0), "multiples of 8, got 16x0"),
    ],
)
def test_clips_it_cannot_encode_are_named(shape, message):
    with pytest.raises(ValueError, match=message):
        STVAE(**SMALL).encode(torch.zeros(shape))


def test_other_mistakes_are_named():
    vae = STVAE(**SMALL)
    with pytest.raises(ValueError, match="uint8"):
        vae.encode(torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="expected a latent"):
        vae.decode(torch.zeros(1, 16, 1, 2, 2))
    with pytest.raises(ValueError, match="linear_shortcut=True"):
        vae.fit_linear_shortcut([torch.zeros(1, 3, 1, 16, 16)])
    with pytest.raises(ValueError, match="no clips to fit"):
        STVAE(**SMALL, linear_shortcut=True).fit_linear_shortcut([])
    with pytest.raises(ValueError, match="no latents to measure"):
        vae.measure_latents([])
    with pytest.raises(ValueError, match="norm_scope"):
        STVAE(**SMALL, norm_scope="video")
    with pytest.raises(ValueError, match="shift has 2 values for 4"):
        STVAE(**SMALL, shift=[0.0, 1.0])
    with pytest.raises(ValueError, match="multiples of 32 groups"):
        STVAE(block_out_channels=(16, 32, 64, 64))
