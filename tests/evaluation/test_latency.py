"""eval/latency.py: every mode computes a picture, and what it reports of it; no time is judged."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from lavin.cli import run
from lavin.evaluation import autoregressive, latency
from lavin.evaluation.latency import Clock, growth, measure, prepare
from lavin.speed import SPEEDS
from tests.evaluation.small import make_pipeline

PATH = Path(__file__).parents[2] / "eval" / "latency.py"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("eval_latency", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["full", "causal"])
def pipe(request):
    return make_pipeline(request.param, num_layers=2)


def test_what_is_at_hand_changes_no_picture(pipe):
    pictures = {mode: prepare(pipe, mode, 2, 6, 1.5)(Clock(CPU)) for mode in ("exact", "latents", "default", "saved")}
    assert pictures["exact"].shape == (3, 1, 32, 32)
    torch.testing.assert_close(pictures["latents"], pictures["exact"], atol=1e-5, rtol=0)
    torch.testing.assert_close(pictures["saved"], pictures["default"], atol=1e-5, rtol=0)
    assert (pictures["default"] - pictures["exact"]).abs().max() > 1e-4  # guidance ends earlier


def test_a_row_counts_the_modes_own_steps_and_its_operations(pipe):
    rows = {mode: measure(pipe, "small", mode, 2, None, 1.5, 1, 2, rate=1e9) for mode in ("exact", "default", "saved")}
    for mode, row in rows.items():
        assert row["steps"] == SPEEDS["default" if mode == "saved" else mode].num_inference_steps
        low, high = row["quartiles"]
        assert 0 < low <= row["seconds"] <= high
        assert row["matmul_share"] == pytest.approx(row["flops"] / row["seconds"] / 1e9)
    assert rows["exact"]["flops"] > 2 * rows["default"]["flops"] > 2 * rows["saved"]["flops"]
    fewer = measure(pipe, "small", "exact", 2, 4, 1.0, 1, 1, rate=1e9)
    assert fewer["steps"] == 4 and fewer["flops"] < rows["default"]["flops"]


def test_growth_is_the_exponent_of_a_power_law():
    keys = {"preset": "x", "resolution": 32, "guidance": 1.5}
    rows = [keys | {"mode": "a", "pairs": pairs, "seconds": 0.3 * pairs**1.7} for pairs in (1, 2, 8)]
    rows += [keys | {"mode": "a", "pairs": 0, "seconds": 5.0}, keys | {"mode": "b", "pairs": 1, "seconds": 1.0}]
    (found,) = growth(rows)
    assert found["mode"] == "a" and found["exponent"] == pytest.approx(1.7)


def test_the_autoregressive_model_is_as_large_and_its_cache_changes_nothing():
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = autoregressive.build(12_000_000, 256, 4, 64, CPU, torch.float32)
    size = sum(parameter.numel() for parameter in model.transformer.parameters())
    assert size == pytest.approx(12_000_000, rel=0.05) and model.tokens == 16
    with torch.no_grad():
        torch.manual_seed(1)
        cache, token = model.prefill(3)
        tokens = model.generate(cache, token)
        torch.manual_seed(1)
        sequence = torch.randint(autoregressive.CODEBOOK, (1, 48))  # the same prompt
        for _ in range(16):
            sequence = torch.cat([sequence, model.transformer(sequence).logits[:, -1:].argmax(-1)], dim=1)
        assert torch.equal(tokens, sequence[:, 48:])
        assert model.decode(tokens).shape == (1, 3, 64, 64)


def test_options_may_lie_in_a_file(script, tmp_path, monkeypatch, capsys):
    config, out = tmp_path / "options.yaml", tmp_path / "out.json"
    config.write_text("models: lavin-tiny\npairs: '0,1'\nmodes: fast\nsteps: 4\nrepeats: 2\n")
    seen = []

    def row(pipeline, name, mode, pairs, steps, guidance, warmups, repeats, rate):
        seen.append((name, mode, pairs, steps, guidance, repeats))
        return latency.measure(pipeline, name, mode, pairs, steps, guidance, 1, repeats, rate)

    monkeypatch.setattr(script, "measure", row)
    monkeypatch.setattr(script.cost, "matmul_rate", lambda *_: 1e9)
    monkeypatch.setattr("sys.argv", ["latency.py", str(config), "--repeats", "1", "--out", str(out)])
    assert run(script.app, "latency.py") == 0
    assert seen == [("lavin-tiny", "fast", pairs, 4, 1.5, 1) for pairs in (0, 1)]  # the command line wins
    content = json.loads(out.read_text())
    assert [row["pairs"] for row in content["results"]] == [0, 1]
    assert content["bytes_a_saved_pair"]["lavin-tiny at 128"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["CONFIG"], "unknown option 'modez'; did you mean 'modes'"),
        (["missing.yaml"], "config missing.yaml: cannot be read"),
        (["--modes", "fastest"], "unknown mode 'fastest'; did you mean 'fast'"),
        (["--pairs", "1;2"], "--pairs 1;2: numbers with commas"),
        (["--models", "0.2b"], "unknown model '0.2b'; did you mean '0.1b'"),
        (["--steps", "5", "--pairs", "0"], "even number of points"),
    ],
)
def test_wrong_options(script, tmp_path, monkeypatch, capsys, options, message):
    (tmp_path / "bad.yaml").write_text("modez: fast\n")
    options = [str(tmp_path / "bad.yaml") if option == "CONFIG" else option for option in options]
    monkeypatch.setattr("sys.argv", ["latency.py", *options])
    assert run(script.app, "latency.py") == 2
    assert message in capsys.readouterr().err
