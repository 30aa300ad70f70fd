"""The loop on random latents: steps that are skipped, signals, full disks, refused resumes."""

import errno
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from lavin.errors import InputError, LavinError
from lavin.models.jdit import JDiT
from lavin.training import checkpoint
from lavin.training.average import Average, decay_at
from lavin.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parent))
from toy_run import toy_run


def saved(folder):
    return checkpoint.newest(folder / "checkpoints")


def test_average_moves_in_float32_and_warms_up():
    """1e-4 of a change is lost in bfloat16."""
    average = Average([torch.ones(3)], 0.9999)
    average.update([torch.full((3,), 2.0)], step=10**9, skip=torch.tensor(0.0))
    torch.testing.assert_close(average.values[0], torch.full((3,), 1.0001))
    average.update([torch.full((3,), 2.0)], step=10**9, skip=torch.tensor(1.0))
    torch.testing.assert_close(average.values[0], torch.full((3,), 1.0001))
    assert decay_at(0, 0.9999) == 0
    assert decay_at(7, 0.9999) == pytest.approx(0.75)
    assert decay_at(10**9, 0.9999) == 0.9999


def test_a_step_without_a_finite_loss_changes_nothing_and_is_counted(tmp_path, capsys):
    toy_run(output_dir=str(tmp_path), max_steps=2)
    before = saved(tmp_path).state()
    trainer = toy_run([2, 3], output_dir=str(tmp_path), max_steps=4)
    after = saved(tmp_path)
    assert float(trainer.vitals.skipped) == 2 and after.record["skipped_steps"] == 2
    assert "skipped_steps 2" in capsys.readouterr().out
    assert after.step == 4
    for part in ("model", "average"):
        assert all(torch.equal(value, after.state()[part][name]) for name, value in before[part].items())
    assert after.state()["optimizer"]["step"] == before["optimizer"]["step"] == 2
    toy_run(output_dir=str(tmp_path), max_steps=5)
    assert any(
        not torch.equal(value, before["model"][name]) for name, value in saved(tmp_path).state()["model"].items()
    )
    assert saved(tmp_path).record["skipped_steps"] == 2


def test_ten_in_a_row_end_the_run_and_save_the_batch(tmp_path):
    with pytest.raises(LavinError, match=r"not finite in 10 steps in a row, up to step 13.*not-finite-rank0\.pt"):
        toy_run(range(3, 40), output_dir=str(tmp_path), max_steps=40)
    kept = torch.load(tmp_path / "not-finite-rank0.pt", weights_only=True)
    assert kept["batch"][0]["x"].shape == (2, 4, 1, 4, 4)
    state = saved(tmp_path).state()
    assert all(value.isfinite().all() for value in state["model"].values())


def test_nine_in_a_row_do_not_end_it(tmp_path):
    trainer = toy_run(range(3, 12), output_dir=str(tmp_path), max_steps=15)
    assert trainer.step == 15 and float(trainer.vitals.skipped) == 9


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits_and_the_same_command_goes_on(tmp_path, number, code, monkeypatch):
    step = Trainer.train_step

    def interrupted(self, compute_loss):
        if self.step == 2:
            os.kill(os.getpid(), number)
        return step(self, compute_loss)

    toy_run(output_dir=str(tmp_path / "whole"), max_steps=6, checkpoint_every=100)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(SystemExit) as end:
            toy_run(output_dir=str(tmp_path / "halves"), max_steps=6, checkpoint_every=100)
    assert end.value.code == code
    assert saved(tmp_path / "halves").step == 3
    assert not (tmp_path / "halves" / "jdit").exists()
    toy_run(output_dir=str(tmp_path / "halves"), max_steps=6, checkpoint_every=100)
    whole, halves = (saved(tmp_path / name).state()["average"] for name in ("whole", "halves"))
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())


def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path, monkeypatch, capsys):
    write = checkpoint.write_state

    def full(path, state):
        if "00000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, state)

    monkeypatch.setattr(checkpoint, "write_state", full)
    toy_run(output_dir=str(tmp_path), max_steps=5)
    assert "warning: no checkpoint at step 4: [Errno 28] No space left on device" in capsys.readouterr().out
    assert [path.name for path in checkpoint.steps(tmp_path / "checkpoints")] == ["step-00000002", "step-00000005"]


def test_another_model_is_refused_with_the_difference(tmp_path):
    toy_run(output_dir=str(tmp_path), max_steps=1)
    with pytest.raises(InputError, match=r"another model \(model.hidden_size was 32 and is 64\)"):
        toy_run(output_dir=str(tmp_path), max_steps=2, hidden_size=64)
    assert saved(tmp_path).step == 1


def test_weights_alone_are_exported_on_the_way_and_the_newest_kept(tmp_path):
    toy_run(output_dir=str(tmp_path), max_steps=5, export_every=1, keep_exports=2)
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["step-00000004", "step-00000005"]
    last, end = (JDiT.from_pretrained(tmp_path / name) for name in ("exports/step-00000005", "jdit"))
    assert all(torch.equal(value, end.state_dict()[name]) for name, value in last.state_dict().items())


def test_a_process_may_train_in_one_precision_and_then_in_another(tmp_path):
    for precision in ("bf16", "fp32", "bf16"):
        trainer = toy_run(output_dir=str(tmp_path / precision), max_steps=1, precision=precision)
        assert trainer.accelerator.mixed_precision == ("no" if precision == "fp32" else "bf16")
