"""Conversion between the release's layout and model folders: exact both ways at any size, and whole or not at all."""

import errno
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lavin import STVAE, JDiT, LavinPipeline, cli
from lavin.convert import convert_released, convert_to_released
from lavin.errors import InputError
from lavin.models import weights
from lavin.models.released import SCALE, SHIFT, load_released
from lavin.models.released_archive import extract, released_folder

SIZES = {
    "uneven axes, one key/value head": {"hidden_size": 64, "num_heads": 2, "num_kv_heads": 1},  # 12, 10, 10 of 32
    "the release's heads": {"hidden_size": 144, "num_heads": 2, "num_kv_heads": 1, "num_layers": 1},
    "no grouping, depth 3": {"hidden_size": 32, "num_heads": 4, "num_kv_heads": None, "num_layers": 3},
    "other latents and patches": {"latent_channels": 8, "patch_size": 4, "hidden_size": 48, "num_heads": 2},
}
VAES = {
    "the release's heads": {"layers_per_block": 2},
    "other latents and patches": {"block_out_channels": (8, 16, 24, 32), "norm_num_groups": 8, "latent_channels": 8},
}


def make_pipeline(jdit=None, stvae=None, **settings):
    """A small random model that the release's layout can hold."""
    torch.manual_seed(0)
    small = {"latent_channels": 4, "block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
    vae = STVAE(**{**small, "norm_scope": "clip", "shift": SHIFT, "scale": SCALE, **(stvae or {})})
    dit = JDiT(**{"latent_channels": 4, "hidden_size": 32, "num_layers": 2, "num_heads": 4, **(jdit or {})})
    for parameter in [*dit.parameters(), *vae.parameters()]:
        torch.nn.init.normal_(parameter, std=0.1)
    return LavinPipeline(vae.eval(), dit.eval(), **{"sample_size": 32, "max_pairs": 2, **settings})


@pytest.fixture
def model(tmp_path):
    make_pipeline().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def release(model, tmp_path):
    convert_to_released(model, tmp_path / "release")
    return tmp_path / "release"


def state(pipeline):
    return {
        f"{part}.{name}": weight
        for part in ("stvae", "jdit")
        for name, weight in getattr(pipeline, part).state_dict().items()
    }


def assert_equal_states(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype and torch.equal(found[name], weight), name


def released_tensors(folder):
    return (
        load_file(folder / "lavin_dit.safetensors") | torch.load(folder / "stvae.pt", weights_only=True)["state_dict"]
    )


# --- Both ways --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_any_size_goes_there_and_back_bit_for_bit(tmp_path, size):
    pipe = make_pipeline(SIZES[size], VAES.get(size))
    pipe.save_pretrained(tmp_path / "model")
    assert convert_to_released(tmp_path / "model", tmp_path / "release") == []
    convert_released(tmp_path / "release", tmp_path / "back")
    back = LavinPipeline.from_pretrained(tmp_path / "back")
    assert_equal_states(state(back), state(pipe))
    for ours, theirs in ((pipe.jdit, back.jdit), (pipe.stvae, back.stvae), (pipe, back)):
        told = {name: value for name, value in theirs.config.items() if not name.startswith("_")}
        for name in told.keys() - {"stvae", "jdit", "num_kv_heads"}:
            assert told[name] == ours.config[name] or list(told[name]) == list(ours.config[name]), name
    jdit, stvae = load_released(tmp_path / "release")
    assert_equal_states({f"jdit.{k}": v for k, v in jdit.state_dict().items()}, state_of(pipe, "jdit"))
    assert_equal_states({f"stvae.{k}": v for k, v in stvae.state_dict().items()}, state_of(pipe, "stvae"))
    convert_to_released(tmp_path / "back", tmp_path / "again")
    assert_equal_states(released_tensors(tmp_path / "again"), released_tensors(tmp_path / "release"))


def state_of(pipe, part):
    return {name: weight for name, weight in state(pipe).items() if name.startswith(part)}


def test_bfloat16_with_a_few_float32_weights_stays_so(release, tmp_path):
    """A release of mixed precision: conversion keeps every weight's own, loading takes the widest for all."""
    file = release / "lavin_dit.safetensors"
    mixed = {name: w.bfloat16() if w.ndim == 2 else w for name, w in load_file(file).items()}
    from safetensors.torch import save_file

    save_file(mixed, file)
    convert_released(release, tmp_path / "converted")
    convert_to_released(tmp_path / "converted", tmp_path / "again")
    assert_equal_states(load_file(tmp_path / "again/lavin_dit.safetensors"), mixed)
    assert {p.dtype for p in load_released(release)[0].parameters()} == {torch.float32}
    assert {p.dtype for part in load_released(release, torch.bfloat16) for p in part.parameters()} == {torch.bfloat16}


def test_dtype_is_what_is_stored(release, tmp_path):
    convert_released(release, tmp_path / "half", dtype=torch.bfloat16)
    stored = load_file(tmp_path / "half/jdit/diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in stored.values()} == {torch.bfloat16}
    exact, _ = load_released(release)
    assert_equal_states(stored, {name: weight.bfloat16() for name, weight in exact.state_dict().items()})


def test_shards_have_an_index_and_load_as_one_file_does(release, tmp_path):
    convert_released(release, tmp_path / "whole")
    convert_released(release, tmp_path / "shards", max_shard_size="40KB")
    folder = tmp_path / "shards/jdit"
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) > 2 and {path.name for path in files} == set(index["weight_map"].values())
    assert sum(w.nbytes for path in files for w in load_file(path).values()) == index["metadata"]["total_size"]
    assert all(sum(w.nbytes for w in load_file(path).values()) <= 40_000 for path in files)
    whole, shards = (LavinPipeline.from_pretrained(tmp_path / name) for name in ("whole", "shards"))
    assert_equal_states(state(shards), state(whole))
    by_diffusers = JDiT.from_pretrained(folder)
    assert_equal_states(dict(by_diffusers.state_dict()), dict(whole.jdit.state_dict()))
    files[1].unlink()
    with pytest.raises(InputError, match=rf"{files[1].name}: missing shard"):
        LavinPipeline.from_pretrained(tmp_path / "shards")


def test_released_shards_are_read_and_half_of_them_refused(release, tmp_path):
    whole, _ = load_released(release)
    file = release / "lavin_dit.safetensors"
    content = load_file(file)
    file.unlink()
    from safetensors.torch import save_file

    names = [f"lavin_dit-0000{number}-of-00002.safetensors" for number in (1, 2)]
    parts = (sorted(content)[:20], sorted(content)[20:])
    for name, part in zip(names, parts):
        save_file({key: content[key] for key in part}, release / name)
    weight_map = {key: name for name, part in zip(names, parts) for key in part}
    (release / "lavin_dit.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert_equal_states(dict(load_released(release)[0].state_dict()), dict(whole.state_dict()))
    second = release / names[1]
    intact = second.read_bytes()
    second.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(InputError, match=rf"{names[1]}: corrupt or truncated"):
        load_released(release)
    second.unlink()
    with pytest.raises(InputError, match=rf"{names[1]}: missing shard; .* says it holds "):
        load_released(release)


# --- What cannot be converted -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jdit", "stvae", "message"),
    [
        ({"attention": "causal"}, {}, "attention is causal, not full"),
        ({"sandwich_norm": False}, {}, "sandwich_norm is False, not True"),
        ({"timestep_scale": 1000.0}, {"linear_shortcut": True}, "timestep_scale is 1000.0, not 1.0, the ST-VAE has a "),
    ],
)
def test_models_beyond_the_layout_are_refused_in_one_line(tmp_path, jdit, stvae, message):
    make_pipeline(jdit, stvae).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=f"does not fit the release's layout: {message}"):
        convert_to_released(tmp_path / "model", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_code_for_the_release_would_get_wrong_is_said(tmp_path):
    pipe = make_pipeline(stvae={"norm_scope": "frame", "shift": [0.1, 0.2, 0.3, 0.4], "scale": 2.0})
    pipe.save_pretrained(tmp_path / "model")
    scope, scaling = convert_to_released(tmp_path / "model", tmp_path / "out")
    assert "norm_scope is 'frame'" in scope and "shift and scale" in scaling
    _, stvae = load_released(tmp_path / "out")
    assert stvae.config.norm_scope == "frame" and stvae.config.shift == [0.1, 0.2, 0.3, 0.4]


@pytest.fixture
def disk_full(monkeypatch):
    """The disk is full after ten more weights."""
    write, left = weights.write_tensor, iter(range(10))

    def write_some(file, *args):
        if next(left, None) is None:
            file.write(b"half a weig")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, *args)

    monkeypatch.setattr(weights, "write_tensor", write_some)


def test_a_full_disk_leaves_nothing(model, release, tmp_path, disk_full):
    before = sorted(tmp_path.iterdir())
    for convert, source in ((convert_released, release), (convert_to_released, model)):
        with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device\)"):
            convert(source, tmp_path / "out")
        assert sorted(tmp_path.iterdir()) == before


def test_a_failure_leaves_what_was_there(release, tmp_path, disk_full):
    make_pipeline(stvae={"scale": 3.0}).save_pretrained(tmp_path / "out")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="cannot be written"):
        convert_released(release, tmp_path / "out", force=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert LavinPipeline.from_pretrained(tmp_path / "out").stvae.config.scale == 3.0


def test_a_pickle_that_fails_to_write_leaves_nothing(model, tmp_path, monkeypatch):
    def save(content, path):
        path.write_bytes(b"PK")
        raise RuntimeError("[enforce fail at inline_container.cc] PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(InputError, match="cannot be written"):
        convert_to_released(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_force_replaces_its_own_kind_only(release, tmp_path):
    out, photos = tmp_path / "out", tmp_path / "photos"
    convert_released(release, out)
    (out / "jdit/stale.txt").write_text("of the former model")
    with pytest.raises(InputError, match=r"output exists: .*out; give another --out or --force"):
        convert_released(release, out)
    convert_released(release, out, force=True)
    assert not (out / "jdit/stale.txt").exists()
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"")
    with pytest.raises(InputError, match="is not replaced"):
        convert_released(release, photos, force=True)
    with pytest.raises(InputError, match="holds the source"):
        convert_to_released(out, out, force=True)
    assert (photos / "cat.png").exists() and (out / "model_index.json").exists()


@pytest.mark.parametrize("size", ["", "2TB", "-1GB", "0"])
def test_shard_sizes_that_are_none_are_refused(release, tmp_path, size):
    with pytest.raises(InputError, match="shard size"):
        convert_released(release, tmp_path / "out", max_shard_size=size)
    assert not (tmp_path / "out").exists()


# --- Archives and the hub ---------------------------------------------------------------------------------------------


def picture(seed, size=24):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


@pytest.fixture
def published(release, tmp_path):
    """A folder with the two archives as published: weights, and contexts named <name>_input.png, <name>_target.png."""
    folder = tmp_path / "published"
    folder.mkdir()
    with tarfile.open(folder / "weights.tar.gz", "w:gz") as tar:
        tar.add(release, "weights")
    with tarfile.open(folder / "template.tar.gz", "w:gz") as tar:
        for number in range(5):
            for part in ("input", "target"):
                buffer = io.BytesIO()
                picture(2 * number + (part == "target")).save(buffer, "PNG")
                member = tarfile.TarInfo(f"template/depth/scene{number}_{part}.png")
                member.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(member, buffer)
    return folder


def test_archives_are_used_as_published(published, release, tmp_path):
    expected = state(LavinPipeline.from_released(release))
    before = sorted(published.iterdir())
    for source in (published, published / "weights.tar.gz"):
        assert_equal_states(state(LavinPipeline.from_released(source)), expected)
        out = convert_released(source, tmp_path / "out", force=True)
        assert_equal_states(state(LavinPipeline.from_pretrained(out)), expected)
        assert sorted(p.name for p in out.iterdir()) == ["jdit", "model_index.json", "stvae", "template"]
        assert len(list((out / "template/template/depth").glob("*.png"))) == 10
    assert sorted(published.iterdir()) == before


def member(name, kind=tarfile.REGTYPE, target=""):
    found = tarfile.TarInfo(name)
    found.type, found.linkname = kind, target
    return found


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../outside.txt"), "'../outside.txt' leads out of the folder"),
        (member("a/../../outside.txt"), "leads out of the folder"),
        (member("/tmp/outside.txt"), "leads out of the folder"),
        (member("..\\outside.txt"), "leads out of the folder"),
        (member("C:\\outside.txt"), "leads out of the folder"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "'link' is a link or a device"),
        (member("link", tarfile.SYMTYPE, "inside.txt"), "'link' is a link or a device"),
        (member("link", tarfile.LNKTYPE, "inside.txt"), "'link' is a link or a device"),
        (member("null", tarfile.CHRTYPE), "'null' is a link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "'pipe' is a link or a device"),
    ],
)
def test_unsafe_archives_leave_nothing(tmp_path, bad, message):
    archive = tmp_path / "weights.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(member("inside.txt"))
        tar.addfile(bad)
    with pytest.raises(InputError, match=r"weights\.tar\.gz: unsafe archive") as error:
        convert_released(tmp_path, tmp_path / "deep/out")
    assert message in str(error.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "weights.tar.gz"]


def test_damaged_archives_are_named(published, tmp_path):
    archive = published / "weights.tar.gz"
    intact = archive.read_bytes()
    for content in (intact[: len(intact) // 2], b"no archive", b""):
        archive.write_bytes(content)
        with pytest.raises(InputError, match=r"weights\.tar\.gz: cannot be unpacked"):
            LavinPipeline.from_released(published)
    archive.unlink()
    with (
        pytest.raises(InputError, match=r"published: lavin_dit\.safetensors .* are needed"),
        released_folder(published),
    ):
        pass


def test_extracted_files_are_not_executable_for_others(tmp_path):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        loose = member("loose.txt")
        loose.mode = 0o6777
        tar.addfile(loose)
    extract(tmp_path / "a.tar.gz", tmp_path)
    assert (tmp_path / "loose.txt").stat().st_mode & 0o6022 == 0


def test_a_hub_id_is_fetched_or_the_reason_is_given(release, monkeypatch):
    import huggingface_hub

    def snapshot_download(hub_id, allow_patterns):
        if hub_id == "owner/name":
            return str(release)
        raise ConnectionError("we couldn't connect to 'https://huggingface.co'\nCheck your connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert LavinPipeline.from_released("owner/name").config.sample_size == 32
    with pytest.raises(InputError, match=r"owner/other is no folder here and cannot be had from the .* \(we couldn"):
        LavinPipeline.from_released("owner/other")
    for wrong in ("name", "./owner/name/deeper", "https://huggingface.co/owner/name"):
        with pytest.raises(InputError, match="does not exist"):
            LavinPipeline.from_released(wrong)


# --- The command ------------------------------------------------------------------------------------------------------


def error(capsys):
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("error: "), captured
    return lines[0]


def test_the_command_converts_both_ways_and_infers(published, release, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", "--released", "published", "--out", "ours"]) == 0
    assert cli.main(["convert", "--to-released", "--model", "ours", "--out", "theirs"]) == 0
    assert capsys.readouterr().out.split() == ["ours", "theirs"]
    assert_equal_states(released_tensors(tmp_path / "theirs"), released_tensors(release))
    picture(20).save("img.png")
    for model in ("ours", "release"):
        options = ["--context", "ours/template/template/depth", "--query", "img.png", "--steps", "4"]
        assert cli.main(["infer", *options, "--model", model, "--out", f"by_{model}.png"]) == 0
        assert "up to 2 pairs" in capsys.readouterr().err
    np.testing.assert_array_equal(np.asarray(Image.open("by_ours.png")), np.asarray(Image.open("by_release.png")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "o"], "give --released, the folder to convert"),
        (["--out", "o", "--released", "release", "--model", "model"], "give --released"),
        (["--out", "o", "--to-released"], "--to-released converts a --model"),
        (["--out", "o", "--released", "gone"], "release gone does not exist"),
        (["--out", "o", "--released", "model"], "release model: lavin_dit.safetensors"),
        (["--out", "o", "--to-released", "--model", "release"], "in the release's layout"),
        (["--out", "release", "--released", "release"], "output exists: release"),
        (["--out", "o", "--released", "release", "--dtype", "int8"], "unknown dtype 'int8'"),
    ],
)
def test_wrong_commands_say_what_is_wrong(release, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["convert", *options]) == 2
    assert message in error(capsys)
    assert not (tmp_path / "o").exists()
