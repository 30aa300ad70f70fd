"""The ST-VAE against diffusers' own class with the same weights, through a folder that diffusers saved."""

import json

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from lavin.errors import InputError
from lavin.models.cogvideox import load_cogvideox

EXACT = {"atol": 1e-10, "rtol": 1e-10}  # float64


@pytest.fixture(scope="module")
def ancestor() -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        norm_eps=1e-6,
        scaling_factor=0.7,
    )
    for parameter in vae.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vae.double().eval().requires_grad_(False)


@pytest.fixture
def folder(ancestor, tmp_path):
    ancestor.save_pretrained(tmp_path / "pipeline" / "vae")
    return tmp_path / "pipeline" / "vae"


@pytest.mark.parametrize("frames", [1, 5, 9, 13, 17, 21, 33])
def test_encodes_and_decodes_as_diffusers_does(ancestor, folder, frames):
    """From 17 frames on (5 latents) in chunks, whose statistics are their own."""
    vae = load_cogvideox(folder)
    clip = torch.rand(2, 3, frames, 16, 24, dtype=torch.float64) * 2 - 1
    latent = torch.randn(2, 4, 1 + frames // 4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(
        vae.encode(clip).latent_dist.parameters, ancestor.encode(clip).latent_dist.parameters, **EXACT
    )
    if latent.shape[2] % 2:
        torch.testing.assert_close(vae.decode(latent).sample, ancestor.decode(latent).sample, **EXACT)
    else:  # diffusers' class doubles the first frame too
        assert vae.decode(latent).sample.shape[2] == frames != ancestor.decode(latent).sample.shape[2]


def test_scale_is_diffusers(ancestor, folder):
    vae, image = load_cogvideox(folder), torch.rand(1, 3, 1, 16, 16, dtype=torch.float64)
    expected = ancestor.encode(image).latent_dist.mode() * ancestor.config.scaling_factor
    torch.testing.assert_close(vae.to_latent(image), expected, **EXACT)


def test_takes_a_pipeline_folder_a_scope_and_a_dtype(folder):
    vae = load_cogvideox(folder.parent, norm_scope="frame", dtype=torch.float32)
    assert vae.dtype == torch.float32 and vae.config.norm_scope == "frame"
    clip = torch.rand(1, 3, 33, 8, 8) * 2 - 1
    whole, start = (vae.encode(clip[:, :, :frames]).latent_dist.mean for frames in (33, 9))
    torch.testing.assert_close(whole[:, :, :3], start, atol=1e-5, rtol=1e-5)  # causal: no chunks are needed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "describes a AutoencoderKL, not an AutoencoderKLCogVideoX"),
        ({"temporal_compression_ratio": 8, "act_fn": "gelu"}, "act_fn gelu .not silu., temporal_compression_ratio 8"),
        ({"block_out_channels": [8, 8, 16, 32]}, "wrongly shaped weights"),
        ({"layers_per_block": 2}, "missing weights"),
    ],
)
def test_another_layout_is_refused_by_name(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InputError, match=message):
        load_cogvideox(folder)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no config\.json"):
        load_cogvideox(tmp_path)
