"""``lavin data check`` counts what is there, missing and broken, and shows it."""

import numpy as np
import pytest
from PIL import Image

from lavin import cli
from lavin.data.public import DATASETS
from tests.data import test_nyuv2, test_refcoco, test_voc
from tests.data.test_public import write
from tests.test_photos import plane_depth, unit, write_rgbd


def check(*arguments):
    return cli.main(["data", "check", *map(str, arguments)])


def facts(text):
    """Title -> what is said of it."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


@pytest.mark.parametrize("name", DATASETS)
def test_every_miniature_is_found_whole_and_shown(tmp_path, capsys, name):
    root = write(name, tmp_path / "root")
    assert check(name, root, "--out", tmp_path / "sheet.png") == 0
    captured = capsys.readouterr()
    said = facts(captured.out)
    assert captured.err == "" and said["missing files"] == said["cannot be read"] == "0"
    assert captured.out.splitlines()[-1] == str(tmp_path / "sheet.png")
    rows = 1 + sum(title in said for title in ("depth m", "normals' length", "semantic", "boundaries", "objects"))
    picture = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert picture.shape[0] > rows * 90 and picture.min() < 128


def test_numbers_are_those_of_the_data(tmp_path, capsys):
    depth = plane_depth(unit(0.3, 0.2, 0.9))
    depth[:36] = 0  # half of it
    assert check("rgbd", write_rgbd(tmp_path / "rgbd", [depth] * 20)) == 0
    said = facts(capsys.readouterr().out)
    assert said["samples"] == said["looked at"] == "3" and said["sizes"] == "96x72 3"
    low, high, mean, unknown = (float(word.rstrip("%,")) for word in np.array(said["depth m"].split())[[0, 2, 4, 5]])
    known = depth[36:]
    assert (low, high, mean) == pytest.approx((known.min(), known.max(), known.mean()), rel=2e-3) and unknown == 50
    normal = [float(word) for word in said["mean normal"].split() if word[-1].isdigit()]
    assert normal == pytest.approx(unit(0.3, 0.2, 0.9), abs=0.03)


def test_options_choose_what_is_opened_and_published_counts_are_named(tmp_path, capsys):
    root = test_voc.write_voc(tmp_path / "voc")
    assert check("pascal5i", root, "--option", "fold=2") == 0
    said = facts(capsys.readouterr().out)
    assert said["samples"] == "1; published are 725" and said["objects"] == "1 (person 1)"
    assert check("voc2012", root, "--option", "labels=segments", "--samples", "1") == 0
    said = facts(capsys.readouterr().out)
    assert said["looked at"] == "1" and said["classes"].startswith("background 9")
    assert check("refcoco", test_refcoco.write(tmp_path / "ref"), "--split", "testA") == 0
    assert facts(capsys.readouterr().out)["expressions"] == "1, 4.0 words each"


def test_missing_and_broken_files_are_named_and_end_with_2(tmp_path, capsys):
    root = test_nyuv2.write_official(tmp_path / "nyu")
    folder = root / "official_splits" / "test" / "study_0009"
    (folder / "sync_depth_00001.png").unlink()
    (folder / "rgb_00003.png").write_bytes(b"no picture")
    assert check("nyuv2", root, "--out", tmp_path / "sheet.png") == 2
    captured = capsys.readouterr()
    assert "missing files: 1\n" in captured.out and "cannot be read: 2\n" in captured.out
    assert captured.out.count("sync_depth_00001.png") == 2 and "rgb_00003.png: not an image" in captured.out
    (line,) = captured.err.splitlines()
    assert line.endswith("1 files of nyuv2 are missing, 2 of 3 samples cannot be read")
    assert (tmp_path / "sheet.png").is_file()  # of the one that can be read


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nyu", "."), "unknown data set 'nyu'; did you mean 'nyuv2'?"),
        (("camvid", "nowhere"), "nowhere: does not exist; camvid needs {train,val,test}/"),
        (("pascal5i", ".", "--option", "fold"), "--option fold: key=value is needed"),
        (("pascal5i", ".", "--option", "complete=true"), "--option complete=true: key=value is needed"),
        (("pascal5i", ".", "--option", "fold=four"), "option fold of pascal5i is 'four'; it must be of type int"),
        (("pascal5i", ".", "--option", "fold=4"), "fold is 4; it must be 0, 1, 2 or 3"),
        (("pascal5i", ".", "--option", "flod=1"), "unknown option of pascal5i 'flod'; did you mean 'fold'?"),
        (("camvid", ".", "--split", "valid"), "unknown split of camvid 'valid'; did you mean 'validation'?"),
        (("camvid", ".", "--out", "sheet.jpg"), "pictures are written as PNG"),
        (("camvid", ".", "--out", "there.png"), "output exists: there.png"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").write_bytes(b"")
    assert check(*arguments) == 2
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert captured.out == "" and line.startswith("error: ") and message in line
