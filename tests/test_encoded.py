"""A context encoded once: in memory, in a file, for many queries; and what each speed computes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from lavin import STVAE, JDiT, LavinPipeline
from lavin.encoded import EncodedContext, fingerprint
from lavin.errors import InputError
from lavin.speed import SPEEDS, Speed, find_speed

SIZE = 32
NEAR = {"atol": 1e-5, "rtol": 0}  # float32, two blocks


def make_pipeline(attention: str, seed: int = 0) -> LavinPipeline:
    torch.manual_seed(seed)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    jdit = JDiT(latent_channels=4, hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, attention=attention)
    for parameter in jdit.parameters():  # a fresh J-DiT predicts zero
        torch.nn.init.normal_(parameter, std=0.1)
    return LavinPipeline(stvae.eval(), jdit.eval(), sample_size=SIZE)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8))


CONTEXT = [(picture(0), picture(1)), (picture(2), picture(3))]
QUERIES = [picture(4), picture(5), picture(6)]


def latents(pipe: LavinPipeline, context, **options) -> torch.Tensor:
    options = {"num_inference_steps": 6, "output_type": "latent", "speed": "exact"} | options
    return pipe(context, QUERIES, generator=torch.Generator().manual_seed(0), **options).latents


@pytest.fixture(params=["full", "causal"])
def pipe(request) -> LavinPipeline:
    return make_pipeline(request.param)


@pytest.mark.parametrize("speed", list(SPEEDS))
def test_an_encoded_context_predicts_what_its_pairs_do(pipe, speed):
    encoded = pipe.encode_context(CONTEXT)
    torch.testing.assert_close(latents(pipe, encoded, speed=speed), latents(pipe, CONTEXT, speed=speed), **NEAR)


def test_caching_is_exact_for_causal_models():
    pipe = make_pipeline("causal")
    exact, cached = (latents(pipe, CONTEXT, speed=Speed(cached=cached)) for cached in (False, True))
    torch.testing.assert_close(cached, exact, **NEAR)


def test_a_full_model_computes_its_condition_as_often_as_asked(monkeypatch):
    """Five steps and guidance: the condition at every call, at every second one, at the first."""
    pipe, full_calls, forward = make_pipeline("full"), [], JDiT.forward

    def counting(self, x, t, condition=None, **options):
        full_calls.append(condition is not None)
        return forward(self, x, t, condition, **options)

    monkeypatch.setattr(JDiT, "forward", counting)
    found = {}
    for refresh, expected in ((1, [True] * 5), (2, [True, False] * 2 + [True]), (None, [True] + [False] * 4)):
        full_calls.clear()
        found[refresh] = latents(pipe, CONTEXT, speed=Speed(refresh=refresh))
        assert full_calls[::2] == full_calls[1::2] == expected  # with pairs and without
    assert torch.equal(found[1], latents(pipe, CONTEXT))
    gaps = [float((found[refresh] - found[1]).norm() / found[1].norm()) for refresh in (2, None)]
    assert 0 < gaps[0] < gaps[1] < 0.5


def test_guidance_may_be_limited_to_an_interval():
    pipe, sequences = make_pipeline("causal"), []
    pipe.jdit.register_forward_hook(lambda _, args, __: sequences.append(len(args[0]) // len(QUERIES)))
    never = latents(pipe, CONTEXT, speed=Speed(guidance_interval=(0.0, 0.0)), guidance_scale=1.0)
    assert sequences == [1] * 5
    sequences.clear()
    half = latents(pipe, CONTEXT, speed=Speed(guidance_interval=(0.03, 0.1)), guidance_scale=1.5)
    # The grid of 6 points is 0, 0.025, 0.05, 0.076, 0.373, 1: two of the five steps start inside.
    assert sequences == [1, 1, 2, 2, 1]
    assert (half - never).abs().max() > 1e-4


def test_a_file_holds_all_of_it(pipe, tmp_path):
    encoded = pipe.encode_context(CONTEXT, task="depth")
    path = encoded.save(tmp_path / "depth.ctx")
    loaded = EncodedContext.load(path)
    assert loaded.task == "depth" and len(loaded) == 2 and loaded.sample_size == SIZE
    assert loaded.colours == encoded.colours and loaded.models == encoded.models
    assert loaded.tensors().keys() == encoded.tensors().keys()
    for name, tensor in encoded.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor), name
    assert torch.equal(latents(pipe, loaded), latents(pipe, encoded))


def test_keys_and_values_grow_evenly_with_the_pairs():
    pipe = make_pipeline("causal")
    sizes = [pipe.encode_context([CONTEXT[0]] * pairs).num_bytes for pairs in (1, 2, 4)]
    tokens, layers, kv_size, latent = 2 * 2 * 2, 2, 32, 2 * 4 * 4 * 4
    assert sizes == [pairs * 4 * (tokens * layers * 2 * kv_size + latent) for pairs in (1, 2, 4)]


def test_another_models_context_is_refused_naming_both(pipe):
    encoded, other = pipe.encode_context(CONTEXT), make_pipeline(pipe.jdit.config.attention, seed=1)
    names = [fingerprint(model.stvae) for model in (pipe, other)]
    with pytest.raises(InputError, match=f"stvae {names[0]}.*{names[1]}"):
        latents(other, encoded)
    larger = LavinPipeline(pipe.stvae, pipe.jdit, sample_size=2 * SIZE)
    with pytest.raises(InputError, match=f"encoded at {SIZE} pixels and the model works at {2 * SIZE}"):
        latents(larger, encoded)


def test_a_fingerprint_is_of_weights_not_of_their_precision(pipe):
    before = fingerprint(pipe.jdit)
    assert fingerprint(pipe.jdit.to(torch.bfloat16)) == before
    pipe.jdit.blocks[1].target.q.weight.data += 0.01
    assert fingerprint(pipe.jdit) != before


def test_an_existing_file_is_kept(pipe, tmp_path):
    (tmp_path / "mine.ctx").write_text("precious")
    with pytest.raises(InputError, match="exists"):
        pipe.encode_context(CONTEXT).save(tmp_path / "mine.ctx")
    assert (tmp_path / "mine.ctx").read_text() == "precious"


def test_broken_files_are_refused(tmp_path):
    pipe = make_pipeline("causal")
    path = pipe.encode_context(CONTEXT).save(tmp_path / "a.ctx")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged or no context file"):
        EncodedContext.load(path)
    path.write_bytes(b"not a safetensors file at all")
    with pytest.raises(InputError, match="damaged or no context file"):
        EncodedContext.load(path)
    save_file({"weight": torch.rand(3)}, tmp_path / "b.ctx")
    with pytest.raises(InputError, match="no context file of this version"):
        EncodedContext.load(tmp_path / "b.ctx")
    with pytest.raises(InputError, match="no such file"):
        EncodedContext.load(tmp_path / "c.ctx")


@pytest.mark.parametrize("gone", ["models", "sample_size", "task"])
def test_a_file_without_part_of_its_header_is_refused(tmp_path, gone):
    path = make_pipeline("causal").encode_context(CONTEXT).save(tmp_path / "a.ctx")
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.loads(metadata["header"])
    del header[gone]
    save_file(tensors, path, metadata | {"header": json.dumps(header)})
    with pytest.raises(InputError, match=f"a.ctx is damaged or no context file .*{gone}"):
        EncodedContext.load(path)


def test_a_context_of_unknown_models_is_refused():
    pipe = make_pipeline("causal")
    strange = replace(pipe.encode_context(CONTEXT), models={"unet": "0123"})
    with pytest.raises(InputError, match="encoded by stvae None and the model's stvae is"):
        latents(pipe, strange)


def test_speeds_are_checked():
    with pytest.raises(InputError, match="exact"):
        find_speed("exakt")
    with pytest.raises(InputError, match="refresh is 0"):
        Speed(refresh=0)
    with pytest.raises(InputError, match="guidance_interval"):
        Speed(guidance_interval=(0.6, 0.5))


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_targets_may_be_longer_than_inputs(attention):
    """As in frame prediction: a query of the pairs' length gets a target of theirs, another one its own length."""
    pipe = make_pipeline(attention)
    clip = lambda frames: torch.rand(3, frames, SIZE, SIZE) * 2 - 1  # noqa: E731
    encoded = pipe.encode_context([(clip(5), clip(9)), (clip(5), clip(9))])
    for frames, expected in ((5, 9), (1, 1)):
        out = pipe(encoded, clip(frames), num_inference_steps=4, output_type="pt")
        assert out.images[0].shape == (3, expected, SIZE, SIZE)
