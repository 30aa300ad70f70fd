"""Every command of the README runs as it stands there, in a folder that looks like a checkout."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SLOW = {
    "train/pretrain.py": ["configs/pretrain/debug.yaml", "run.max_steps=2", "run.validate_every=0"],
    "train/stvae.py": ["configs/stvae/debug.yaml", "run.max_steps=2", "run.validate_every=0"],
    "eval/benchmark.py": ["--queries", "2", "--tasks", "depth"],
}
"""Commands that take hours as they stand, and what makes them short."""
NOT_HERE = ("pip ", "pytest")
"""What installs and tests lavin itself: CI does both, as written."""


def lines():
    """Each line's commands, which run one after another where ``&&`` joins them."""
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            found = [command.strip() for command in line.split("#")[0].split("&&")]
            found = [command for command in found if command and not command.startswith(NOT_HERE)]
            if found:
                yield " && ".join(found)


@pytest.fixture
def checkout(tmp_path):
    for name in ("lavin", "configs", "train", "eval"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("line", sorted(set(lines())))
def test_command_of_the_readme(line, checkout):
    for command in line.split(" && "):
        run_in(checkout, command)


def run_in(checkout, command):
    words = shlex.split(command)
    if words[0] == "lavin":
        words = [sys.executable, "-m", "lavin", *words[1:]]
    elif words[:2] == ["accelerate", "launch"]:
        words = [sys.executable, "-m", "accelerate.commands.launch", *words[2:]]
    elif words[0] == "python":
        words[0] = sys.executable
    for script, shorter in SLOW.items():
        if script in words and "--dry-run" not in words:
            after = words.index(script) + 1
            words[after:] = shorter + [word for word in words[after:] if not word.endswith(".yaml")]
    done = subprocess.run(words, cwd=checkout, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]


def test_python_example_runs(checkout, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(checkout)
    exec(compile(code, "README.md", "exec"), {})
    assert (checkout / "prediction.png").exists()


def test_pictures_and_files_that_it_names_exist():
    for path in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (ROOT / path).exists(), path
