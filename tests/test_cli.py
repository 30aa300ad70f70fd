"""The command: one clear line for every mistake, files where they were asked for, the same seed the same pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

from lavin import LavinPipeline, cli
from tests.conftest import random_picture as picture


@pytest.fixture
def infer(work, model):
    def infer(*options):
        defaults = {"--context": "pairs", "--query": "img.png", "--model": str(model), "--steps": "4"}
        given = [part for key, value in defaults.items() if key not in options for part in (key, value)]
        return cli.main(["infer", *given, *map(str, options)])

    return infer


def error(capsys) -> str:
    """The one line that a mistake prints."""
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("error: "), captured
    return lines[0]


def pixels(path):
    return np.asarray(Image.open(path))


def test_prediction_has_the_querys_size_and_seed(infer, work, capsys):
    assert infer() == 0
    captured = capsys.readouterr()
    assert captured.out == "prediction.png\n"
    assert "it/s" not in captured.err  # no progress bar where stderr is no terminal
    assert pixels("prediction.png").shape == (24, 40, 3)
    assert infer("--out", "again.png") == infer("--out", "other.png", "--seed", 1) == 0
    np.testing.assert_array_equal(pixels("again.png"), pixels("prediction.png"))
    assert (pixels("other.png") != pixels("prediction.png")).any()


def test_more_pairs_than_trained_are_left_out_and_said(infer, work, capsys):
    assert infer("--out", "two.png") == 0
    assert "note: " in (note := capsys.readouterr().err) and "up to 2 pairs" in note
    assert infer("--out", "same.png", "--pairs", 2) == 0
    assert capsys.readouterr().err == ""
    assert infer("--out", "all.png", "--pairs", 3) == 0
    np.testing.assert_array_equal(pixels("two.png"), pixels("same.png"))
    assert (pixels("two.png") != pixels("all.png")).any()


@pytest.fixture
def pool(work):
    """Three pairs, of which each query has its own copy in the pool; the colour of every target names its pair."""
    for number, name in enumerate("abc"):
        Image.new("RGB", (40, 24), [(255, 0, 0), (0, 255, 0), (0, 0, 255)][number]).save(
            work / f"pairs/{name}_input.png"
        )
    (work / "queries").mkdir()
    for number, name in ((2, "blue"), (0, "red")):
        Image.new("RGB", (40, 24), [(250, 5, 5), (), (5, 5, 250)][number]).save(work / f"queries/{name}.png")
    return work


def test_every_query_is_shown_the_pairs_most_like_it(infer, pool, capsys):
    """As if each had been given a folder with that pair alone."""
    assert infer("--query", "queries", "--select", "similar", "--pairs", 1, "--out", "out", "--grid", "grid.png") == 0
    captured = capsys.readouterr()
    assert captured.out.split() == ["out/blue.png", "out/red.png", "grid.png"]
    assert captured.err.splitlines() == ["note: queries/blue.png: context c", "note: queries/red.png: context a"]
    assert pixels("grid.png").shape[0] == 2 * (2 * 154 + 24)  # two contexts, pictures of 256x154
    for query, pair in (("blue", "c"), ("red", "a")):
        (pool / query).mkdir()
        for half in ("input", "target"):
            (pool / f"pairs/{pair}_{half}.png").rename(pool / query / f"{pair}_{half}.png")
        assert infer("--context", query, "--query", f"queries/{query}.png", "--out", "alone.png", "--force") == 0
        np.testing.assert_array_equal(pixels("alone.png"), pixels(f"out/{query}.png"))


def test_a_selection_takes_as_many_pairs_as_the_model_was_trained_with(infer, pool, capsys):
    for strategy in ("random", "diverse", "similar"):
        assert infer("--select", strategy, "--out", f"{strategy}.png", "--query", "queries/blue.png") == 0
        (note,) = capsys.readouterr().err.splitlines()
        names = note.removeprefix("note: queries/blue.png: context ").split(", ")
        assert len(set(names)) == 2 and (strategy == "random" or names[0] == "c")
    assert infer("--select", "random", "--out", "again.png", "--query", "queries/blue.png") == 0
    np.testing.assert_array_equal(pixels("again.png"), pixels("random.png"))


def test_an_encoder_of_ones_own_chooses(infer, pool, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=16, **size)).save_pretrained("encoder")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("encoder")
    assert infer("--query", "queries", "--select", "similar", "--pairs", 1, "--encoder", "encoder") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note")]
    assert notes == ["note: queries/blue.png: context c", "note: queries/red.png: context a"]


def test_labels_and_grid_are_written(infer, work, capsys):
    assert infer("--task", "depth", "--grid", "grid.png", "--pairs", 1) == 0
    assert capsys.readouterr().out.split() == ["prediction.png", "prediction_depth.png", "grid.png"]
    assert pixels("prediction_depth.png").dtype == np.uint16
    assert infer("--task", "surface_normal_estimation", "--out", "n.png") == 0
    normals = np.load("n_normals.npy")
    assert normals.shape == (24, 40, 3) and normals.dtype == np.float32
    assert infer("--task", "colorization", "--out", "c.png") == 0
    assert not list(work.glob("c_*"))  # the label is the picture itself


def test_queries_of_a_folder_do_not_depend_on_each_other(infer, work, capsys):
    (work / "queries").mkdir()
    for number in range(3):
        picture(20 + number, 30 + number).save(work / f"queries/q{number}.png")
    picture(0).save(work / "queries/q0_target.png")  # a known answer is no query
    assert infer("--query", "queries", "--out", "out") == 0
    assert capsys.readouterr().out.split() == ["out/q0.png", "out/q1.png", "out/q2.png"]
    assert infer("--query", "queries/q2.png", "--out", "alone.png") == 0
    assert np.abs(pixels("out/q2.png").astype(int) - pixels("alone.png")).max() <= 1
    assert infer("--query", "queries/q0.png", "--query", "img.png") == 0
    assert sorted(path.name for path in (work / "predictions").iterdir()) == ["img.png", "q0.png"]


@pytest.mark.parametrize("kind", ["one_pixel", "deep", "palette", "rgba", "cmyk", "wide"])
def test_unusual_queries_work(infer, work, kind):
    image, suffix = {
        "one_pixel": (Image.new("RGB", (1, 1)), "png"),
        "deep": (Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100), "png"),
        "palette": (picture(1).quantize(8), "png"),
        "rgba": (picture(1).convert("RGBA"), "png"),
        "cmyk": (picture(1).convert("CMYK"), "jpg"),
        "wide": (Image.new("RGB", (20_000, 10)), "png"),
    }[kind]
    image.save(work / f"query.{suffix}")
    assert infer("--query", f"query.{suffix}") == 0
    assert Image.open("prediction.png").size == image.size


def test_output_that_exists_is_kept_unless_forced(infer, work, capsys):
    (work / "prediction.png").write_bytes(b"mine")
    assert infer() == 2
    assert error(capsys) == "error: output exists: prediction.png; give another --out or --force"
    assert (work / "prediction.png").read_bytes() == b"mine"
    assert infer("--force") == 0
    assert pixels("prediction.png").shape == (24, 40, 3)


def test_label_and_grid_that_exist_are_kept(infer, work, capsys):
    (work / "prediction_depth.png").touch()
    assert infer("--task", "depth_estimation") == 2
    assert "output exists: prediction_depth.png" in error(capsys)
    (work / "grid.png").touch()
    assert infer("--grid", "grid.png") == 2
    assert "output exists: grid.png; give another --grid" in error(capsys)
    assert not (work / "prediction.png").exists()


MISTAKES = {
    "missing context": (["--context", "gone"], "context folder gone does not exist"),
    "context is a file": (["--context", "img.png"], "context img.png is a file"),
    "no pairs": (["--context", "."], "has no <name>_input.*, <name>_target.* pairs"),
    "missing query": (["--query", "gone.png"], "gone.png: no such file"),
    "empty query folder": (["--query", "empty"], "query folder empty has no pictures and no clips"),
    "not an image": (["--query", "notes.png"], "notes.png: not an image"),
    "truncated image": (["--query", "cut.png"], "cut.png: damaged or truncated image"),
    "one name for two": (["--query", "img.png", "--query", "pairs/../img.png"], "would both be written to"),
    "file for several": (["--query", "img.png", "--query", "cut.png", "--out", "x.png"], "2 queries need a folder"),
    "no png": (["--out", "x.jpg"], "give a name that ends in .png"),
    "grid is the prediction": (["--grid", "prediction.png"], "is the prediction's own file"),
    "unknown task": (["--task", "dept"], "unknown task 'dept'; did you mean 'depth'?"),
    "unknown model": (["--model", "lavin-tony"], "unknown model 'lavin-tony'"),
    "unknown dtype": (["--dtype", "bfloat"], "unknown dtype 'bfloat'; did you mean 'bfloat16'?"),
    "half precision": (["--dtype", "float16"], "unknown dtype 'float16'"),
    "unknown device": (["--device", "cudo"], "--device cudo cannot be used here"),
    "too many pairs": (["--pairs", "9"], "--pairs 9: context folder pairs has 3 pairs"),
    "zero pairs": (["--pairs", "0"], "at least 1 pair, not 0"),
    "unknown strategy": (
        ["--select", "similiar"],
        "--select: unknown selection strategy 'similiar'; did you mean",
    ),
    "unused encoder": (["--select", "random", "--encoder", "x"], "--encoder x is of no use to --select random"),
    "too few in the pool": (["--select", "similar", "--pairs", "4"], "context folder pairs has 3 pairs; give 1 to 3"),
    "missing encoder": (["--select", "similar", "--encoder", "./gone"], "encoder './gone' cannot be loaded"),
    "odd steps": (["--steps", "7"], "even number of points from 4, not 7"),
    "negative guidance": (["--guidance", "-1"], "guidance_scale is -1.0"),
    "no number": (["--steps", "many"], "--steps"),
    "unknown option": (["--stpes", "4"], "--stpes"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line_and_exit_2(infer, work, capsys, options, message):
    (work / "empty").mkdir()
    (work / "notes.png").write_text("not a picture")
    (work / "cut.png").write_bytes((work / "img.png").read_bytes()[:1000])
    assert infer(*options) == 2
    assert message in error(capsys)
    assert not (work / "prediction.png").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("d_input.png", "d_input.png has no d_target.*"),
        ("a_input.jpg", "pair 'a' has both a_input.jpg and a_input.png"),
    ],
)
def test_unpaired_and_duplicate_names_are_named(infer, work, capsys, extra, message):
    picture(0).save(work / "pairs" / extra)
    assert infer() == 2
    assert message in error(capsys)


def test_mistakes_are_found_before_the_model_is_loaded(infer, work, monkeypatch):
    monkeypatch.setattr(LavinPipeline, "from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (work / "prediction.png").touch()
    for options in ([], ["--out", "x.png", "--task", "dept"], ["--out", "x.png", "--context", "gone"]):
        assert infer(*options) == 2


def test_ctrl_c_is_exit_130(infer, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LavinPipeline, "from_pretrained", interrupt)
    assert infer() == 130
    assert "Traceback" not in capsys.readouterr().err


def test_version_help_and_no_command(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lavin ")
    assert cli.main(["infer", "--help"]) == 0
    assert "--guidance" in capsys.readouterr().out
    assert cli.main(["infr"]) == 2
    assert "infer" in error(capsys)


def test_tasks_are_listed(capsys):
    from lavin.tasks import REGISTRY

    assert cli.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(REGISTRY)
    assert all(len(line) > 25 for line in lines)


def test_examples_are_contexts(infer, work, capsys):
    """What ``lavin examples`` writes is what ``lavin infer`` reads."""
    assert cli.main(["examples", "examples", "--task", "depth", "--task", "foreground", "--size", "32"]) == 0
    assert capsys.readouterr().out.split() == ["examples/depth", "examples/foreground"]
    names = sorted(path.name for path in (work / "examples/depth").iterdir())
    assert names[:2] == ["query.png", "query_target.png"] and len(names) == 2 + 2 * 4
    assert infer("--context", "examples/depth", "--query", "examples/depth/query.png") == 0
    assert cli.main(["examples", "examples", "--task", "depth"]) == 2
    assert "output exists: examples/depth/query.png" in capsys.readouterr().err
    before = pixels("examples/depth/scene01_target.png")
    assert cli.main(["examples", "examples", "--task", "depth", "--size", "32", "--force"]) == 0
    np.testing.assert_array_equal(pixels("examples/depth/scene01_target.png"), before)


def test_an_inpainting_can_keep_what_the_query_shows(infer, work, capsys):
    """Outside the hole the query to the level, inside it the prediction."""
    photo = np.random.default_rng(0).integers(60, 256, (24, 40, 3), np.uint8)
    photo[4:16, 10:22] = 0
    Image.fromarray(photo).save("hole.png")
    assert infer("--query", "hole.png", "--task", "inpainting", "--out", "raw.png") == 0
    assert infer("--query", "hole.png", "--task", "inpainting", "--out", "kept.png", "--composite") == 0
    raw, kept = pixels("raw.png"), pixels("kept.png")
    np.testing.assert_array_equal(kept[4:16, 10:22], raw[4:16, 10:22])
    photo[4:16, 10:22] = raw[4:16, 10:22]
    np.testing.assert_array_equal(kept, photo)
    assert (raw[:4] != kept[:4]).any()
    capsys.readouterr()
    assert infer("--composite", "--out", "x.png") == 2
    assert "--composite pastes back what inpainting was shown; give --task inpainting with it" in error(capsys)
