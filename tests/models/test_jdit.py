import pytest
import torch
from omegaconf import OmegaConf

from lavin import config_dir, flow
from lavin.models.attention import attend, attend_by_matmul, block_sparse, check_backend, spans
from lavin.models.jdit import JDiT
from lavin.models.jdit_layers import patchify, timestep_sinusoids, unpatchify
from lavin.models.rope import coordinates


def tiny(attention="full", dtype=torch.float64, **sizes):
    """A small J-DiT whose gates and output are random: a fresh one would be the identity."""
    torch.manual_seed(0)
    sizes = {"latent_channels": 4, "hidden_size": 48, "num_layers": 2, "num_heads": 4, **sizes}
    model = JDiT(attention=attention, **sizes).to(dtype).eval()
    for name, weight in model.named_parameters():
        if "adarn" in name or name.startswith("out"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


def latents(batch, frames, channels=4, size=4, dtype=torch.float64):
    return torch.randn(batch, channels, frames, size, size, dtype=dtype)


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("jdit_0.1b", 100_709_952), ("jdit_1.0b", 935_095_360), ("jdit_3.4b", 3_398_976_064), ("jdit_tiny", 12_456_768)],
)
def test_presets_have_the_papers_parameter_counts(preset, parameters):
    config = OmegaConf.load(config_dir() / "models" / f"{preset}.yaml")
    with torch.device("meta"):
        model = JDiT(**config)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_patches_flatten_row_column_channel():
    latent = latents(2, 3, size=6)
    tokens = patchify(latent, 2)
    frame, row, column = 2, 1, 2
    patch = latent[1, :, frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    expected = [patch[c, i, j] for i in range(2) for j in range(2) for c in range(4)]
    assert torch.equal(tokens[1, frame * 9 + row * 3 + column], torch.stack(expected))
    assert torch.equal(unpatchify(tokens, 2, 3, 6, 6), latent)


def test_fresh_model_predicts_zero_and_fresh_blocks_are_the_identity():
    model = JDiT(latent_channels=4, hidden_size=48, num_layers=1, num_heads=4)
    noisy, condition, t = latents(1, 1).float(), latents(1, 3).float(), torch.rand(1)
    assert not model(noisy, t, condition).any()
    layout = model.layout(noisy, 1, 3, None)
    tokens, timestep = model.embed_condition(condition, t)
    target = torch.randn(1, 4, 48)
    model.blocks[0].last = False
    condition_out, target_out = model.blocks[0](tokens, target, timestep, timestep, layout)
    assert torch.equal(condition_out, tokens)
    assert torch.equal(target_out, target)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_shifting_all_coordinates_leaves_the_output_unchanged(attention, monkeypatch):
    model, noisy, condition, t = tiny(attention), latents(1, 1), latents(1, 3), torch.rand(1)
    before = model(noisy, t, condition)
    shift = torch.tensor([11, 4, 6])
    monkeypatch.setattr("lavin.models.jdit.coordinates", lambda *args: coordinates(*args) + shift)
    torch.testing.assert_close(model(noisy, t, condition), before, atol=1e-5, rtol=0)  # angles are float32
    monkeypatch.setattr("lavin.models.jdit.coordinates", lambda *args: coordinates(*args) * shift)
    assert (model(noisy, t, condition) - before).abs().max() > 1e-3


@pytest.mark.parametrize("attention", ["full", "causal"])
@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("pairs", [0, 1, 2, 3, 4])
def test_batch_size_and_order_change_no_samples_output(attention, batch, pairs):
    model = tiny(attention, sandwich_norm=pairs % 2 == 0, num_kv_heads=2)
    noisy, condition, t = latents(batch, 1), latents(batch, 2 * pairs + 1), torch.rand(batch)
    together = model(noisy, t, condition)
    order = torch.randperm(batch)
    torch.testing.assert_close(model(noisy[order], t[order], condition[order]), together[order], atol=1e-10, rtol=0)
    for i in range(batch):
        alone = model(noisy[i : i + 1], t[i : i + 1], condition[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], atol=1e-10, rtol=0)


def test_grouped_queries_equal_repeated_keys_and_values():
    q, k, v = torch.randn(2, 5, 6, 8), torch.randn(2, 7, 2, 8), torch.randn(2, 7, 2, 8)
    repeated = attend(q, k.repeat_interleave(3, 2), v.repeat_interleave(3, 2))
    torch.testing.assert_close(attend(q, k, v), repeated, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
def test_attention_by_matrix_products_equals_sdpa_and_so_do_its_gradients(kv_heads):
    q, *kv = torch.randn(2, 6, 6, 8), torch.randn(2, 9, kv_heads, 8), torch.randn(2, 9, kv_heads, 8)
    mask = torch.ones(6, 9, dtype=torch.bool).tril(3)
    found = []
    for attention in (attend_by_matmul, torch_sdpa):
        inputs = [part.clone().requires_grad_() for part in (q, *kv)]
        output = attention(*inputs, mask)
        (output * torch.arange(8)).sum().backward()
        found.append([output, *(part.grad for part in inputs)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_attention_over_the_spans_of_a_mask_equals_sdpa_and_so_do_its_gradients(training):
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(5, 4, generator=generator) < 0.5
    seen[:, 1] = True  # nobody sees nothing
    queries, keys = torch.tensor([3, 1, 4, 2, 2]), torch.tensor([2, 5, 1, 3])
    mask = seen.repeat_interleave(queries, 0).repeat_interleave(keys, 1)
    q, *kv = torch.randn(2, 12, 4, 8), torch.randn(2, 11, 2, 8), torch.randn(2, 11, 2, 8)
    found = []
    for attention, hidden in ((attend, spans(mask)), (torch_sdpa, mask)):
        inputs = [part.clone().requires_grad_(training) for part in (q, *kv)]
        output = attention(*inputs, hidden)
        if training:
            (output * torch.arange(8)).sum().backward()
        found.append([output, *(part.grad for part in inputs if training)])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_spans_of_a_mask_leave_out_all_that_it_hides():
    mask = torch.ones(6, 8, dtype=torch.bool).tril(2).repeat_interleave(4, 0).repeat_interleave(3, 1)
    found = spans(mask)
    again = torch.zeros_like(mask)
    ends = [torch.tensor((0, *lengths)).cumsum(0).tolist() for lengths in (found.queries, found.keys)]
    for i, seen in enumerate(found.seen):
        for j in seen:
            again[ends[0][i] : ends[0][i + 1], ends[1][j] : ends[1][j + 1]] = True
    assert torch.equal(again, mask)
    assert len(found.queries) == 6


def torch_sdpa(query, key, value, mask):
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    found = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask, enable_gqa=True)
    return found.transpose(1, 2)


def test_flex_attention_equals_sdpa_with_the_same_mask():
    q, k, v = torch.randn(2, 6, 4, 16), torch.randn(2, 10, 2, 16), torch.randn(2, 10, 2, 16)
    mask = torch.ones(6, 10, dtype=torch.bool).tril(4)
    with pytest.warns(UserWarning, match="without torch.compile"):
        blocks = attend(q, k, v, block_sparse(mask), "flex")
    torch.testing.assert_close(blocks, attend(q, k, v, mask), atol=1e-5, rtol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="FlexAttention in training needs a GPU")
def test_training_with_flex_attention_equals_sdpa():
    condition, _, t, noisy = (part.cuda().float() for part in parallel_inputs(3, 1))
    model = tiny("causal").float().cuda()
    expected = model(noisy, t, condition)
    model.compile_repeated_blocks(dynamic=False)
    model.use_attention("flex")
    torch.testing.assert_close(model(noisy, t, condition), expected, atol=2e-3, rtol=2e-3)


def parallel_inputs(pairs, frames):
    x, y = ([latents(2, frames) for _ in range(pairs)] for _ in range(2))
    clips = [clip for pair in zip(x, y, strict=True) for clip in pair]
    return (
        torch.cat(clips, 2),
        torch.cat(y, 2),
        torch.rand(2, pairs, dtype=torch.float64),
        torch.randn(2, 4, pairs * frames, 4, 4, dtype=torch.float64),
    )


@pytest.mark.parametrize("frames", [1, 2])
def test_parallel_targets_train_like_separate_sequences(frames):
    """Loss and gradients of x1 y1 ... xn with all noised targets equal the mean over n separate sequences."""
    pairs, model = 3, tiny("causal").train()
    condition, targets, t, noise = parallel_inputs(pairs, frames)
    noisy, velocity = flow.interpolate(noise, targets, t)
    (model(noisy, t, condition[:, :, :-frames]) - velocity).square().mean().backward()
    trained = {name: weight for name, weight in model.named_parameters() if weight.grad is not None}
    parallel = {name: weight.grad.clone() for name, weight in trained.items()}
    model.zero_grad()
    for i in range(pairs):
        own = slice(i * frames, (i + 1) * frames)
        one = model(noisy[:, :, own], t[:, i], condition[:, :, : (2 * i + 1) * frames])
        ((one - velocity[:, :, own]).square().mean() / pairs).backward()
    assert len(trained) > 50
    for name, weight in trained.items():
        torch.testing.assert_close(parallel[name], weight.grad, atol=1e-12, rtol=1e-12, msg=name)


def test_a_noised_target_sees_neither_its_clean_copy_nor_later_pairs():
    model = tiny("causal")
    condition, _, t, noisy = parallel_inputs(3, 1)
    before = model(noisy, t, condition)
    for clip in range(condition.shape[2]):
        changed = condition.clone()
        changed[:, :, clip] = torch.randn_like(changed[:, :, clip])
        moved = (model(noisy, t, changed) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-9
        assert moved.tolist() == [clip <= 2 * i for i in range(3)], clip
    changed = noisy.clone()
    changed[:, :, 1] += 1
    moved = (model(changed, t, condition) - before).abs().amax(dim=(0, 1, 3, 4)) > 1e-9
    assert moved.tolist() == [False, True, False]


def test_cached_condition_is_exact():
    model, noisy, condition = tiny("causal"), latents(2, 1), latents(2, 5)
    cache = model.encode_condition(condition)
    for t in (torch.rand(2), torch.rand(2)):
        torch.testing.assert_close(model(noisy, t, cache=cache), model(noisy, t, condition), atol=1e-12, rtol=0)


def test_a_context_encoded_once_serves_many_queries():
    """Pairs of batch 1, then three queries of it, equal the whole sequences; the pairs are not copied."""
    model, noisy, pairs, queries = tiny("causal"), latents(3, 1), latents(1, 4), latents(3, 1)
    whole = torch.cat([pairs.expand(3, -1, -1, -1, -1), queries], dim=2)
    context = model.encode_condition(pairs)
    cache = model.encode_condition(queries, past=context)
    assert cache.past is context and cache.all_frames == 5 and cache.layers[0][0].shape[:2] == (3, 4)
    t = torch.rand(3)
    torch.testing.assert_close(model(noisy, t, cache=cache), model(noisy, t, whole), atol=1e-12, rtol=0)


def test_clips_may_be_encoded_one_after_another():
    model, noisy, condition, t = tiny("causal"), latents(2, 1), latents(2, 5), torch.rand(2)
    cache = None
    for frame in range(5):
        cache = model.encode_condition(condition[:, :, frame : frame + 1], past=cache)
    torch.testing.assert_close(model(noisy, t, cache=cache), model(noisy, t, condition), atol=1e-12, rtol=0)
    pairs = model.encode_condition(condition[:, :, :2])
    cache = model.encode_condition(condition[:, :, 2:], past=pairs)  # several clips after a past: masked
    torch.testing.assert_close(model(noisy, t, cache=cache), model(noisy, t, condition), atol=1e-12, rtol=0)


def test_a_long_condition_is_encoded_in_parts_as_in_one(monkeypatch):
    model, noisy, condition, t = tiny("causal"), latents(2, 2), latents(2, 7), torch.rand(2)
    clips, past = [2, 1, 1, 2, 1], model.encode_condition(latents(2, 2))
    tokens = noisy.shape[3] * noisy.shape[4] // model.config.patch_size**2
    passes = []
    monkeypatch.setattr(model, "encode_part", lambda *args: passes.append(args[1]) or JDiT.encode_part(model, *args))
    expected = [[[2], [1], [1], [2], [1]], [[2], [1, 1], [2], [1]], [clips]]
    velocities = []
    for size, groups in zip((1, 2 * tokens, 100 * tokens), expected, strict=True):
        monkeypatch.setattr("lavin.models.jdit.PART_TOKENS", size)
        passes.clear()
        cache = model.encode_condition(condition, clips, past=past)
        assert passes == groups
        assert cache.past is past and cache.layers[0][0].shape[1] == 7 * tokens
        velocities.append(model(noisy, t, cache=cache))
    for velocity in velocities[1:]:
        torch.testing.assert_close(velocity, velocities[0], atol=1e-12, rtol=0)


def test_parts_of_a_batch_may_have_conditions_of_different_length():
    """As guidance has: two queries after pairs, and the same two alone."""
    model, noisy, pairs, queries, t = tiny("causal"), latents(4, 1), latents(1, 4), latents(2, 1), torch.rand(4)
    after, alone = model.encode_condition(queries, past=model.encode_condition(pairs)), model.encode_condition(queries)
    apart = [model(noisy[:2], t[:2], cache=after), model(noisy[2:], t[2:], cache=alone)]
    torch.testing.assert_close(model(noisy, t, cache=[after, alone]), torch.cat(apart), atol=1e-12, rtol=0)


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_a_call_may_leave_its_cache_to_the_next(attention):
    """Exact at the t and target that made it; at others exact for causal models only."""
    model, noisy, condition, t = tiny(attention), latents(2, 1), latents(2, 5), torch.rand(2)
    velocity, cache = model(noisy, t, condition, return_cache=True)
    torch.testing.assert_close(velocity, model(noisy, t, condition), atol=1e-12, rtol=0)
    torch.testing.assert_close(model(noisy, t, cache=cache), velocity, atol=1e-12, rtol=0)
    later = model(noisy + 1, t / 2, condition)
    gap = (model(noisy + 1, t / 2, cache=cache) - later).abs().max()
    assert gap < 1e-12 if attention == "causal" else 1e-6 < gap < later.abs().max()


def test_image_pairs_may_define_a_task_for_a_clip():
    model, noisy, t = tiny("causal"), latents(1, 2), torch.rand(1)
    condition = latents(1, 4)  # two images and a query of two frames
    velocity = model(noisy, t, condition, clip_frames=[1, 1, 2])
    cache = model.encode_condition(condition, clip_frames=[1, 1, 2])
    torch.testing.assert_close(model(noisy, t, cache=cache), velocity, atol=1e-12, rtol=0)


def test_gradient_checkpointing_is_active_and_changes_no_gradient(monkeypatch):
    model = tiny("causal").train()
    inputs = latents(1, 1), torch.rand(1), latents(1, 3)
    model(*inputs).sum().backward()
    plain = model.blocks[0].target.q.weight.grad.clone()
    model.zero_grad()
    model.enable_gradient_checkpointing()
    calls = []
    recompute = model._gradient_checkpointing_func
    monkeypatch.setattr(model, "_gradient_checkpointing_func", lambda *args: calls.append(1) or recompute(*args))
    model(*inputs).sum().backward()
    assert len(calls) == len(model.blocks)
    torch.testing.assert_close(model.blocks[0].target.q.weight.grad, plain, atol=1e-12, rtol=0)


def test_bfloat16_weights_keep_t_exact():
    """sin(1000 t) of a t rounded to bfloat16 is noise; the sinusoids are computed in float32 whatever the weights."""
    t = torch.tensor([0.99839])
    exact = timestep_sinusoids(t.double(), 1000.0)
    reference = torch.cat(
        [f(1000 * t.double()[:, None] * 10000 ** (-torch.arange(128).double() / 128)) for f in (torch.cos, torch.sin)],
        1,
    )
    torch.testing.assert_close(exact.double(), reference, atol=1e-3, rtol=0)
    model = tiny("causal", torch.float32, timestep_scale=1000.0)
    noisy, condition = latents(1, 1).float(), latents(1, 3).float()
    found = model(noisy, t, condition)
    half = model.bfloat16()(noisy, t, condition).float()
    assert (half - found).norm() / found.norm() < 0.03


def test_save_and_load_is_exact_and_safetensors(tmp_path):
    model = tiny("causal", torch.float32)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    loaded = JDiT.from_pretrained(tmp_path, use_safetensors=True)
    assert loaded.config.attention == "causal"
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"attention": "casual"}, "'full' or 'causal'"),
        ({"hidden_size": 50}, "head dimension"),
        ({"num_kv_heads": 3}, "must divide"),
        ({"attention_backend": "flash"}, "CUDA|unknown"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    if "attention_backend" in sizes and torch.cuda.is_available():
        pytest.skip("a GPU is present")
    with pytest.raises(ValueError, match=message):
        JDiT(**{"hidden_size": 48, "num_heads": 4, **sizes})


def test_another_kernel_serves_a_model_but_is_not_saved():
    model = tiny("causal")
    model.use_attention("sdpa")
    assert {block.backend for block in model.blocks} == {"sdpa"}
    with pytest.raises(ValueError, match="unknown attention backend"):
        model.use_attention("sdp")
    assert model.config.attention_backend == "sdpa"


def test_unknown_attention_backend_is_refused():
    with pytest.raises(ValueError, match="unknown attention backend 'sdp'"):
        check_backend("sdp")


def test_inputs_that_do_not_fit_are_refused():
    model, noisy, t, condition = tiny("full"), latents(1, 1), torch.rand(1), latents(1, 3)
    with pytest.raises(ValueError, match="one target a sequence"):
        model(noisy, torch.rand(1, 2), condition)
    with pytest.raises(ValueError, match="either a condition or the cache"):
        model(noisy, t)
    with pytest.raises(ValueError, match="differ in size"):
        model(noisy, t, latents(1, 3, size=6))
    with pytest.raises(ValueError, match="4, frames"):
        model(latents(1, 1, channels=3), t, condition)
    with pytest.raises(ValueError, match="only a model with attention='causal'"):
        model.encode_condition(condition)
    with pytest.raises(ValueError, match="parallel targets"):
        tiny("causal")(latents(1, 4), torch.rand(1, 4), condition)
