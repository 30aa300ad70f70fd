"""What computing is said to cost: bytes that a few tensors take, and the ST-VAE's on long clips and large pictures."""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lavin.cli import run
from lavin.evaluation.cost import counted
from lavin.evaluation.stvae_cost import memory

PATH = Path(__file__).parents[2] / "eval" / "stvae.py"


def test_held_memory_is_what_is_made_and_not_yet_gone():
    """1,000 floats are 4,000 bytes. Views and changes in place make nothing, and what was there does not count."""
    given = torch.randn(1000)

    def chain():
        doubled = given.view(10, 100) + given.view(10, 100)
        squared = doubled.square()
        del doubled
        return squared.t().mul_(2).sum()

    assert counted(chain)[1] == 8000
    assert counted(lambda: given.t().add_(1))[1] == 0


def test_operations_and_memory_of_a_layer_are_arithmetic():
    layer, x = nn.Linear(64, 32, bias=False), torch.randn(10, 64)
    with torch.no_grad():
        operations, held = counted(lambda: F.relu(layer(x)))
    assert operations == 2 * 10 * 64 * 32
    assert held == 2 * 10 * 32 * 4


def test_chunks_take_no_more_memory_for_longer_clips_and_the_same_arithmetic():
    rows = {(row["frames"], row["how"]): row for row in memory("stvae_tiny", [64], [17, 41])}
    assert rows.keys() == {(17, "whole"), (17, "chunks"), (41, "whole"), (41, "chunks")}
    clip = 3 * 64 * 64 * 2  # bytes of a decoded frame, of which the result has all
    for part, frame in (("encode", 0), ("decode", clip)):
        grown = rows[41, "chunks"][f"{part}_bytes"] - rows[17, "chunks"][f"{part}_bytes"]
        assert grown < 1.1 * 2 * 24 * frame + 0.02 * rows[17, "chunks"][f"{part}_bytes"]
        assert rows[41, "whole"][f"{part}_bytes"] > 2 * rows[17, "whole"][f"{part}_bytes"]
        assert rows[41, "chunks"][f"{part}_flops"] == pytest.approx(rows[41, "whole"][f"{part}_flops"], rel=1e-3)


def test_tiles_take_the_memory_of_one_tile():
    """From 512 to 1024 pixels a whole picture takes four times as much, a tiled one little more than its result."""
    rows = {(row["side"], row["how"]): row for row in memory("stvae_tiny", [512, 1024], [1])}
    for part in ("encode_bytes", "decode_bytes"):
        assert rows[1024, "whole"][part] == pytest.approx(4 * rows[512, "whole"][part], rel=0.02)
        assert rows[1024, "tiles"][part] < rows[1024, "whole"][part] / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "60"], "--size is 60; it must be a multiple of 8"),
        (["--frames", "16"], "--frames is 16; clips have 1 + 4k frames, e.g. 17"),
        (["--preset", "stvae_ful"], "unknown preset"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    spec = importlib.util.spec_from_file_location("stvae", PATH)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert run(script.app, "stvae.py", ["memory", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
