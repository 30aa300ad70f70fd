"""eval/sampling.py: the calls that a setting makes, its error to the reference, and the report."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from lavin import STVAE, JDiT, LavinPipeline, flow

PATH = Path(__file__).parents[2] / "eval" / "sampling.py"


@pytest.fixture(scope="module")
def sampling():
    spec = importlib.util.spec_from_file_location("eval_sampling", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({"points": 20}, 38),
        ({"points": 20, "guidance": 1.0}, 19),
        ({"points": 6, "method": "midpoint"}, 20),
        ({"points": 5, "grid": "uniform", "until": 0.5}, 7),
    ],
)
def test_calls_are_counted_and_paths_are_those_of_the_solver(sampling, options, calls):
    noise = torch.randn(2, 4, 1, 2, 2, dtype=torch.float64)
    setting = sampling.Setting(**options)

    def decay(x, t):
        return -x

    latents, counted = sampling.solve(decay, lambda x, t: -2 * x, noise, setting)
    assert counted == calls
    if setting.guidance == 1:
        grid = flow.time_grid(setting.grid, setting.points).to(noise)
        factor = torch.stack([1 - (b - a) for a, b in zip(grid[:-1], grid[1:], strict=True)]).prod()
        torch.testing.assert_close(latents, noise * factor, atol=1e-6, rtol=1e-6)


def test_guidance_stops_at_its_time(sampling):
    noise = torch.ones(1, 1, 1, 1, 1, dtype=torch.float64)
    setting = sampling.Setting(5, "uniform", guidance=3.0, until=0.4)
    latents, _ = sampling.solve(lambda x, t: torch.ones_like(x), lambda x, t: torch.zeros_like(x), noise, setting)
    assert latents.item() == pytest.approx(1 + 0.25 * (3 + 3 + 1 + 1))  # times 0, 1/4 | 1/2, 3/4


def test_report_has_every_setting_and_task(sampling, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    stvae = STVAE(latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    jdit = JDiT(latent_channels=4, hidden_size=32, num_layers=1, num_heads=2, attention="causal")
    torch.nn.init.normal_(jdit.out.weight, std=0.1)
    LavinPipeline(stvae, jdit, sample_size=32).save_pretrained(tmp_path / "small")
    settings = (sampling.Setting(sampling.REFERENCE_POINTS), sampling.Setting(4), sampling.Setting(8))
    monkeypatch.setitem(sampling.STUDIES, "grids", settings)
    options = ["--model", str(tmp_path / "small"), "--tasks", "depth,edges", "--queries", "2", "--pairs", "1"]
    assert sampling.app(args=[*options, "--out", str(tmp_path / "out.json")], standalone_mode=False) in (None, 0)
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [result["points"] for result in results] == [sampling.REFERENCE_POINTS, 4, 8]
    assert all(set(result["metrics"]) == {"depth", "edges"} for result in results)
    errors = [result["error"] for result in results]
    assert errors[1] > errors[2] > errors[0] == 0
    assert "depth AbsRel" in capsys.readouterr().out.replace("\n", " ")
