"""The pipeline on small random networks: its arithmetic is that of the specification, its errors are readable."""

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import STVAE, JDiT, LavinPipeline, flow, labels, load_pairs, pictures
from lavin.context import condition, unconditional
from lavin.errors import InputError, LavinError
from lavin.pictures import Picture
from lavin.speed import SPEEDS
from lavin.tasks import REGISTRY
from lavin.tasks.resizing import resize_label

SIZE = 32


def make_pipeline(attention="full", **settings):
    torch.manual_seed(0)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    jdit = JDiT(latent_channels=4, hidden_size=64, num_layers=2, num_heads=2, attention=attention)
    for parameter in jdit.parameters():  # a fresh J-DiT predicts zero
        torch.nn.init.normal_(parameter, std=0.1)
    return LavinPipeline(stvae.eval(), jdit.eval(), sample_size=SIZE, **settings)


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def picture(seed, width=SIZE, height=SIZE):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


CONTEXT = [(picture(0), picture(1)), (picture(2), picture(3))]
QUERY = picture(4)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def latents(pipe, query=QUERY, context=CONTEXT, **options):
    options = {"num_inference_steps": 4, "generator": seeded(), "output_type": "latent"} | options
    return pipe(context, query, **options).latents


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_one_step_is_noise_plus_guided_velocity(attention):
    """From t = 0 to t = 1 in one Euler step, against the networks called by hand."""
    pipe = make_pipeline(attention, time_grid="uniform")
    found = latents(pipe, num_inference_steps=2, guidance_scale=1.5)

    with torch.no_grad():
        clips = [
            torch.from_numpy(np.array(image)).permute(2, 0, 1)[None, :, None] / 127.5 - 1 for image in sum(CONTEXT, ())
        ]
        first, second, third, fourth = (pipe.stvae.to_latent(clip) for clip in clips)
        query = pipe.stvae.to_latent(torch.from_numpy(np.array(QUERY)).permute(2, 0, 1)[None, :, None] / 127.5 - 1)
        noise, t = torch.randn(query.shape, generator=seeded()), torch.zeros(1)
        with_context = pipe.jdit(noise, t, condition([(first, second), (third, fourth)], query))
        without = pipe.jdit(noise, t, query if attention == "causal" else unconditional(query))
        expected = noise + flow.guide(with_context, without, 1.5)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # float32, two blocks


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_guidance_scale_1_runs_the_network_once_a_step(attention):
    pipe = make_pipeline(attention)
    sequences = []
    pipe.jdit.register_forward_hook(lambda _, args, __: sequences.append(len(args[0])))
    latents(pipe, guidance_scale=1.0)
    assert sum(sequences) == 3  # four points of the grid, three steps
    latents(pipe, guidance_scale=1.5)
    assert sum(sequences) == 3 + 6


def test_steps_are_the_calls_the_models_or_the_speeds():
    pipe, calls = make_pipeline(), []
    pipe.jdit.register_forward_hook(lambda *_: calls.append(1))

    def steps(**options):
        calls.clear()
        pipe(CONTEXT, QUERY, guidance_scale=1.0, output_type="latent", **options)
        return len(calls)

    for name, speed in SPEEDS.items():
        assert steps(speed=name) == speed.num_inference_steps - 1
    pipe.register_to_config(num_inference_steps=12)
    assert steps(speed="default") == steps(speed="exact") == 11
    assert steps(num_inference_steps=4) == 3


def test_clips_go_through_the_stvae_together_as_if_alone(pipe):
    clips = [Picture(torch.rand(frames, 3, 32, 32, generator=seeded(frames)) * 2 - 1) for frames in (1,) * 9 + (5, 4)]
    together = pipe.encode(clips)
    assert [latent.shape[2] for latent in together] == [1] * 9 + [2, 2]
    for latent, clip in zip(together, clips, strict=True):
        torch.testing.assert_close(latent, pipe.encode([clip])[0], atol=1e-5, rtol=0)
    noisy = torch.cat(together[:6])
    alone = [pipe.decode(latent, 1, 1)[0] for latent in noisy.split(1)]
    for decoded, expected in zip(pipe.decode(noisy, 1, 1), alone, strict=True):
        torch.testing.assert_close(decoded, expected, atol=1e-5, rtol=0)
    for decoded, of_two in zip(pipe.decode(noisy, 1, 2), zip(alone[::2], alone[1::2], strict=True), strict=True):
        torch.testing.assert_close(decoded, torch.stack(of_two).mean(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_prediction_does_not_depend_on_the_batch(attention):
    pipe = make_pipeline(attention)
    queries = [picture(seed, width) for seed, width in ((4, 32), (5, 50), (6, 20))]
    together = latents(pipe, queries, generator=[seeded(i) for i in range(3)])
    alone = torch.cat([latents(pipe, query, generator=seeded(i)) for i, query in enumerate(queries)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)  # float32; batched sums run in another order


def test_one_generator_draws_for_the_queries_in_order(pipe):
    both = latents(pipe, [QUERY, picture(5)], generator=seeded(3))
    torch.testing.assert_close(both[:1], latents(pipe, generator=seeded(3)), atol=1e-4, rtol=0)


def test_same_seed_same_pixels_other_seed_other_pixels(pipe):
    first, again, other = (
        np.asarray(pipe(CONTEXT, QUERY, num_inference_steps=4, generator=seeded(seed)).images[0]) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_prediction_follows_the_context_and_its_order(pipe):
    base = latents(pipe)
    assert not torch.allclose(base, latents(pipe, context=CONTEXT[::-1]), atol=1e-3)
    assert not torch.allclose(base, latents(pipe, context=CONTEXT[:1]), atol=1e-3)


def test_ensemble_is_the_mean_of_its_members(pipe):
    generator = seeded()
    members = [
        pipe(CONTEXT, QUERY, num_inference_steps=4, generator=generator, output_type="pt").images[0] for _ in range(3)
    ]
    ensemble = pipe(CONTEXT, QUERY, num_inference_steps=4, generator=seeded(), output_type="pt", ensemble_size=3)
    torch.testing.assert_close(ensemble.images[0], torch.stack(members).mean(0), atol=1e-4, rtol=0)
    assert len(ensemble.latents) == 3
    deviation = np.std([member.double().numpy() / 2 for member in members], axis=0, ddof=1)
    expected = torch.from_numpy(np.sqrt((deviation**2).mean(0))).float()
    torch.testing.assert_close(ensemble.spread[0], expected, atol=1e-4, rtol=0)
    assert pipe(CONTEXT, QUERY, num_inference_steps=4).spread is None
    larger = pipe(CONTEXT, QUERY.resize((70, 50)), num_inference_steps=4, ensemble_size=2)
    assert larger.spread[0].shape == (1, 50, 70)


def test_paths_pil_arrays_and_tensors_are_one_picture(pipe, tmp_path):
    QUERY.save(tmp_path / "query.png")
    array = np.array(QUERY)
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 127.5 - 1
    kinds = [tmp_path / "query.png", array, (array / 255).astype(np.float32), tensor, tensor[:, None]]
    base = latents(pipe)
    for kind in kinds:
        torch.testing.assert_close(latents(pipe, kind), base, atol=1e-4, rtol=0)


def test_folder_is_a_context(pipe, tmp_path):
    for name, pair in zip("ab", CONTEXT):
        for half, image in zip(("input", "target"), pair):
            image.save(tmp_path / f"{name}_{half}.png")
    for context in (tmp_path, str(tmp_path), load_pairs(tmp_path)):
        torch.testing.assert_close(latents(pipe, context=context), latents(pipe))


@pytest.mark.parametrize("size", [(1, 1), (200, 30), (31, 65), (20_000, 3)])
def test_prediction_has_the_querys_size(pipe, size):
    out = pipe(CONTEXT, picture(5, *size), num_inference_steps=4, task="depth")
    assert out.images[0].size == size
    assert tuple(out.labels[0].shape) == (1, *size[::-1])


def test_output_types_hold_the_same_picture(pipe):
    pil, array, clip = (
        pipe(CONTEXT, QUERY, num_inference_steps=4, generator=seeded(), output_type=kind).images[0]
        for kind in ("pil", "np", "pt")
    )
    assert array.shape == (SIZE, SIZE, 3) and clip.shape == (3, 1, SIZE, SIZE)
    np.testing.assert_allclose(array, (clip[:, 0].permute(1, 2, 0).numpy() + 1) / 2, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(pil), (array * 255).round().astype(np.uint8))


@pytest.mark.parametrize("attention", ["full", "causal"])
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_clips_with_image_pairs(attention, frames):
    """Image pairs may define a task for a clip; frames that are not 1 + 4k are padded and cut off again."""
    pipe = make_pipeline(attention)
    clip = torch.rand(3, frames, 40, 24, generator=seeded()) * 2 - 1
    out = pipe(CONTEXT, clip, num_inference_steps=4, output_type="pt", task="normals")
    assert out.images[0].shape == (3, frames, 40, 24)
    assert out.labels[0].shape == (3, frames, 40, 24)


def test_squash_is_pillows_bicubic():
    image = picture(9, 90, 47)
    frames = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    found = (pictures.squash(frames, SIZE)[:, 0].permute(1, 2, 0) + 1) * 127.5
    expected = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC), float)
    assert np.abs(found.numpy() - expected).max() <= 1.01  # rounding of whole levels


@pytest.mark.parametrize("task", sorted(REGISTRY))
def test_every_task_reads_the_prediction_at_the_querys_size(pipe, task):
    label = pipe(CONTEXT_OF_TWO_COLOURS, picture(5, 50, 20), num_inference_steps=4, task=task).labels[0]
    assert tuple(getattr(label, "size", None) if isinstance(label, dict) else label.shape[-2:]) == (20, 50)
    if task == "normals":
        length = label.norm(dim=0)
        assert ((length - 1).abs() < 1e-5).logical_or(length == 0).all()


def two_colours():
    image = Image.new("RGB", (SIZE, SIZE), (255, 85, 0))
    image.paste((0, 170, 85), (0, 0, SIZE, 10))
    image.paste((0, 0, 0), (0, 20, SIZE, 25))
    return image


CONTEXT_OF_TWO_COLOURS = [(picture(0), two_colours())]


def test_semantic_palette_is_read_from_the_targets():
    target = pictures.as_picture(two_colours(), "target")
    assert labels.palette([target]) == ((0, 170, 85), (255, 85, 0))  # black is "ignore"
    black = pictures.as_picture(Image.new("RGB", (4, 4)), "target")
    with pytest.raises(InputError, match="targets show no colours"):
        labels.standard_definition(REGISTRY["semantic"], labels.palette([black]))
    gradient = Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))
    with pytest.raises(InputError, match="targets show more than"):
        labels.standard_definition(REGISTRY["semantic"], labels.palette([pictures.as_picture(gradient, "target")]))


def test_labels_are_resized_as_quantities():
    mask = torch.tensor([[[True, False]]])
    assert resize_label(mask, (2, 4)).tolist() == [[[True, True, False, False]] * 2]
    ids = torch.tensor([[[3, 200]]])
    assert set(resize_label(ids, (5, 7)).unique().tolist()) == {3, 200}
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).view(3, 1, 1, 2)
    torch.testing.assert_close(resize_label(vectors, (1, 4), True).norm(dim=0), torch.ones(1, 1, 4))


# --- Wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": []}, "the context has no pairs"),
        ({"context": [QUERY]}, r"context pair '1' is Image; an \(input, target\) tuple"),
        ({"context": [(QUERY, picture(0, 8, 4))]}, "context pair '1': input is 32x32 but target 8x4; both must have"),
        ({"query": []}, "there is no query"),
        ({"query": 3}, "query 1 is int; a path"),
        ({"query": np.zeros((4, 4), np.uint8)}, r"array of \(4, 4\)"),
        ({"query": np.zeros((4, 4, 3), np.int64)}, "array of int64"),
        ({"query": np.full((4, 4, 3), 200.0)}, r"values from 200 to 200; they must lie in \[0, 1\]"),
        ({"query": torch.full((3, 4, 4), torch.nan)}, r"values from nan to nan; they must lie in \[-1, 1\]"),
        ({"query": [torch.zeros(3, 1, 4, 4), torch.zeros(3, 5, 4, 4)]}, "queries of 1 and 5 frames"),
        ({"num_inference_steps": 1}, "num_inference_steps: .*even number of points from 4, not 1"),
        ({"num_inference_steps": 5}, "even number of points"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"ensemble_size": 0}, "ensemble_size is 0"),
        ({"output_type": "pill"}, "unknown output_type 'pill'; did you mean 'pil'"),
        ({"task": "dept"}, "unknown task 'dept'; did you mean 'depth'"),
        ({"task": "depth", "output_type": "latent"}, "output_type 'latent' makes none"),
        ({"generator": [seeded()] * 2}, "2 generators for 1 queries"),
    ],
)
def test_wrong_calls_say_what_is_wrong(pipe, options, message):
    with pytest.raises(InputError, match=message):
        pipe(**({"context": CONTEXT, "query": QUERY} | options))


def test_nan_is_reported_and_not_drawn():
    pipe = make_pipeline()
    torch.nn.init.constant_(pipe.jdit.out.bias, torch.nan)
    with pytest.raises(LavinError, match="NaN or infinite"):
        pipe(CONTEXT, QUERY, num_inference_steps=4)


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="sample_size is 100; it must be a multiple of 16"):
        LavinPipeline(torch.nn.Identity(), torch.nn.Identity(), sample_size=100)
    with pytest.raises(InputError, match="unknown time grid 'unifrom'; did you mean 'uniform'"):
        LavinPipeline(torch.nn.Identity(), torch.nn.Identity(), time_grid="unifrom")


# --- Save and load ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_saved_model_predicts_the_same(pipe, saved):
    loaded = LavinPipeline.from_pretrained(saved)
    assert loaded.config.sample_size == SIZE and not loaded.jdit.training
    torch.testing.assert_close(latents(loaded), latents(pipe), atol=0, rtol=0)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_weights_run_in_float32(tmp_path, stored):
    half = make_pipeline()
    half.stvae.to(stored), half.jdit.to(stored)
    half.save_pretrained(tmp_path)
    loaded = LavinPipeline.from_pretrained(tmp_path)
    assert {p.dtype for part in (loaded.stvae, loaded.jdit) for p in part.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.jdit.out.weight, half.jdit.out.weight.float(), atol=0, rtol=0)


def test_bfloat16_pipeline_stays_near_float32(pipe, saved):
    loaded = LavinPipeline.from_pretrained(saved, torch_dtype=torch.bfloat16)
    assert loaded.jdit.dtype == torch.bfloat16
    found = latents(loaded)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, latents(pipe), atol=0.3, rtol=0)  # 8 bits of mantissa, random weights


def test_unknown_model_suggests_the_nearest(monkeypatch, tmp_path):
    monkeypatch.setattr("lavin.bundled.bundled_models", lambda: {"lavin-tiny": tmp_path})
    with pytest.raises(InputError, match="unknown model 'lavin-tny'; did you mean 'lavin-tiny'"):
        LavinPipeline.from_pretrained("lavin-tny")


def test_incomplete_folders_are_refused(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no model_index\.json; a model folder holds"):
        LavinPipeline.from_pretrained(tmp_path / "empty")
    (saved / "jdit/config.json").write_text("{")
    with pytest.raises(InputError, match=r"jdit/config\.json: not readable as JSON"):
        LavinPipeline.from_pretrained(saved)
    (saved / "jdit/config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json in jdit/"):
        LavinPipeline.from_pretrained(saved)


@pytest.mark.parametrize("keep", [3, 500, -40])
def test_corrupt_weights_are_named(saved, keep):
    file = saved / "jdit/diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors: corrupt or truncated"):
        LavinPipeline.from_pretrained(saved)


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt"])
def test_pickles_are_refused(saved, tmp_path, suffix):
    pickle = saved / f"stvae/diffusion_pytorch_model.{suffix}"
    (saved / "stvae/diffusion_pytorch_model.safetensors").rename(pickle)
    for model in (saved, pickle):
        with pytest.raises(InputError, match=rf"model\.{suffix}: pickle checkpoints can run any code"):
            LavinPipeline.from_pretrained(model)


def test_weights_that_do_not_fit_their_config_are_refused(saved):
    import json

    file = saved / "jdit/config.json"
    for change in ({"num_layers": 3}, {"num_layers": 1}, {"hidden_size": 128}):
        config = json.loads(file.read_text())
        before = file.read_text()
        file.write_text(json.dumps(config | change))
        with pytest.raises(InputError, match="jdit"):
            LavinPipeline.from_pretrained(saved)
        file.write_text(before)
