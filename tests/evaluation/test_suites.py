"""What suites share: reports with their protocol, going on after a cut, two processes, other people's networks."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics

from lavin.errors import InputError
from lavin.evaluation import foreign, suites
from lavin.evaluation.predictors import Each, constant
from lavin.evaluation.runner import Runner
from lavin.evaluation.scenes import Settings, make_pool, run_row, task_rows
from tests.evaluation import miniature

ROOT = Path(__file__).parents[2]
SCENES = [
    *("--suite", "scenes", "--tasks", "foreground,depth", "--queries", "5", "--pairs", "2"),
    *("--steps", "4", "--pool", "24", "--batch", "2"),
]
SMALL = ["--resolution", "32", "--pairs", "2", "--steps", "4", "--batch", "2", "queries.names=null", "first={}"]
ONCE = ["--seed", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return miniature.write_all(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "eval/benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_a_benchmark_by_its_file(command, model, data, tmp_path, capsys):
    """Everything that the numbers depend on is in the report; scores of samples lie beside it."""
    config = str(ROOT / "configs/eval/imagenet_colorization.yaml")
    out = tmp_path / "report.json"
    arguments = [config, *SMALL, *ONCE, "--data", str(data), "--model", str(model), "--out", str(out), "metrics=[PSNR]"]
    assert command(arguments) == 0
    found = json.loads(out.read_text())
    (result,), protocol = found["results"], found["protocol"]
    (described,) = protocol["benchmarks"].values()
    assert (result["task"], result["metric"]) == ("imagenet_colorization", "PSNR")
    assert (result["queries"], result["pairs"], described["queries"]["scored"]) == (2, 2, 2)
    assert set(result["baselines"]) == {"copy_nearest", "mean_target", "grey_copy"}
    assert (described["resolution"], described["crop"], described["scored"]) == (32, "centre", "whole")
    assert described["queries"]["samples"] == 2 and len(described["queries"]["list_sha256"]) == 16
    assert {"version", "code", "model", "seen", "precision", "device"} <= set(protocol)
    assert protocol["libraries"]["torchmetrics"] == torchmetrics.__version__
    lines = (tmp_path / "report.samples.csv").read_text().splitlines()
    assert lines[0] == "task,metric,seed,index,query,pairs,model,copy_nearest,mean_target,grey_copy,code,tokenizer"
    values = [float(line.split(",")[6]) for line in lines[1:]]
    assert sum(values) / 2 == pytest.approx(result["value"], abs=1e-4)
    assert not (tmp_path / "report.json.partial").exists()
    capsys.readouterr()
    assert command(arguments) == 0  # nothing left to do
    assert "was there already" in capsys.readouterr().out


def test_a_run_that_was_cut_short_goes_on_to_the_same_bytes(command, model, tmp_path, monkeypatch, capsys):
    arguments = [*SCENES, "--seed", "0,3", "--model", str(model)]
    assert command([*arguments, "--out", str(tmp_path / "whole.json")]) == 0
    put, asked = suites.Shelf.put, []

    def cut(self, row, seed, start, answers):
        if len(asked) == 7:
            raise KeyboardInterrupt
        asked.append((row, seed, start))
        put(self, row, seed, start, answers)

    out = tmp_path / "cut.json"
    with monkeypatch.context() as patch:
        patch.setattr(suites.Shelf, "put", cut)
        assert command([*arguments, "--out", str(out)]) == 130
    assert not out.exists() and asked[-1] == ("depth", 0, 0)
    assert command([*arguments, "--steps", "6", "--out", str(out)]) == 2
    assert "steps 4, and this one has 6" in capsys.readouterr().err

    def note(self, row, seed, start, answers):
        asked.append((row, seed, start))
        put(self, row, seed, start, answers)

    monkeypatch.setattr(suites.Shelf, "put", note)
    assert command([*arguments, "--out", str(out)]) == 0
    left = [("depth", 0, 2), ("depth", 0, 4), ("depth", 3, 0), ("depth", 3, 2), ("depth", 3, 4)]
    assert asked[7:] == left  # nothing is answered twice
    for name in (".json", ".samples.csv"):
        assert out.with_suffix(name).read_bytes() == (tmp_path / "whole").with_suffix(name).read_bytes()


def test_several_seeds_give_the_mean_and_deviation_of_runs_with_one(command, model, tmp_path, capsys):
    """By hand, from three reports: mean and sample standard deviation of everybody; samples are those of the three."""
    import csv
    import statistics

    def run(seed):
        out = tmp_path / f"{seed}.json"
        assert command([*SCENES, "--seed", seed, "--model", str(model), "--out", str(out)]) == 0
        with out.with_suffix(".samples.csv").open() as lines:
            return json.loads(out.read_text()), list(csv.DictReader(lines))

    alone = [run(seed) for seed in ("0", "5", "7")]
    capsys.readouterr()
    report, samples = run("0,5,7")
    printed = capsys.readouterr().out
    assert report["protocol"]["seeds"] == {"scenes": 0, "episodes and noise": [0, 5, 7]}
    assert alone[1][0]["protocol"]["seeds"]["episodes and noise"] == [5]
    for number, result in enumerate(report["results"]):
        runs = [one["results"][number] for one, _ in alone]
        assert all("std" not in one and "by_seed" not in one for one in runs)
        everybody = [{"model": one["value"], **one["baselines"], **one["ceilings"]} for one in runs]
        assert result["by_seed"] == [{"seed": seed, **values} for seed, values in zip((0, 5, 7), everybody)]
        assert set(result["std"]) == {"model", "copy_nearest", "mean_target", "code", "tokenizer"}
        for name, std in result["std"].items():
            values = [one[name] for one in everybody]
            found = {"model": result["value"], **result["baselines"], **result["ceilings"]}[name]
            assert found == pytest.approx(statistics.mean(values), abs=2e-6)
            assert std == pytest.approx(statistics.stdev(values), abs=2e-6)
        assert result["std"]["model"] > 0 and result["queries"] == 5
        best = min if not result["higher_is_better"] else max
        error = [result["value"], best(result["baselines"].values())]
        if result["higher_is_better"]:
            error = [1 - value for value in error]
        assert result["error_reduction"] == pytest.approx(1 - error[0] / error[1], abs=1e-4)
        assert f"{result['value']:.3g} ± {result['std']['model']:.2g}" in printed
    assert "mean ± standard deviation over seeds 0, 5, 7" in printed
    assert {(sample["task"], sample["seed"]) for sample in samples} == {
        (task, seed) for task in ("foreground", "depth") for seed in "057"
    }
    for task in ("foreground", "depth"):
        singles = [sample for _, lines in alone for sample in lines if sample["task"] == task]
        assert [sample for sample in samples if sample["task"] == task] == singles
    out = tmp_path / "0,5,7.json"
    before = out.read_bytes(), out.with_suffix(".samples.csv").read_bytes()
    assert command([*SCENES, "--seed", "0,5,7", "--model", str(model), "--out", str(out), "--force"]) == 0
    assert (out.read_bytes(), out.with_suffix(".samples.csv").read_bytes()) == before
    assert command([*SCENES, "--seed", "0,5,7", "--model", str(model), "--out", str(out)]) == 0  # read from the report
    shown = capsys.readouterr().out
    assert "was there already" in shown and "± " in shown


@pytest.mark.slow
def test_two_processes_write_what_one_does(command, model, tmp_path):
    arguments = [*SCENES, "--tasks", "foreground", "--queries", "3", "--seed", "0,1"]
    arguments += ["--model", str(model), "--device", "cpu"]
    assert command([*arguments, "--out", str(tmp_path / "one.json")]) == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "eval/benchmark.py"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launcher, *arguments, "--out", str(tmp_path / "two.json")],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name in (".json", ".samples.csv"):
        assert (tmp_path / "two").with_suffix(name).read_bytes() == (tmp_path / "one").with_suffix(name).read_bytes()


def test_other_results_are_kept(command, model, tmp_path, capsys):
    out = tmp_path / "report.json"
    for content, message in (
        ('{"protocol": {"suite": "scenes"}, "results": []}', "protocol version 1, and this is version 3"),
        ('{"protocol": {"version": 3, "suite": "real"}, "results": []}', 'suite "real", and this one has "scenes"'),
        ("mine", "--force"),
    ):
        out.write_text(content)
        assert command([*SCENES, "--model", str(model), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert out.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "give either a benchmark's YAML file or --suite"),
        ("nyuv2_depth --suite scenes", "give either"),
        ("nyuv2_dpth --data {data}", "did you mean 'nyuv2_depth'"),
        ("nyuv2_depth", "a benchmark needs --data DIR"),
        ("nyuv2_depth --data {data}/none", "no such folder"),
        ("nyuv2_depth --data {data}/voc --resolution 32", "nyuv2 is looked for there"),
        ("nyuv2_depth --data {data}", "scored at 256 px and model small works at 32; give --resolution 32"),
        ("nyuv2_depth --data {data} --queries 3", "benchmarks have lists, and --limit"),
        ("nyuv2_depth --data {data} --limit 0", "limit is 0"),
        ("nyuv2_depth --data {data} --resolution 32 crp=eigen", "did you mean 'crop'"),
        ("nyuv2_depth --data {data} --baseline {data}", "holds no model"),
        ("--suite thesis --data {data} --tasks pose", "no benchmark of pose"),
        ("--suite scenes --resolution 64", "--resolution is for benchmarks"),
        ("--suite scenes --seed 0,x", "seed is '0,x'; give a whole number, or several as 0,1,2"),
        ("--suite scenes --seed 0,1,", "seed is '0,1,'"),
        ("--suite scenes --seed 0,-1", "seed is -1; it must be at least 0"),
        ("--suite scenes --seed 1,0,1", "seed 1 is given twice"),
        ("nyuv2_depth --data {data} seeds=[2,2]", "seed 2 is given twice"),
        ("nyuv2_depth --data {data} seeds=[]", "seeds is empty"),
        ("voc_detection --data {data} --seed 4", "seeds is its parts' own (split1, split2, split3, split4)"),
        ("refcoco --data {data} queries.split=test", "queries.split is its parts' own (val, testA, testB)"),
    ],
)
def test_mistakes_are_one_line(command, model, data, arguments, message, capsys):
    assert command([*arguments.format(data=data).split(), "--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error


def test_the_thesis_suite_runs_what_has_its_data(command, model, data, tmp_path):
    """G-Ref and RefCOCO+ are not there, ImageNet's miniature has other names: they are skipped, with the reason."""
    out = tmp_path / "report.json"
    arguments = f"--suite thesis --tasks foreground,detection,deraining --data {data} --model {model} --limit 1".split()
    arguments += ["--resolution", "32", "--pairs", "2", "--steps", "4", "--seed", "1,2"]
    assert command([*arguments, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    rows = [f"{name}/split{n}" for name in ("pascal5i_foreground", "voc_detection") for n in (1, 2, 3, 4)]
    rows += ["voc_detection_folds/fold0"]
    assert list(dict.fromkeys(result["task"] for result in found["results"])) == rows
    assert all(result["queries"] == 1 for result in found["results"])
    assert "names are not in the data" in found["protocol"]["skipped"]["imagenet_deraining"]
    published = [result["published"] for result in found["results"] if result["task"] == "voc_detection/split3"]
    assert published[0]["LaVin-DiT 3.4B"] == 0.6876
    seeds = {name: one["seeds"] for name, one in found["protocol"]["benchmarks"].items()}  # four draws are four splits
    assert [seeds[row] for row in rows] == [[1, 2]] * 4 + [[0], [1], [2], [3]] + [[1, 2]]
    several = {result["task"]: len(result.get("by_seed", [])) for result in found["results"]}
    assert list(several.values()) == [2] * 4 + [0] * 4 + [2]


# --- Other people's networks ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seggpt(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SegGptConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=[64, 32], patch_size=8, mlp_dim=32,
        merge_index=0, intermediate_hidden_state_indices=[0, 1], decoder_hidden_size=8, pretrain_image_size=16,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("seggpt") / "seggpt-tiny"
    transformers.SegGptForImageSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def episodes():
    (row,) = task_rows(["foreground"])
    pool = make_pool(row.task, 48, 16)
    from lavin.evaluation.episodes import draw_episode

    return [draw_episode(pool, row, 2, 0, index) for index in range(2)]


def test_seggpt_paints_what_transformers_own_processor_gives(seggpt, episodes):
    """Its processor resizes with other antialiasing, so pictures of the network's own size are compared."""
    from transformers import SegGptForImageSegmentation, SegGptImageProcessor

    from lavin.evaluation.episodes import draw_episode

    (row,) = task_rows(["foreground"])
    episode = draw_episode(make_pool(row.task, 32, 16), row, 2, 0, 0)
    found = foreign.open_rival(seggpt).predict([episode], [None])[0]

    def levels(clip):
        return ((clip[:, 0] + 1) * 127.5).round().to(torch.uint8)

    processor = SegGptImageProcessor(size={"height": 32, "width": 32}, do_convert_rgb=False)
    inputs = processor(
        images=[levels(episode.query.input)] * 2,
        prompt_images=[levels(pair.input) for pair in episode.pairs],
        prompt_masks=[levels(pair.target) for pair in episode.pairs],
        return_tensors="pt",
    )
    network = SegGptForImageSegmentation.from_pretrained(seggpt).eval()
    with torch.no_grad():
        painted = network(**inputs, feature_ensemble=True, embedding_type="semantic").pred_masks
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    expected = ((painted[:, :, 32:] * std + mean).clamp(0, 1)).mean(0)
    assert found.shape == episode.target.shape and found.std() > 0
    torch.testing.assert_close((found[:, 0] + 1) / 2, expected, atol=2e-2, rtol=0)  # the mean is taken before clipping


def test_rivals_stand_among_the_baselines(seggpt):
    (row,) = task_rows(["foreground"])
    settings = Settings(queries=2, pairs=2, steps=4, pool=16, batch=2)
    runner = Runner(Each("model", constant(1.0)), settings, [foreign.open_rival(seggpt)])
    (result,) = run_row(runner, make_pool(row.task, 32, 16), row)
    assert list(result.baselines) == ["copy_nearest", "mean_target", "seggpt-tiny"]
    assert 0 <= result.baselines["seggpt-tiny"] <= 1
    assert foreign.open_rival(seggpt).describe()["kind"] == "SegGPT"


@pytest.fixture(scope="module", params=["MarigoldDepthPipeline", "MarigoldNormalsPipeline"])
def marigold(request, tmp_path_factory):
    pytest.importorskip("transformers")
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 8), layers_per_block=1, sample_size=8, in_channels=8, out_channels=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16, attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(
        block_out_channels=[8, 8], down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    words = tmp_path_factory.mktemp("words")
    tokens = ["<|startoftext|>", "<|endoftext|>", "a</w>"]
    (words / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=3, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            bos_token_id=0, eos_token_id=1, pad_token_id=1, max_position_embeddings=16,
        )
    )  # fmt: skip
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=16)
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    kind = getattr(diffusers, request.param)
    pipeline = kind(unet, vae, scheduler, text, tokenizer, default_denoising_steps=1, default_processing_resolution=0)
    folder = tmp_path_factory.mktemp("marigold") / request.param
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def test_marigold_answers_its_own_task(marigold):
    name = foreign.TASK_OF[marigold.name]
    rival = foreign.open_rival(marigold)
    (row,) = task_rows([name])
    (other,) = task_rows(["normals" if name == "depth" else "depth"])
    assert rival.takes(row.task) and not rival.takes(other.task)
    assert rival.answers_depth == (name == "depth")
    settings = Settings(queries=2, pairs=1, steps=4, pool=8, batch=2)
    runner = Runner(Each("model", constant(0.0)), settings, [rival])
    pool = make_pool(row.task, 32, 8)
    (result,) = run_row(runner, pool, row)
    assert result.baselines[marigold.name] > 0
    from lavin.evaluation.episodes import draw_episode, noise_generator

    episodes = [draw_episode(pool, row, 1, 0, index) for index in range(2)]
    clips = rival.predict(episodes, [noise_generator(0, row.name, index) for index in range(2)])
    assert [clip.shape for clip in clips] == [episodes[0].target.shape] * 2
    if name == "normals":
        torch.testing.assert_close(clips[0].norm(dim=0), torch.ones(1, 32, 32), atol=1e-3, rtol=0)
    else:
        assert torch.equal(clips[0][0], clips[0][1])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "holds no model"),
        ({"config.json": '{"model_type": "bert"}'}, "is a bert; a SegGPT checkpoint"),
        ({"model_index.json": '{"_class_name": "StableDiffusionPipeline"}'}, "is a StableDiffusionPipeline"),
        ({"config.json": '{"model_type": "seggpt"}'}, "cannot be loaded"),
    ],
)
def test_folders_that_are_no_baseline(tmp_path, files, message):
    pytest.importorskip("transformers")
    folder = tmp_path / "other"
    if files is not None:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content)
    with pytest.raises(InputError, match=message):
        foreign.open_rival(folder)
