"""Checkpoints on disk: whole or skipped, pointed at, kept and removed."""

import resource

import pytest
import torch

from lavin.training import checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def two(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"x": torch.full((1000,), float(step))}, {"config": {}}, keep=2)
    return tmp_path


def test_the_newest_whole_one_is_found_and_pointed_at(two):
    found = checkpoint.newest(two)
    assert found.step == 2 and found.state()["x"][0] == 2
    assert (two / checkpoint.LATEST).read_text() == "step-00000002\n"
    assert names(two) == ["latest", "step-00000001", "step-00000002"]


@pytest.mark.parametrize("damage", ["no record", "no state", "cut short", "one bit", "record is no JSON"])
def test_a_damaged_one_is_skipped_with_a_line_and_set_aside(two, damage, capsys):
    state, record = (two / "step-00000002" / name for name in (checkpoint.STATE, checkpoint.RECORD))
    content = state.read_bytes()
    if damage == "no record":
        record.unlink()
    elif damage == "no state":
        state.unlink()
    elif damage == "cut short":
        state.write_bytes(content[:-100])
    elif damage == "one bit":
        middle = len(content) // 2
        state.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        record.write_text('{"step":')
    assert checkpoint.newest(two).step == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and lines[0].startswith("warning: skipped damaged checkpoint step-00000002")
    assert "damaged-step-00000002" in names(two)
    checkpoint.save(two, 2, {}, {}, keep=1)  # and neither counts nor stands in the way
    assert checkpoint.newest(two).step == 2
    assert [path.name for path in checkpoint.steps(two)] == ["step-00000002"]


def test_only_the_newest_are_kept(tmp_path):
    for step in range(5):
        checkpoint.save(tmp_path, step, {}, {}, keep=2)
    assert [path.name for path in checkpoint.steps(tmp_path)] == ["step-00000003", "step-00000004"]


def test_what_a_killed_save_left_is_not_a_checkpoint_and_goes_with_the_next(two):
    (two / ".step-00000003.partial").mkdir()
    (two / ".step-00000003.partial" / checkpoint.STATE).write_bytes(b"torn")
    (two / ".step-00000000.removed").mkdir()
    assert checkpoint.newest(two).step == 2
    checkpoint.save(two, 3, {}, {}, keep=3)
    assert names(two) == ["latest", "step-00000001", "step-00000002", "step-00000003"]


def test_a_save_that_runs_out_of_space_leaves_what_was_there(two):
    """Files may not grow beyond a few bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoint.save(two, 3, {"x": torch.zeros(10_000)}, {}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(two) == ["latest", "step-00000001", "step-00000002"]
    assert checkpoint.newest(two).step == 2
