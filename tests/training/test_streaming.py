"""Training on contexts that workers go on drawing: rings, shares, and whole runs of both trainings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import config_dir
from lavin.data.photos import BSDS500
from lavin.data.stream import ContextBatch, ContextStream, RollingPool, Share, read_stream
from lavin.errors import InputError
from lavin.models.stvae import STVAE
from lavin.training import checkpoint
from lavin.training.config import (
    PhotosConfig,
    PretrainConfig,
    ScenesConfig,
    StreamConfig,
    STVAEConfig,
    TasksConfig,
    load_config,
)
from lavin.training.pretrain import train
from lavin.training.streaming import LatentRing, PictureRing, shares
from lavin.training.stvae import train as train_stvae

STREAM = ["stream.workers=1", "stream.batch=2", "stream.fresh=2", "stream.scenes_per_context=0.5"]
RUN = ["run.validate_every=0", "run.precision=fp32", "run.log_every=1", "run.batch_size=2", "scenes.size=32"]


@pytest.fixture
def stvae(tmp_path):
    torch.manual_seed(0)
    model = STVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    model.save_pretrained(tmp_path / "stvae")
    return tmp_path / "stvae"


@pytest.fixture
def photos(tmp_path):
    """Eight pictures in the layout of BSDS500."""
    for split in ("train", "val"):
        for folder in ("images", "boundaries"):
            (tmp_path / "bsds500" / split / folder).mkdir(parents=True)
        for number in range(8):
            levels = np.random.default_rng(number).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(levels).save(tmp_path / "bsds500" / split / "images" / f"{number}.png")
            Image.fromarray(levels[..., 0]).save(tmp_path / "bsds500" / split / "boundaries" / f"{number}.png")
    return tmp_path / "bsds500"


def batch(count: int, first: int) -> ContextBatch:
    """Contexts of two pairs, all of one level each, and task ids, by number."""
    levels = torch.arange(first, first + count, dtype=torch.uint8).view(-1, 1, 1, 1, 1, 1)
    pictures = levels.expand(count, 2, 3, 1, 16, 16)
    return ContextBatch(pictures, 255 - pictures, torch.arange(first, first + count))


def empty_ring(ring_type, **attributes):
    """A ring without workers, to be given batches by hand."""
    ring = object.__new__(ring_type)
    ring.__dict__.update(drawn=0, damaged=set(), **attributes)
    return ring


def test_the_newest_contexts_stay_as_the_st_vaes_latents():
    stvae = STVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).eval()
    ring = empty_ring(LatentRing, stvae=stvae, precision="fp32", capacity=5, tasks=list("abcdefgh"))
    ring.put(batch(3, 10))
    assert len(ring) == 3
    ring.put(batch(4, 13))
    assert len(ring) == 5
    assert sorted(ring.task_ids.tolist()) == [12, 13, 14, 15, 16]
    for place, level in enumerate(ring.task_ids.tolist()):
        with torch.no_grad():
            wanted = stvae.to_latent(torch.full((1, 3, 1, 16, 16), level / 127.5 - 1))
        torch.testing.assert_close(ring.inputs[place, 1].float(), wanted[0], atol=2e-3, rtol=2e-3)
    condition, targets, task_ids = ring.sequences(np.random.default_rng(0), 64, 2)
    assert condition.shape[2] == 3 and targets.shape[2] == 2
    assert set(task_ids.tolist()) == {12, 13, 14, 15, 16}


def test_a_ring_of_pictures_holds_inputs_and_targets():
    ring = empty_ring(PictureRing, capacity=10, device=torch.device("cpu"), batches=iter([batch(2, 10), batch(2, 20)]))
    ring.advance(3)
    levels = ((ring.draw(np.random.default_rng(0), 200)[:, 0, 0, 0, 0] + 1) * 127.5).round()
    assert len(ring) == 10  # 16 came, inputs before targets: the first six of the first batch were replaced
    assert set(levels.int().tolist()) == {244, 20, 21, 235, 234}


def test_sources_share_the_contexts_and_show_only_what_they_can(photos):
    tasks = TasksConfig(weights={"depth": 1.0, "edges": 2.0, "pose": 1.0})
    found = shares(
        ScenesConfig(size=32, train_scenes=100),
        tasks,
        StreamConfig(workers=1, people_share=0.3),
        PhotosConfig({"bsds500": str(photos)}, 0.2),
    )
    assert [round(share.weight, 6) for share in found] == [0.5, 0.3, 0.2]
    assert [sorted(share.tasks) for share in found] == [["depth", "edges"], ["depth", "edges", "pose"], ["edges"]]


def test_the_j_dit_trains_on_a_stream_of_scenes_people_and_photos_and_resumes(tmp_path, stvae, photos):
    overrides = [
        *STREAM, *RUN, f"run.output_dir={tmp_path / 'run'}", f"stvae={stvae}", "stream.people_share=0.2",
        f"photos.folders.bsds500={photos}", "scenes.train_scenes=64", "scenes.validation_scenes=40",
        "cache.contexts=4", "cache.validation_contexts=2", "tasks.weights={edges: 1, pose: 1, foreground: 0, depth: 0}",
    ]  # fmt: skip
    file = config_dir() / "pretrain/debug.yaml"
    train(load_config(PretrainConfig, file, [*overrides, "run.max_steps=2"]))
    folder = train(load_config(PretrainConfig, file, [*overrides, "run.max_steps=4"]))
    record = json.loads((folder / "training.json").read_text())
    assert record["steps"] == 4
    configs = [json.loads((folder / part / "config.json").read_text()) for part in ("jdit", "stvae")]
    assert not any("_name_or_path" in config for config in configs)  # a place on this machine is nobody's business
    assert checkpoint.steps(tmp_path / "run/checkpoints")


def test_the_st_vae_trains_on_a_stream_of_pictures_and_clips_from_another_ones_weights(tmp_path, capsys):
    file = config_dir() / "stvae/debug.yaml"
    first = train_stvae(
        load_config(
            STVAEConfig,
            file,
            [*RUN, f"run.output_dir={tmp_path / 'a'}", "run.max_steps=1", "scenes.train_scenes=60", "pictures=40"],
        )
    )
    capsys.readouterr()
    overrides = [
        *STREAM, *RUN, f"run.output_dir={tmp_path / 'b'}", "stream.workers=2", "run.max_steps=4",
        "run.validate_every=4", "scenes.train_scenes=64", "scenes.validation_scenes=20", "pictures=20",
        "clip_share=0.5", "clips=4", f"init={first}", "optimizer.learning_rate=1e-9",
    ]  # fmt: skip
    folder = train_stvae(load_config(STVAEConfig, file, overrides))
    assert "psnr_clips" in capsys.readouterr().out
    before, after = (STVAE.from_pretrained(path).state_dict() for path in (first, folder))
    for name, value in before.items():
        torch.testing.assert_close(value, after[name], atol=1e-5, rtol=1e-4)


def test_a_run_ends_when_its_time_is_over(tmp_path, stvae):
    overrides = [
        *RUN, f"run.output_dir={tmp_path / 'run'}", f"stvae={stvae}", "run.max_steps=100000", "run.max_minutes=0.05",
        "scenes.train_scenes=60", "scenes.validation_scenes=60", "cache.contexts=6", "cache.validation_contexts=2",
    ]  # fmt: skip
    folder = train(load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", overrides))
    steps = json.loads((folder / "training.json").read_text())["steps"]
    assert 0 < steps < 100000
    assert checkpoint.steps(tmp_path / "run/checkpoints")[-1].name == f"step-{steps:08d}"


@pytest.mark.parametrize("accumulation", [1, 2])
def test_contexts_of_a_stream_are_counted_from_the_step_of_a_resumed_run(tmp_path, stvae, monkeypatch, accumulation):
    started = []
    original = ContextStream.__init__

    def record(self, *args, **kwargs):
        original(self, *args, **kwargs)
        started.append(self.first)

    monkeypatch.setattr(ContextStream, "__init__", record)
    overrides = [
        *STREAM, *RUN, f"run.output_dir={tmp_path / 'run'}", f"stvae={stvae}", "stream.fresh=4",
        "scenes.train_scenes=64", "scenes.validation_scenes=40", "cache.contexts=4", "cache.validation_contexts=2",
    ]  # fmt: skip
    file = config_dir() / "pretrain/debug.yaml"
    train(load_config(PretrainConfig, file, [*overrides, "run.max_steps=3", f"run.accumulation={accumulation}"]))
    train(load_config(PretrainConfig, file, [*overrides, "run.max_steps=4", f"run.accumulation={accumulation}"]))
    assert started == [0, 6 * accumulation]


def damage(picture) -> None:
    """Cut a file short."""
    picture.write_bytes(picture.read_bytes()[:100])


def test_damaged_pictures_are_left_out_counted_and_named(tmp_path, capfd):
    """1 of 120 is within what is tolerated; no context shows it, and none shows a picture twice."""
    folder = many_photos(tmp_path, 120)
    damage(folder / "train" / "images" / "007.png")
    source = BSDS500(folder, "train", 32)
    pool = RollingPool(source, worker=3, capacity=10**6)
    pool.advance(500)
    numbers = [int(sample.id.rpartition("/")[2]) % 120 for sample in pool.samples]
    damaged = folder / "train" / "images" / "007.png"
    bad = next(number for number, (picture, _) in enumerate(source.files) if picture == damaged)
    assert sorted(numbers) == [number for number in range(120) if number != bad]
    assert len(pool.damaged) == 1 and str(damaged) in pool.damaged[bad]
    stream = ContextStream([Share(source, 1.0, {"colorization": 1.0})], ["colorization"], 2, batch=2)
    batches = read_stream(stream, workers=1)
    ring = PictureRing(ContextStream(stream.shares, ["colorization"], 2, batch=2), 1, 8, torch.device("cpu"))
    ring.advance(4)
    assert [damaged.name in line for line in ring.damaged] == [True]
    assert capfd.readouterr().out.count("warning: left out a damaged sample") == 1
    assert len(next(batches).damaged) == 1 and len(next(batches).damaged) == 0


def test_more_than_one_in_a_hundred_damaged_ends_the_run_in_one_line(tmp_path):
    folder = many_photos(tmp_path, 120)
    for name in ("007.png", "050.png"):
        damage(folder / "train" / "images" / name)
    stream = ContextStream([Share(BSDS500(folder, "train", 32), 1.0, {"colorization": 1.0})], ["colorization"], 2)
    with pytest.raises(InputError, match=r"^BSDS500: 2 of 120 samples are damaged, more than 1%; the last: .*png"):
        next(read_stream(stream, workers=1))


def many_photos(tmp_path, count: int):
    for folder in ("images", "boundaries"):
        (tmp_path / "many" / "train" / folder).mkdir(parents=True)
    for number in range(count):
        levels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / "many" / "train" / "images" / f"{number:03}.png")
        Image.fromarray(levels[..., 0]).save(tmp_path / "many" / "train" / "boundaries" / f"{number:03}.png")
    return tmp_path / "many"
