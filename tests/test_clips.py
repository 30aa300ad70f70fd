"""Clips: mp4 come back as they were written, broken ones are named, `lavin infer` takes them as it takes pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from lavin import cli, load_pairs
from lavin.clips import Clip, read_clip, write_clip
from lavin.errors import InputError
from lavin.tasks import codes

pytest.importorskip("av")


def frames(seed, count, width=20, height=16):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def write(path, seed, count, fps=12.0, **size):
    clip = Clip(frames(seed, count, **size), fps)
    return write_clip(path, clip.pictures(), fps)


@pytest.fixture
def infer(tmp_path, monkeypatch, model):
    """A folder of two pairs of clips and one that is called with it."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("ab"):
        write(tmp_path / f"pairs/{name}_input.mp4", number, 5)
        write(tmp_path / f"pairs/{name}_target.mp4", 10 + number, 5)
    write(tmp_path / "query.mp4", 20, 5, 30000 / 1001)

    def infer(*options):
        defaults = {"--context": "pairs", "--query": "query.mp4", "--model": str(model), "--steps": "4"}
        given = [part for key, value in defaults.items() if key not in options for part in (key, value)]
        return cli.main(["infer", *given, *map(str, options)])

    return infer


def error(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and len(lines) == 1 and lines[0].startswith("error: "), captured
    return lines[0]


# --- Files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "width", "height", "fps"), [(1, 16, 16, 8), (7, 41, 25, 30000 / 1001)])
def test_clips_come_back_to_the_level_and_with_their_rate(tmp_path, count, width, height, fps):
    write(tmp_path / "a.mp4", 0, count, fps, width=width, height=height)
    clip = read_clip(tmp_path / "a.mp4")
    np.testing.assert_array_equal(clip.frames, frames(0, count, width, height))
    assert clip.fps == pytest.approx(fps, abs=1e-9) and clip.size == (width, height)


def test_a_clip_filmed_sideways_is_read_upright(tmp_path):
    """The matrix of a telephone that was held upright: show the frames turned clockwise by 90 degrees."""
    content = bytearray(write(tmp_path / "a.mp4", 0, 3, width=20, height=12).read_bytes())
    place = content.index(b"tkhd") + 4 + 40  # version and flags, times, id, duration, layer, group, volume
    one = 1 << 16
    matrix = (0, one, 0, -one, 0, 0, 12 * one, 0, 1 << 30)
    content[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    (tmp_path / "a.mp4").write_bytes(content)
    turned = np.rot90(frames(0, 3, 20, 12), -1, axes=(1, 2))
    np.testing.assert_array_equal(read_clip(tmp_path / "a.mp4").frames, turned)


def test_broken_clips_are_named(tmp_path, monkeypatch):
    whole = write(tmp_path / "a.mp4", 0, 9).read_bytes()
    for size in (0, 100, len(whole) // 2):
        (tmp_path / "cut.mp4").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.mp4: damaged, cut short or no mp4"):
            read_clip(tmp_path / "cut.mp4")
    (tmp_path / "notes.mp4").write_text("what I did on Monday")
    with pytest.raises(InputError, match=r"notes\.mp4: damaged, cut short or no mp4"):
        read_clip(tmp_path / "notes.mp4")
    with pytest.raises(InputError, match=r"gone\.mp4: no such file"):
        read_clip(tmp_path / "gone.mp4")
    with pytest.raises(InputError, match="is a folder"):
        read_clip(tmp_path)
    monkeypatch.setattr("lavin.clips.MAX_PIXELS", 4 * 20 * 16)
    with pytest.raises(InputError, match=r"a\.mp4: more than 4 frames of 20x16 are too large"):
        read_clip(tmp_path / "a.mp4")


def test_a_file_cut_short_behind_its_index_is_not_taken_for_a_short_clip(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264rgb", rate=12, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 20, 16, "rgb24"
        for frame in frames(0, 30):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert len(read_clip(tmp_path / "a.mp4").frames) == 30
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "a.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match=r"a\.mp4: damaged or cut short after \d+ frames"):
        read_clip(tmp_path / "a.mp4")


# --- Contexts ---------------------------------------------------------------------------------------------------------


def test_pairs_of_clips_are_read_and_mixtures_refused(infer, tmp_path, capsys):
    pairs = load_pairs("pairs")
    assert pairs.names == ["a", "b"]
    np.testing.assert_array_equal(pairs[1][0].frames, frames(1, 5))
    Image.new("RGB", (20, 16)).save("pairs/c_input.png")
    Image.new("RGB", (20, 16)).save("pairs/c_target.png")
    assert infer() == 2
    assert error(capsys) == (
        "error: context folder pairs mixes pictures (c_input.png) and clips (a_input.mp4); give pairs of one kind"
    )


def test_pairs_of_other_sizes_or_lengths_are_refused(infer, tmp_path, capsys):
    (tmp_path / "pairs/b_target.mp4").unlink()
    write(tmp_path / "pairs/b_target.mp4", 0, 5, width=24)
    assert infer() == 2
    assert "context pair 'b': b_input.mp4 is 20x16 but b_target.mp4 is 24x16" in error(capsys)
    write(tmp_path / "again.mp4", 0, 9).replace("pairs/b_target.mp4")
    assert infer() == 2
    assert "pair 'b': input and target have 5 and 9 frames, those of pair 'a' 5 and 5" in error(capsys)


# --- lavin infer ------------------------------------------------------------------------------------------------------


def test_a_clips_prediction_has_its_size_frames_and_rate(infer, tmp_path, capsys):
    assert infer("--task", "video_depth", "--grid", "grid.png") == 0
    assert capsys.readouterr().out.split() == ["prediction.mp4", "prediction_video_depth.npy", "grid.png"]
    clip = read_clip("prediction.mp4")
    assert clip.frames.shape == (5, 16, 20, 3) and clip.fps == pytest.approx(30000 / 1001)
    depth = np.load("prediction_video_depth.npy")
    assert depth.shape == (5, 16, 20) and depth.dtype == np.float32
    # The label is that of the picture before it was resized and written: alike, not equal.
    grey = codes.levels_from_clip(_tensor(clip)).mean(0).numpy() / 255
    assert np.abs(depth - grey).mean() < 0.1
    assert Image.open("grid.png").height > 2 * 3 * 200  # three frames of a clip below each other


def _tensor(clip):
    import torch

    return torch.from_numpy(clip.frames.copy()).permute(3, 0, 1, 2).float() / 127.5 - 1


def test_seven_frames_are_padded_to_nine_and_cut_again(infer, tmp_path, capsys):
    """As if the last frame had been given twice more."""
    seven = Clip(frames(20, 7), 12)
    write_clip("seven.mp4", seven.pictures(), 12)
    write_clip("nine.mp4", [*seven.pictures(), *[seven.pictures()[-1]] * 2], 12)
    assert infer("--query", "seven.mp4", "--out", "x.mp4") == infer("--query", "nine.mp4", "--out", "y.mp4") == 0
    assert capsys.readouterr().err.splitlines() == [
        "note: seven.mp4: 7 frames are not 1 + 4k; the last one is repeated up to 9, and the prediction cut"
    ]
    np.testing.assert_array_equal(read_clip("x.mp4").frames, read_clip("y.mp4").frames[:7])


def test_targets_longer_than_inputs_are_predicted_so_long(infer, tmp_path, capsys):
    for name in "ab":
        write(tmp_path / "longer.mp4", 5, 9).replace(f"pairs/{name}_target.mp4")
    assert infer("--task", "frame_prediction") == 0
    assert len(read_clip("prediction.mp4").frames) == 9
    capsys.readouterr()
    write(tmp_path / "long.mp4", 6, 9)
    assert infer("--query", "long.mp4", "--out", "other.mp4") == 2
    assert "long.mp4 has 9 frames, but the pairs show 9 for 5; give a clip of 5 frames" in error(capsys)


def test_queries_of_a_folder_are_solved_each_as_on_its_own(infer, tmp_path, capsys):
    for name, count in (("x", 5), ("y", 9)):
        write(tmp_path / f"queries/{name}.mp4", count, count)
    write(tmp_path / "queries/x_target.mp4", 0, 5)
    assert infer("--query", "queries", "--out", "out", "--select", "similar", "--pairs", 1) == 0
    assert capsys.readouterr().out.split() == ["out/x.mp4", "out/y.mp4"]
    assert [len(read_clip(f"out/{name}.mp4").frames) for name in "xy"] == [5, 9]
    assert infer("--query", "queries/y.mp4", "--out", "alone.mp4", "--select", "similar", "--pairs", 1) == 0
    np.testing.assert_array_equal(read_clip("alone.mp4").frames, read_clip("out/y.mp4").frames)


def test_an_encoded_context_of_clips_serves_clips_alone(infer, tmp_path, model, capsys):
    assert cli.main(["context", "save", "pairs", "--out", "pairs.ctx", "--model", str(model)]) == 0
    assert infer("--context", "pairs.ctx") == infer("--out", "again.mp4") == 0
    np.testing.assert_array_equal(read_clip("prediction.mp4").frames, read_clip("again.mp4").frames)
    Image.new("RGB", (20, 16)).save("img.png")
    capsys.readouterr()
    assert infer("--context", "pairs.ctx", "--query", "img.png") == 2
    assert "query img.png is a picture, but the context's pairs are clips" in error(capsys)


def test_a_model_that_saw_pictures_only_says_so(infer, tmp_path, model, capsys, monkeypatch):
    import shutil

    shutil.copytree(model, tmp_path / "still")
    (tmp_path / "still/training.json").write_text(json.dumps({"config": {"scenes": {"frames": 1}}}))
    assert infer("--model", "still") == 0
    assert capsys.readouterr().err == (
        "note: still was trained on pictures only: it takes clips, but knows nothing of motion\n"
    )


def test_mistakes_are_one_line_and_exit_2(infer, tmp_path, capsys):
    whole = (tmp_path / "query.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    Image.new("RGB", (20, 16)).save("img.png")
    for options, message in {
        ("--query", "cut.mp4"): "cut.mp4: damaged, cut short or no mp4",
        ("--out", "x.png"): "output x.png: clips are written as MP4; give a name that ends in .mp4",
        ("--query", "img.png"): "query img.png is a picture, but the context's pairs are clips; give an mp4",
        ("--task", "pose"): "--task pose reads pictures, but query query.mp4 is a clip",
        ("--query", "img.png", "--task", "video_depth"): "query img.png is a picture",
    }.items():
        assert infer(*options) == 2
        assert message in error(capsys)
    assert not list(tmp_path.glob("prediction*"))
