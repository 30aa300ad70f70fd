"""eval/queries.py: what it reports of many queries; no time is judged."""

import importlib.util
import json
from pathlib import Path

from lavin import cli_queries
from lavin.cli import run

PATH = Path(__file__).parents[2] / "eval" / "queries.py"


def test_report_names_every_part_and_puts_the_functions_back(model, tmp_path, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("eval_queries", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before, out = (cli_queries.read_media, cli_queries.write), tmp_path / "out.json"
    command = ["queries.py", "--model", str(model), "--queries", "12", "--pairs", "2", "--task", "edges"]
    monkeypatch.setattr("sys.argv", [*command, "--out", str(out)])
    assert run(module.app, "queries.py") == 0
    assert (cli_queries.read_media, cli_queries.write) == before
    found = json.loads(out.read_text())
    assert found["queries"] == 12 and found["pictures_per_s"] > 0
    assert set(found["parts"]) == {"read", "encode", "sample", "decode", "write"} and min(found["parts"].values()) > 0
    assert len(found["memory_mib"]) == 12
    monkeypatch.setattr("sys.argv", [*command, "--task", "pose"])
    assert run(module.app, "queries.py") == 2
    assert "a task of pictures without people" in capsys.readouterr().err
