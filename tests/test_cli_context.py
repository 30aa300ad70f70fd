"""`lavin context`, and `lavin infer` with a context file, a broken query among many, --resume and --speed."""

import io

import numpy as np
import pytest
from PIL import Image

from lavin import cli
from lavin.encoded import EncodedContext


@pytest.fixture
def infer(work, model):
    def infer(*options):
        return cli.main(["infer", "--model", str(model), "--steps", "4", *map(str, options)])

    return infer


@pytest.fixture
def road(work, model):
    assert cli.main(["context", "save", "pairs", "--out", "road.ctx", "--model", str(model), "--task", "depth"]) == 0
    return work / "road.ctx"


@pytest.fixture
def queries(work, picture):
    """Ten queries, two of them broken."""
    (work / "queries").mkdir()
    for number in range(8):
        picture(30 + number).save(f"queries/q{number}.png")
    (work / "queries" / "cut.png").write_bytes((work / "queries" / "q0.png").read_bytes()[:200])
    (work / "queries" / "text.jpg").write_text("no picture")
    return work / "queries"


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_a_context_file_predicts_what_its_folder_does(infer, road, capsys):
    assert infer("--context", "pairs", "--pairs", 3, "--query", "img.png", "--out", "folder.png") == 0
    assert infer("--context", road, "--query", "img.png", "--out", "file.png", "--grid", "grid.png") == 0
    assert np.abs(pixels("folder.png") - pixels("file.png")).max() <= 1
    assert Image.open("grid.png").width > 4 * 256


def test_show_says_what_a_file_holds(road, capsys):
    capsys.readouterr()
    assert cli.main(["context", "show", str(road), "--out", "road.png"]) == 0
    shown = capsys.readouterr().out
    assert "3, images" in shown and "depth" in shown and EncodedContext.load(road).models["jdit"] in shown
    assert Image.open("road.png").size[0] > 3 * 64


def test_broken_queries_do_not_stop_the_rest(infer, road, queries, capsys):
    capsys.readouterr()
    assert infer("--context", road, "--query", queries, "--out", "done") == 2
    captured = capsys.readouterr()
    assert sorted(path.name for path in (queries.parent / "done").iterdir()) == [f"q{n}.png" for n in range(8)]
    assert len(captured.out.split()) == 8
    assert captured.err.startswith("error: 2 of 10 queries failed: ") and captured.err.count("\n") == 1
    assert "cut.png" in captured.err and "text.jpg" in captured.err


def test_resume_leaves_finished_queries_alone(infer, road, queries, capsys):
    (queries / "cut.png").unlink(), (queries / "text.jpg").unlink()
    assert infer("--context", road, "--query", queries, "--out", "done", "--task", "depth") == 0
    done = queries.parent / "done"
    first = {path.name: path.read_bytes() for path in done.iterdir()}
    (done / "q3.png").unlink()
    (done / "q4.png").write_bytes(b"mine")
    capsys.readouterr()
    assert infer("--context", road, "--query", queries, "--out", "done", "--task", "depth") == 2  # neither asked for
    assert infer("--context", road, "--query", queries, "--out", "done", "--task", "depth", "--resume") == 0
    assert capsys.readouterr().out.splitlines()[0] == "done/q3.png"
    assert (done / "q4.png").read_bytes() == b"mine"
    assert np.abs(pixels(done / "q3.png") - pixels(io.BytesIO(first["q3.png"]))).max() <= 1  # in a batch of its own
    again = {path.name: path.read_bytes() for path in done.iterdir()}
    assert again.keys() == first.keys()
    assert all(again[name] == content for name, content in first.items() if name[:2] not in ("q3", "q4"))


@pytest.mark.parametrize("speed", ["exact", "default", "fast"])
def test_every_speed_predicts(infer, work, speed):
    assert infer("--context", "pairs", "--query", "img.png", "--speed", speed) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--context", "gone.ctx"], "gone.ctx: no such file"),
        (["--context", "img.ctx"], "img.ctx is damaged or no context file"),
        (["--context", "road.ctx", "--pairs", "2"], "leave out --pairs and --select"),
        (["--context", "road.ctx", "--model", "lavin-tiny"], "the context was encoded by stvae"),
        (["--context", "pairs", "--speed", "defalt"], "default"),
        (["--context", "pairs", "--resume", "--force"], "give one of the two"),
        (["--context", "pairs", "--query", "empty"], "query folder empty has no pictures"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(infer, road, capsys, options, message):
    (road.parent / "empty").mkdir()
    (road.parent / "img.ctx").write_bytes((road.parent / "img.png").read_bytes())
    capsys.readouterr()
    query = [] if "--query" in options else ["--query", "img.png"]
    assert infer(*options, *query) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and captured.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["save", "pairs", "--out", "road.png"], "ends in .ctx"),
        (["save", "pairs", "--out", "road.ctx"], "output exists: road.ctx"),
        (["save", "nothing", "--out", "new.ctx"], "nothing"),
        (["save", "pairs", "--out", "new.ctx", "--task", "dept"], "depth"),
        (["show", "img.png"], "img.png is damaged or no context file"),
    ],
)
def test_context_commands_refuse_mistakes(road, model, capsys, arguments, message):
    capsys.readouterr()
    more = ["--model", str(model)] if arguments[0] == "save" else []
    assert cli.main(["context", *arguments, *more]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and message in captured.err and captured.err.count("\n") == 1
