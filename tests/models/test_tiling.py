"""Tiles, chunks and slices against the whole."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor

from lavin.models.stvae import STVAE
from lavin.models.tiling import run_in_tiles, tile_starts
from lavin.pipeline import LavinPipeline

EXACT = {"atol": 1e-12, "rtol": 1e-12}  # float64


def random_vae(**config) -> STVAE:
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    vae = STVAE(**sizes, **config).double().eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter += 0.1 * torch.randn_like(parameter)
    return vae


def smooth_image(height: int, width: int) -> Tensor:
    """Low frequencies of random phase in every channel."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    phase = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)) * 6.3
    waves = [torch.sin(4 * y + a) + torch.cos(3 * x + b) + torch.sin(2 * (x + y) + c) for a, b, c in phase]
    return (torch.stack(waves) / 3)[None, :, None]


def psnr(a: Tensor, b: Tensor) -> float:
    return float(10 * torch.log10(4 / (a - b).square().mean()))


@pytest.mark.parametrize(("size", "tile", "overlap"), [(100, 32, 8), (33, 32, 8), (32, 32, 8), (96, 32, 0), (9, 4, 3)])
def test_tiles_cover_the_side_and_overlap(size, tile, overlap):
    starts = tile_starts(size, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile == size
    assert all(0 < after - before <= tile - overlap for before, after in zip(starts, starts[1:]))


@pytest.mark.parametrize("scale", [Fraction(1), Fraction(1, 8), Fraction(8)])
def test_blending_a_pixelwise_function_changes_nothing(scale):
    def resize(x: Tensor) -> Tensor:
        if scale > 1:
            return x.repeat_interleave(8, -1).repeat_interleave(8, -2)
        return torch.nn.functional.avg_pool2d(x, int(1 / scale)) if scale < 1 else x

    x = torch.randn(2, 3, 88, 72)
    tiled = run_in_tiles(resize, x, (32, 24), (8, 16), scale)
    torch.testing.assert_close(tiled, resize(x), atol=1e-6, rtol=1e-6)


def test_two_constant_tiles_blend_linearly():
    values = iter([0.0, 1.0])
    blended = run_in_tiles(
        lambda x: torch.full_like(x, next(values)), torch.zeros(1, 1, 24), (1, 16), (0, 8), Fraction(1)
    )
    expected = torch.cat([torch.zeros(8), (torch.arange(8) + 0.5) / 8, torch.ones(8)])
    torch.testing.assert_close(blended[0, 0], expected)


def test_tiled_equals_untiled_on_a_smooth_image_and_shows_no_seam():
    """The bundled ST-VAE; 192 x 256 in tiles of 96 with a quarter of overlap."""
    vae, image = LavinPipeline.from_pretrained("lavin-tiny").stvae.requires_grad_(False), smooth_image(192, 256)
    latent = vae.encode(image).latent_dist.mean
    whole = vae.decode(latent).sample
    vae.enable_tiling(96, 96)
    tiled_latent, tiled = vae.encode(image).latent_dist.mean, vae.decode(latent).sample
    both = vae.decode(tiled_latent).sample
    assert not torch.equal(tiled, whole)
    assert psnr(tiled, whole) > 40 and psnr(both, whole) > 40
    steps = [(x[..., 1:] - x[..., :-1]).abs().mean(dim=(0, 1, 2, 3)) for x in (both, whole)]
    assert (steps[0] - steps[1]).abs().max() < 2 / 255  # no column where the picture jumps more than untiled
    vae.disable_tiling()
    assert torch.equal(vae.decode(latent).sample, whole)


def test_pictures_up_to_a_tile_are_not_tiled():
    vae, image = random_vae(), torch.rand(1, 3, 1, 16, 24, dtype=torch.float64)
    whole = vae.encode(image).latent_dist.parameters
    vae.enable_tiling(16, 24)
    assert torch.equal(vae.encode(image).latent_dist.parameters, whole)


def test_tiling_takes_its_memory_from_the_tile():
    """No activation is larger than a tile's, the picture being 16 times as large."""
    vae, image = random_vae(), torch.rand(1, 3, 1, 128, 128, dtype=torch.float64)
    seen = []
    for block in (vae.encoder.conv_in, vae.decoder.conv_out):
        block.register_forward_hook(lambda module, inputs, output: seen.append(output[0, 0].numel()))
    vae.enable_tiling(32, 32, 0.25, 0.25)
    vae.decode(vae.encode(image).latent_dist.mean)
    assert max(seen) == 32 * 32 and len(seen) == 2 * 5 * 5


@pytest.mark.parametrize("linear_shortcut", [False, True])
@pytest.mark.parametrize("frames", [1, 5, 13, 17, 21, 33])
@pytest.mark.parametrize("chunk", [4, 8])
def test_chunks_equal_the_whole_clip(frames, chunk, linear_shortcut):
    vae = random_vae(linear_shortcut=linear_shortcut)
    clip = torch.rand(1, 3, frames, 16, 16, dtype=torch.float64) * 2 - 1
    if linear_shortcut:
        vae.fit_linear_shortcut([torch.rand(8, 3, 5, 32, 32, dtype=torch.float64)])
    latent = torch.randn(1, 4, 1 + frames // 4, 2, 2, dtype=torch.float64)
    whole = vae.encode(clip).latent_dist.parameters, vae.decode(latent).sample
    vae.enable_chunking(chunk)
    torch.testing.assert_close((vae.encode(clip).latent_dist.parameters, vae.decode(latent).sample), whole, **EXACT)


def test_chunks_of_clip_wide_norms_are_an_approximation():
    vae, clip = random_vae(norm_scope="clip"), torch.rand(1, 3, 17, 16, 16, dtype=torch.float64)
    whole = vae.encode(clip).latent_dist.mean
    vae.enable_chunking(8)
    assert (vae.encode(clip).latent_dist.mean - whole).abs().max() > 1e-4
    vae.disable_chunking()
    assert torch.equal(vae.encode(clip).latent_dist.mean, whole)


def test_chunks_take_no_more_frames_than_asked():
    vae, clip = random_vae(), torch.rand(1, 3, 33, 8, 8, dtype=torch.float64)
    seen = []
    vae.encoder.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    vae.enable_chunking(4)
    vae.encode(clip)
    assert seen == [5, *[4] * 7]


def test_slices_equal_the_batch():
    vae, clips = random_vae(), torch.rand(3, 3, 5, 16, 16, dtype=torch.float64)
    whole = vae(clips).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae(clips).sample, whole, **EXACT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tile_sample_min_height": 100}, "tile_sample_min_height is 100; it must be a multiple of 8"),
        ({"tile_sample_min_width": 0}, "tile_sample_min_width is 0"),
        ({"tile_overlap_factor_width": 1.0}, "tile_overlap_factor_width is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_impossible_tiles_are_refused_and_change_nothing(arguments, message):
    vae = random_vae()
    with pytest.raises(ValueError, match=message):
        vae.enable_tiling(**arguments)
    assert not vae.use_tiling and vae.tile_sample_min_height == 256


def test_impossible_chunks_are_refused():
    with pytest.raises(ValueError, match="num_frames is 6; it must be a multiple of 4"):
        random_vae().enable_chunking(6)
