"""What a run says of itself: losses by group, shares of time, trackers."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from lavin import config_dir
from lavin.errors import InputError
from lavin.training.buckets import BatchPlan, buckets_of
from lavin.training.config import PretrainConfig, RunConfig, load_config
from lavin.training.monitor import Clock, LossBreakdown, Monitor, progress_line
from lavin.training.pretrain import loss_groups, train
from lavin.training.tracking import flat

sys.path.insert(0, str(Path(__file__).parent))
from toy_run import toy_run


def test_losses_are_averaged_by_group_and_those_not_finite_left_out():
    rng = np.random.default_rng(0)
    losses = LossBreakdown({"task": ["a", "b", "c"], "pairs": ["0", "1"]}, torch.device("cpu"))
    seen: dict[str, list[float]] = {}
    for _ in range(5):
        loss, task, pairs = rng.random((3, 4)), rng.integers(0, 2, (3, 4)), rng.integers(0, 2, (3, 4))
        loss[rng.random((3, 4)) < 0.2] = np.nan
        losses.add(torch.from_numpy(loss), task=torch.from_numpy(task), pairs=torch.from_numpy(pairs))
        for value, one, two in zip(loss.flat, task.flat, pairs.flat, strict=True):
            if np.isfinite(value):
                seen.setdefault(f"by_task/{'abc'[one]}", []).append(value)
                seen.setdefault(f"by_pairs/{two}", []).append(value)
    found = losses.look(Accelerator(cpu=True))
    assert found == pytest.approx({name: np.mean(values) for name, values in seen.items()}, rel=1e-5)
    assert losses.look(Accelerator(cpu=True)) == {}


def test_parallel_targets_count_the_pairs_before_them_and_dropped_sequences_none():
    settings = load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", ["train_pairs=3", "run.batch_size=2"])
    (bucket,) = buckets_of(settings)
    t = torch.tensor([[0.0, 0.3, 0.999999], [0.25, 0.74, 1.0]])
    groups = loss_groups(t, torch.tensor([4, 7]), BatchPlan(bucket, 3, np.zeros(2, bool)))
    assert groups["pairs"].tolist() == [[0, 1, 2]] * 2
    assert groups["timestep"].tolist() == [[0, 1, 3], [1, 2, 3]]
    assert groups["task"].tolist() == [[4] * 3, [7] * 3]
    groups = loss_groups(t[:, 0], torch.tensor([4, 7]), BatchPlan(bucket, 3, np.array([True, False])))
    assert groups["pairs"].tolist() == [0, 2] and groups["task"].tolist() == [4, 7]


def test_time_is_shared_out_and_speeds_leave_validation_out():
    clock = Clock()
    with clock.doing("data"):
        time.sleep(0.02)
    spent = clock.look()
    assert 0.02 <= spent["data"] < 0.1 and 0 <= spent["compute"] < 0.02
    assert clock.look().keys() == {"compute"}
    monitor = Monitor(Accelerator(cpu=True), "fp32")
    monitor.watch_arithmetic(lambda kind: {"long": 10**9, "short": 10**8}[kind])
    monitor.rate = 1e11
    with monitor.clock.doing("validation"):
        time.sleep(0.1)
    monitor.note_batch(2, ("long",))
    monitor.note_batch(5, ("short",))
    time.sleep(0.05)
    values = monitor.look(steps=2)
    assert 7 / 0.07 < values["samples_per_s"] < 7 / 0.05
    assert values["mfu"] == pytest.approx(2.5e9 / 7 * values["samples_per_s"] / 1e11)
    assert values["steps_per_s"] == pytest.approx(2 / 7 * values["samples_per_s"])
    assert sum(values[name] for name in ("time/compute", "time/validation")) == pytest.approx(1)
    assert values["memory_gib"] > 0.05


def test_the_progress_line_says_where_time_goes_and_leaves_details_to_the_logs():
    values = {"loss": 0.5, "by_task/depth": 0.4, "mfu": 0.412, "time/compute": 0.9, "time/data": 0.1}
    assert progress_line(values, 150.0) == "loss 0.5  mfu 41%  time: compute 90% data 10%  2 min left"


def test_runs_log_losses_by_group_and_validate_both_averaged_and_raw_weights(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    small = ["scenes.size=32", "scenes.train_scenes=60", "scenes.validation_scenes=60", "run.precision=fp32"]
    run = ["run.max_steps=4", "run.log_every=2", "run.validate_every=4", "model.hidden_size=32"]
    train(load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", [*small, *run, f"output_dir={tmp_path}"]))
    (file,) = (tmp_path / "logs").glob("**/events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"loss", "gradient_norm", "samples_per_s", "mfu", "memory_gib", "time/data", "time/compute"} <= scalars
    assert {"by_pairs/0", "by_pairs/1", "by_task/depth", "by_bucket/1x32x32", "by_timestep/0.50-0.75"} <= scalars
    value = {name: events.Scalars(name)[-1].value for name in scalars}
    assert value["validation/loss"] != value["validation_raw/loss"]
    assert 0 < value["mfu"] < 1.5
    assert np.mean([value["by_pairs/0"], value["by_pairs/1"]]) == pytest.approx(value["loss"], rel=1e-4)
    title = "context | query | prediction | truth"
    assert {title, f"{title} (raw weights)"} == set(events.Tags()["images"])


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        (["tensorbord"], "unknown tracker 'tensorbord'; did you mean 'tensorboard'"),
        (["tensorboard", "dvclive"], "'dvclive' is not installed; installed: "),
    ],
)
def test_trackers_that_are_not_there_are_refused(trackers, message):
    with pytest.raises(InputError, match=message):
        RunConfig(trackers=trackers)


def test_a_run_may_have_no_tracker(tmp_path):
    toy_run(output_dir=str(tmp_path), max_steps=1, trackers=[])
    assert not (tmp_path / "logs").exists()


def test_other_trackers_get_the_configuration_flat():
    record = {"run": {"seed": 3, "trackers": ["wandb"]}, "init": None}
    assert flat(record) == {"run.seed": 3, "run.trackers": "['wandb']", "init": "None"}
    assert json.loads(json.dumps(flat(record))) == flat(record)
