"""The release's layout: its reference outputs from converted weights, any size, and what is wrong with a file."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lavin import LavinPipeline, flow
from lavin.bundled import find_released
from lavin.context import unconditional
from lavin.errors import InputError
from lavin.models import jdit_layers
from lavin.models.released import channel_order, load_released
from lavin.models.rope import axis_channels, coordinates, rotate, rotation

FIXTURE = Path(__file__).parents[1] / "fixtures" / "released"
PARITY = {"atol": 1e-4, "rtol": 0}  # float32; 6e-5 of it is the fixture's own rounding, see ``unpack``
GRID = [0, 0.0056, 0.0111, 0.0167, 0.0222, 0.0278, 0.0333, 0.0389, 0.0444, 0.05]
GRID += [0.0524, 0.073, 0.1148, 0.1777, 0.2618, 0.3671, 0.4936, 0.6412, 0.81, 1]
"""As the release prints it."""


def unpack(file: Path) -> dict[str, torch.Tensor]:
    """Weights stored as multiples of a step a tensor, 18 bits each: 16 in ``high``, 2 in ``low``, four to a byte."""
    with safe_open(file, framework="pt") as content:
        shapes = json.loads(content.metadata()["shapes"])
        high, low, step = (content.get_tensor(name) for name in ("high", "low", "step"))
    low = torch.stack([low >> shift & 3 for shift in (0, 2, 4, 6)], dim=1).flatten()
    codes, start, weights = (4 * high.int() + low).float(), 0, {}
    for (name, shape), size in zip(shapes.items(), step, strict=True):
        end = start + torch.Size(shape).numel()
        weights[name] = codes[start:end].view(shape) * size
        start = end
    return weights


def part_of(weights, part):
    return {name.removeprefix(part): weight for name, weight in weights.items() if name.startswith(part)}


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """The small random release, of which the expected outputs are, as published: two files, and a config.json."""
    folder = tmp_path_factory.mktemp("release")
    weights = unpack(FIXTURE / "weights.safetensors")
    save_file(part_of(weights, "jdit."), folder / "lavin_dit.safetensors")
    torch.save({"state_dict": part_of(weights, "stvae.")}, folder / "stvae.pt")
    shutil.copy(FIXTURE / "config.json", folder)
    return folder


@pytest.fixture(scope="session")
def models(release):
    return tuple(model.requires_grad_(False) for model in load_released(release))


@pytest.fixture(scope="session")
def jdit(models):
    return models[0]


@pytest.fixture(scope="session")
def stvae(models):
    return models[1]


@pytest.fixture(scope="session")
def expected():
    return load_file(FIXTURE / "expected.safetensors")


@pytest.fixture
def copy(release, tmp_path):
    """The release in a folder that may be changed."""
    return Path(shutil.copytree(release, tmp_path / "release"))


# --- Parity -----------------------------------------------------------------------------------------------------------


def guided(jdit, condition, guidance_scale=1.5):
    """(x, t) -> guided velocity, whatever precision the network has."""
    without = unconditional(condition[:, :, -1:])

    def velocity(x, t):
        return flow.guide(jdit(x, t, condition).float(), jdit(x, t, without).float(), guidance_scale)

    return velocity


@pytest.mark.parametrize("guidance_scale", [1.0, 1.5])
def test_velocities_are_the_references(jdit, expected, guidance_scale):
    velocity = guided(jdit, expected["dit.context_latents"], guidance_scale)
    found = velocity(expected["dit.noisy_target"], expected["dit.t"])
    torch.testing.assert_close(found, expected[f"dit.velocity_guidance_{guidance_scale}"], **PARITY)


def test_the_printed_grid_is_ours(expected):
    torch.testing.assert_close(flow.time_grid("linear_quadratic", 20), torch.tensor(GRID), atol=5e-5, rtol=0)


def test_the_20_point_sample_is_the_references(jdit, expected):
    velocity = guided(jdit, expected["dit.context_latents"])
    found = flow.solve(velocity, expected["dit.noisy_target"], torch.tensor(GRID))
    torch.testing.assert_close(found, expected["dit.sample_20_guidance_1.5"], **PARITY)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_encodings_and_decodings_are_the_references(stvae, expected, kind):
    posterior = stvae.encode(expected[f"vae.{kind}"]).latent_dist
    torch.testing.assert_close(posterior.mean, expected[f"vae.{kind}_mean"], **PARITY)
    torch.testing.assert_close(posterior.logvar, expected[f"vae.{kind}_logvar"], **PARITY)
    decoded = stvae.decode(expected[f"vae.{kind}_mean"]).sample
    torch.testing.assert_close(decoded, expected[f"vae.{kind}_decoded_from_mean"], **PARITY)


def test_bfloat16_samples_stay_within_three_percent(release, expected):
    half, _ = load_released(release, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    velocity = guided(half.requires_grad_(False), expected["dit.context_latents"])
    found = flow.solve(velocity, expected["dit.noisy_target"], torch.tensor(GRID))
    reference = expected["dit.sample_20_guidance_1.5"]
    assert (found - reference).norm() / reference.norm() < 0.03  # 0.4 % measured


def rounded(x):
    return x.bfloat16().to(x.dtype)


def test_bfloat16_networks_keep_t_and_rope_tables_in_float32(jdit, release, expected, monkeypatch):
    """On small pictures the sample hides what rounding them does, so they are compared where they are used."""
    half, _ = load_released(release, torch.bfloat16)
    sinusoids, turn, seen = jdit_layers.timestep_sinusoids, jdit_layers.rotate, []

    def see_sinusoids(t, scale):
        seen.append(sinusoids(t, scale))
        return seen[-1]

    def see_tables(x, rope):
        seen.extend(rope)
        torch.testing.assert_close(turn(x, rope), turn(x.float(), rope).to(x.dtype), atol=0, rtol=0)
        return turn(x, rope)

    monkeypatch.setattr(jdit_layers, "timestep_sinusoids", see_sinusoids)
    monkeypatch.setattr(jdit_layers, "rotate", see_tables)
    runs = []
    for network in (jdit, half):
        seen = []
        with torch.no_grad():
            network(expected["dit.noisy_target"], torch.tensor([0.3671]), expected["dit.context_latents"])
        runs.append(seen)
    assert len(runs[0]) == len(runs[1]) == 2 + 2 * 2 * 2 * 2  # condition and target; blocks, streams, q and k, tables
    for precise, used in zip(*runs):
        assert used.dtype == torch.float32 and torch.equal(used, precise)
    assert any(not torch.equal(rounded(used), used) for used in runs[1][:2])
    assert not torch.equal(sinusoids(rounded(torch.tensor([0.3671])), 1.0), runs[1][0])
    assert not torch.equal(rounded(runs[1][2]), runs[1][2])


# --- Names and order --------------------------------------------------------------------------------------------------


def rotate_as_released(x, coords):
    """RoPE as the release has it: each axis' share of the head split into halves on its own."""
    parts, start = [], 0
    for axis, channels in enumerate(axis_channels(x.shape[-1])):
        share = x[..., start : start + channels]
        start += channels
        frequencies = 10000.0 ** (-torch.arange(0, channels, 2, dtype=x.dtype) / max(channels, 1))
        angle = (coords[:, axis, None].to(x.dtype) * frequencies)[:, None]
        first, second = share.chunk(2, dim=-1)
        parts += [first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()]
    return torch.cat(parts, dim=-1)


@pytest.mark.parametrize("head_dim", [6, 8, 24, 32, 64, 72, 128])
def test_reordered_channels_have_the_releases_scores(head_dim):
    """q . k after our rotation of reordered channels equals q . k after the release's own, at every distance."""
    generator = torch.Generator().manual_seed(head_dim)
    q, k = torch.randn(2, 1, 12, 3, head_dim, generator=generator, dtype=torch.float64)
    coords, order = coordinates(5, 3, 2, 2), channel_order(head_dim)
    theirs = torch.einsum("bqhd,bkhd->bhqk", rotate_as_released(q, coords), rotate_as_released(k, coords))
    rope = rotation(coords, head_dim)
    ours = torch.einsum("bqhd,bkhd->bhqk", rotate(q[..., order], rope), rotate(k[..., order], rope))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)  # our tables are float32
    assert sorted(order.tolist()) == list(range(head_dim))


def test_the_released_defaults_and_the_folder_are_known(release):
    pipe = LavinPipeline.from_released(release)
    assert (pipe.config.sample_size, pipe.config.time_grid, pipe.config.max_pairs) == (512, "linear_quadratic", 4)
    assert (pipe.stvae.config.shift, pipe.stvae.config.scale) == (0.032470703125, 1.08936170213)
    assert pipe.stvae.config.norm_scope == "clip" and not pipe.jdit.training
    assert find_released(release) == release and find_released(FIXTURE) is None
    with pytest.raises(InputError, match="use LavinPipeline"):
        LavinPipeline.from_pretrained(release)


def test_loaded_weights_do_not_follow_their_files(copy):
    jdit, stvae = load_released(copy)
    before = [parameter.clone() for parameter in (*jdit.parameters(), *stvae.parameters())]
    for name in ("lavin_dit.safetensors", "stvae.pt"):
        with (copy / name).open("r+b") as file:
            file.write(bytes((copy / name).stat().st_size))
    assert all(map(torch.equal, before, (*jdit.parameters(), *stvae.parameters())))


# --- Bad input --------------------------------------------------------------------------------------------------------


def change(folder, jdit=None, stvae=None):
    """Pass the weights of either file through a function."""
    if jdit:
        weights = load_file(folder / "lavin_dit.safetensors")
        save_file({name: w.contiguous() for name, w in jdit(weights).items()}, folder / "lavin_dit.safetensors")
    if stvae:
        content = torch.load(folder / "stvae.pt", weights_only=True)
        torch.save({"state_dict": stvae(content["state_dict"])}, folder / "stvae.pt")


def without(weights, *names):
    return {name: weight for name, weight in weights.items() if name not in names}


def test_all_wrong_keys_are_in_one_error(copy):
    wrong = "blocks.1.x_mlp.up_proj.weight"
    change(
        copy,
        jdit=lambda w: (
            without(w, "prompt_embed", "blocks.0.joint_attn.cond_k.weight")
            | {"blocks.0.extra": torch.zeros(1), wrong: w[wrong][:-1]}
        ),
        stvae=lambda w: (
            without(w, "decoder.conv_out.conv.bias")
            | {"loss.logvar": torch.zeros(()), "encoder.conv_in.conv.weight": torch.zeros(32, 3, 3, 3)}
        ),
    )
    with pytest.raises(InputError) as error:
        load_released(copy)
    for part in (
        "lavin_dit.safetensors: 2 missing weights: prompt_embed, blocks.0.joint_attn.cond_k.weight; ",
        "1 unexpected weights: blocks.0.extra; ",
        f"1 wrongly shaped weights: {wrong} (255, 96) instead of (256, 96); ",
        "stvae.pt: 1 missing weights: decoder.conv_out.conv.bias; 1 unexpected weights: loss.logvar; ",
        "encoder.conv_in.conv.weight (32, 3, 3, 3) instead of (32, 3, 3, 3, 3)",
    ):
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "answer_embed",
        "cond_embedder.0.weight",
        "t_embedder.mlp.2.weight",
        "blocks.0.joint_attn.x_q.weight",
        "blocks.1.joint_attn.cond_k.weight",
        "blocks.1.cond_modulation.1.weight",
    ],
)
def test_weights_that_sizes_are_read_from_are_missed_too(copy, name):
    change(copy, jdit=lambda w: without(w, name))
    with pytest.raises(InputError, match=rf"1 missing weights: {re.escape(name)}$"):
        load_released(copy)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_floating_point_numbers_are_refused(copy, dtype):
    change(
        copy,
        jdit=lambda w: w | {"answer_embed": w["answer_embed"].to(dtype)},
        stvae=lambda w: w | {"decoder.conv_out.conv.bias": w["decoder.conv_out.conv.bias"].to(dtype)},
    )
    with pytest.raises(InputError, match=r"no floating-point type: answer_embed .*: decoder\.conv_out"):
        load_released(copy)


@pytest.mark.parametrize("name", ["lavin_dit.safetensors", "stvae.pt"])
@pytest.mark.parametrize("keep", [0, 5, 0.001, 0.5, 0.999])
def test_truncated_files_are_named(copy, name, keep):
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(InputError, match=rf"{name}: (corrupt|damaged) or truncated"):
        load_released(copy)


@pytest.mark.parametrize("name", ["lavin_dit.safetensors", "stvae.pt"])
def test_missing_files_are_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        load_released(copy)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-ran"),))


def test_a_pickle_that_holds_code_is_not_run(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"encoder.conv_in.conv.weight": Evil()}}, copy / "stvae.pt")
    with pytest.raises(InputError, match=r"stvae\.pt: damaged or truncated, or more than tensors"):
        load_released(copy)
    assert not Path("evil-ran").exists()
    for content in ({"model": {}}, [1], {"state_dict": {"encoder.conv_in.conv.weight": 1}}):
        torch.save(content, copy / "stvae.pt")
        with pytest.raises(InputError, match=r"stvae\.pt: a dictionary of tensors under 'state_dict' is needed"):
            load_released(copy)


def test_old_pickles_are_read(copy, stvae):
    """Written before torch 1.6, they are no zip files and cannot be mapped."""
    content = torch.load(copy / "stvae.pt", weights_only=True)
    torch.save(content, copy / "stvae.pt", _use_new_zipfile_serialization=False)
    _, found = load_released(copy)
    assert all(torch.equal(weight, stvae.state_dict()[name]) for name, weight in found.state_dict().items())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"96 channels and 48 of keys are no multiples of 72.* config\.json beside it must say how many heads"),
        ({"jdit": {"num_heads": 5}}, "num_heads 5, which does not divide 96"),
        ({"jdit": {"num_heads": 4, "kv_group": 4}}, "says kv_group 4, its weights 2"),
        ({"jdit": {"num_heads": 4, "hidden_size": 64}}, "says hidden_size 64, its weights 96"),
        ({"jdit": {"num_heads": 4, "num_layers": 3}}, "says num_layers 3, its weights 2"),
        ({"jdit": {"num_heads": 4, "patch_size": [3, 3]}}, "patches of 64 numbers are not of patch_size 3"),
        ({"jdit": {"num_heads": 4}, "stvae": {"norm_num_groups": 24}}, "no multiples of 24 groups"),
        ({"jdit": {"num_heads": 4}, "stvae": {"block_out_channels": [1, 2]}}, r"says block_out_channels \[1, 2\]"),
        ({"jdit": [4]}, "'jdit' is no JSON object"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(copy, config, message):
    (copy / "config.json").unlink()
    if config is not None:
        (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        load_released(copy)
