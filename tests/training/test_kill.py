"""`kill -9` at random moments, also during saves: no resume is refused, nothing lost but the steps since the last save.

python tests/training/test_kill.py --kills 20                      one process
python tests/training/test_kill.py --kills 20 --zero2              DeepSpeed ZeRO-2 on two CPU ranks
python tests/training/test_kill.py --kills 20 --zero2 --ranks 4    on four
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from lavin.training import checkpoint

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from toy_run import FOR_EVER, toy_run, train_for_ever  # noqa: E402, tests are no package


def forked(folder: Path):
    """A run in a process forked from a server that has imported everything and computed nothing: autograd's threads,
    which other tests may have left in this one, do not survive a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["toy_run"])
    process = context.Process(target=train_for_ever, args=(str(folder),))
    process.start()
    return process.pid, process.join


def launched(folder: Path, ranks: int):
    """A run under `accelerate launch` with ZeRO-2, in a process group of its own."""
    run = {"output_dir": str(folder), "max_steps": FOR_EVER, "checkpoint_every": 1, "log_every": 1000}
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "configs/accelerate/zero2.yaml",
        "--num_processes", str(ranks), "--main_process_port", "0", "tests/training/toy_run.py", json.dumps(run),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    return process.pid, process.wait


def kill_group(leader: int) -> None:
    """kill -9 of a run's own process group, and of its ranks where the launcher gave them sessions of their own."""
    ranks = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout.split()
    for pid in (leader, *map(int, ranks)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            print(f"{pid} had ended by itself")


def newest_step(folder: Path) -> int:
    whole = checkpoint.steps(folder / "checkpoints")
    return int(whole[-1].name.removeprefix("step-")) if whole else 0


def kill_often(folder: Path, kills: int, ranks: int = 0, seed: int = 0) -> list[int]:
    """Start a run, let it save at least once more, kill it at random; again and again.

    Args:
        ranks: of ZeRO-2; 0 for one process without it.

    Returns:
        Newest whole step after each kill.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, found = random.Random(seed), [0]
    for _ in range(kills):
        pid, join = launched(folder, ranks) if ranks else forked(folder)
        limit = time.monotonic() + 120
        while newest_step(folder) <= found[-1]:
            assert time.monotonic() < limit, (folder / "log").read_text()[-2000:]
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        before = newest_step(folder)
        kill_group(pid)
        join()
        found.append(newest_step(folder))
        assert found[-1] >= before
    return found[1:]


def test_a_killed_run_resumes_from_its_newest_checkpoint(tmp_path):
    steps = kill_often(tmp_path, kills=4)
    assert steps == sorted(set(steps))
    log = (tmp_path / "log").read_text()
    assert [f"resumed {tmp_path} at step {step}\n" in log for step in steps[:-1]] == [True] * 3
    assert "damaged" not in log
    toy_run(output_dir=str(tmp_path), max_steps=steps[-1] + 1)
    toy_run(output_dir=str(tmp_path / "whole"), max_steps=steps[-1] + 1, checkpoint_every=FOR_EVER)
    killed, whole = (
        checkpoint.newest(path / "checkpoints").state()["model"] for path in (tmp_path, tmp_path / "whole")
    )
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--zero2", action="store_true", help="DeepSpeed ZeRO-2, all ranks killed together")
    parser.add_argument("--ranks", type=int, default=2, help="of --zero2")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    ranks = arguments.ranks if arguments.zero2 else 0
    with tempfile.TemporaryDirectory() as scratch:
        print("newest whole step after each kill:", kill_often(Path(scratch), arguments.kills, ranks, arguments.seed))
