import platform
from pathlib import Path

import pytest
import torch

from lavin import config_dir
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.training import run_config
from lavin.training.config import PretrainConfig, RunConfig, STVAEConfig, load_config
from lavin.training.trainer import learning_rate_factor


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (STVAEConfig, "stvae/tiny"),
        (STVAEConfig, "stvae/tiny_decoder"),
        (STVAEConfig, "stvae/small"),
        (STVAEConfig, "stvae/debug"),
        (STVAEConfig, "stvae/images"),
        (STVAEConfig, "stvae/videos"),
        (STVAEConfig, "stvae/compare"),
        (PretrainConfig, "pretrain/tiny"),
        (PretrainConfig, "pretrain/tiny_poses"),
        (PretrainConfig, "pretrain/small"),
        (PretrainConfig, "pretrain/debug"),
        (PretrainConfig, "pretrain/unseen"),
        (PretrainConfig, "pretrain/stage1_256"),
        (PretrainConfig, "pretrain/stage2_512"),
    ],
)
def test_shipped_configs_are_valid(schema, name):
    config = load_config(schema, config_dir() / f"{name}.yaml", ["run.max_steps=7"])
    assert config.run.max_steps == 7
    assert sum(config.tasks.probabilities().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.max_step=5", "did you mean 'run.max_steps'"),
        ("runn.max_steps=5", "did you mean 'run'"),
        ("max_steps=5", "did you mean 'run.max_steps'"),
        ("output_dri=x", "did you mean 'output_dir'"),
        ("no_such_key=1", "unknown key 'no_such_key'; did you mean '"),
        ("run.export_every=-1", "export_every is -1; it must not be negative"),
        ("run.max_steps=many", "max_steps"),
        ("run.max_steps=0", "above 0"),
        ("run.precision=fp16", "'auto', 'bf16' or 'fp32'"),
        ("tasks.weights.dept=1", "did you mean 'depth'"),
        ("tasks.weights.depth=-1", "must not be negative"),
        ("tasks.weights.video_depth=1", "video_depth: set scenes.frames to 1 . 4k"),
        ("scenes.frames=5", "set scenes.frames to 1, it is of pictures"),
        ("scenes.frames=4", "1 . 4k for clips"),
        ("tasks.weights.pose=1", "set scenes.people to true"),
        ("tasks.held_out_tasks=[depth]", "'depth' has a weight and is in tasks.held_out_tasks"),
        ("tasks.held_out_tasks=[dept]", "did you mean 'depth'"),
        ("scenes.size=60", "multiple of 16"),
        ("run.max_minutes=0", "run.*max_minutes.*above 0|max_minutes is 0"),
        ("optimizer.decay_share=2", r"decay_share is 2.0; it must be in \[0, 1\]"),
        ("stream.workers=-1", "must not be negative"),
        ("stream.fresh=3", "multiple of stream.batch=8"),
        ("stream.people_share=1", "at least 0 and below 1"),
        ("stream.people_share=0.1", "stream.people_share needs stream.workers"),
        ("photos.folders.bsds=x", "did you mean 'bsds500'"),
        ("photos.folders.camvid=x", "photos.folders needs stream.workers"),
        ("photos.share=-1", "at least 0 and below 1"),
        ("train_pairs=99", "cache holds contexts of"),
        ("max_steps", "write key=value"),
    ],
)
def test_wrong_values_are_refused_by_name(override, message):
    with pytest.raises(InputError, match=message):
        load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", [override]).tasks.probabilities()


def test_missing_config_is_named():
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such file"):
        load_config(PretrainConfig, "nowhere.yaml")


def test_learning_rate_warms_up_stays_and_decays():
    schedule = load_config(
        PretrainConfig, config_dir() / "pretrain/debug.yaml", ["optimizer.warmup_steps=4", "optimizer.decay_steps=5"]
    ).optimizer
    factors = [learning_rate_factor(step, schedule, 20) for step in range(20)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(factors[4:15]) == {1.0}
    assert factors[15:] == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])


def test_decay_may_be_a_share_of_the_run():
    schedule = load_config(
        PretrainConfig, config_dir() / "pretrain/debug.yaml", ["optimizer.decay_share=0.5"]
    ).optimizer
    factors = [learning_rate_factor(step, schedule, 10) for step in range(10)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("freeze_encoder=true", "freeze_encoder needs init"),
        ("freeze_pictures=true", "freeze_pictures needs init"),
        ("keep_of_past=1.5", "keep_of_past is 1.5; it must be at least 0 and at most 1"),
        ("keep_of_past=0", "keep_of_past needs init"),
        ("label_share=1", "label_share is 1.0; it must be at least 0 and below 1"),
        ("crop_sizes=[60]", "crop_sizes has 60; sides are multiples of 8 from 8 to scenes.size=64"),
        ("crop_sizes=[72]", "crop_sizes has 72"),
        ("run.precision=fp16", "must be 'auto', 'bf16' or 'fp32'"),
        ("losses.kl_weight=-1", "losses.kl_weight is -1.0; it must be 0 or above"),
        ("losses.mse_weight=0", "losses.mse_weight and losses.l1_weight are both 0"),
        ("losses.perceptual_backbone=vgg16", "did you mean 'vgg'"),
        ("losses.discriminator.start=-1", "losses.discriminator.start is -1; it must be 0 or above"),
        ("losses.discriminator.channels=0", "losses.discriminator.channels is 0; it must be above 0"),
        ("losses.discriminator.channels=12", "must be a multiple of 8"),
        ("kl_weight=1", "did you mean 'losses.kl_weight'"),
        ("clip_share=1", "at least 0 and below 1"),
        ("clip_frames=4", "1 . 4k, k at least 1"),
        ("photos.folders.camvid=x", "photos.folders needs stream.workers"),
    ],
)
def test_wrong_values_of_the_st_vaes_training_are_refused_by_name(override, message):
    with pytest.raises(InputError, match=message):
        load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", [override])


@pytest.mark.parametrize("other", ["clip_share=0", "freeze_encoder=true"])
def test_learning_clips_alone_needs_clips_and_an_encoder_that_learns(other):
    overrides = ["init=lavin-tiny", "clip_share=0.5", "freeze_pictures=true", other]
    with pytest.raises(InputError, match="needs clip_share and no freeze_encoder"):
        load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides)


def test_a_frozen_encoder_keeps_all_of_the_past():
    overrides = ["init=lavin-tiny", "keep_of_past=0.5", "freeze_encoder=true"]
    with pytest.raises(InputError, match=r"keep_of_past needs .* no freeze_encoder"):
        load_config(STVAEConfig, config_dir() / "stvae/debug.yaml", overrides)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has FlexAttention")
def test_flex_attention_is_refused_without_a_gpu():
    with pytest.raises(InputError, match=r"run\.attention=flex needs a GPU"):
        load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", ["run.attention=flex", "run.compile=true"])


def without_weights(tmp_path, *lines: str) -> PretrainConfig:
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(lines))
    return load_config(PretrainConfig, path)


def test_without_weights_all_tasks_are_drawn_that_the_scenes_can_show(tmp_path):
    pictures = set(without_weights(tmp_path, "{}").tasks.probabilities())
    assert {"depth", "panoptic", "referring_caption"} <= pictures and not pictures & {"pose", "video_depth"}
    people = set(without_weights(tmp_path, "scenes: {people: true, size: 32}").tasks.probabilities())
    assert people == pictures - {"referring_caption"} | {"pose", "pose_to_image"}
    clips = set(without_weights(tmp_path, "scenes: {frames: 9}").tasks.probabilities())
    assert "optical_flow" in clips and not clips & (people | {"frame_prediction"})


def test_a_task_with_lengths_of_its_own_is_trained_alone_on_clips_long_enough(tmp_path):
    config = without_weights(tmp_path, "{tasks: {weights: {frame_prediction: 1}}, scenes: {frames: 21}}")
    assert config.tasks.probabilities() == {"frame_prediction": 1}
    with pytest.raises(InputError, match=r"weights\.frame_prediction: set scenes\.frames to 21, as many as its clips"):
        without_weights(tmp_path, "{tasks: {weights: {frame_prediction: 1}}, scenes: {frames: 13}}")
    with pytest.raises(InputError, match=r"weights\.frame_prediction: its inputs and targets are not as long as those"):
        without_weights(tmp_path, "{tasks: {weights: {frame_prediction: 1, video_depth: 1}}, scenes: {frames: 21}}")


def test_tasks_can_be_held_out(tmp_path):
    config = without_weights(tmp_path, "tasks: {held_out_tasks: [foreground]}")
    assert "foreground" not in config.tasks.probabilities()
    assert "foreground" not in load_config(PretrainConfig, config_dir() / "pretrain/unseen.yaml").tasks.weights


@pytest.mark.parametrize(("schema", "name"), [(STVAEConfig, "stvae/debug"), (PretrainConfig, "pretrain/debug")])
@pytest.mark.parametrize("key", ["output_dir", "run.output_dir"])
def test_output_dir_needs_no_prefix(schema, name, key):
    config = load_config(schema, config_dir() / f"{name}.yaml", [f"{key}=somewhere", "run.seed=3"])
    assert (config.run.output_dir, config.run.seed) == ("somewhere", 3)


def test_stages_are_the_recipe_of_the_thesis():
    """Lines of the recipe's table; 64 GPUs with 10 sequences each are its global batch of 640."""
    first, second = (
        load_config(PretrainConfig, config_dir() / f"pretrain/{name}.yaml") for name in ("stage1_256", "stage2_512")
    )
    assert (first.scenes.size, first.run.max_steps, first.optimizer.learning_rate) == (256, 100_000, 1e-4)
    assert (second.scenes.size, second.run.max_steps, second.optimizer.learning_rate) == (512, 20_000, 5e-5)
    assert second.init == first.run.output_dir
    for config in (first, second):
        optimizer, run = config.optimizer, config.run
        assert 64 * run.batch_size * run.accumulation == 640
        assert (tuple(optimizer.betas), optimizer.weight_decay) == ((0.9, 0.95), 0.01)
        assert (optimizer.warmup_steps, optimizer.decay_steps, optimizer.decay_share) == (0, 0, 0)
        assert (optimizer.max_grad_norm, run.ema_decay, config.context_dropout) == (1.0, 0.9999, 0.1)
        assert (run.precision, run.gradient_checkpointing, config.timestep_mean) == ("bf16", True, 0)
        assert config.train_pairs == 9  # the query's among them: contexts of 1 to 8
        with torch.device("meta"):
            assert sum(weight.numel() for weight in JDiT(**config.model).parameters()) == 3_398_976_064


def test_pairs_from_the_querys_past_must_fit_into_its_clip(tmp_path):
    settings = "{{scenes: {{frames: {}}}, tasks: {{prefix_frames: {}}}, cache: {{pairs: 3}}, train_pairs: 3}}"
    assert without_weights(tmp_path, settings.format(17, 5)).tasks.prefix_frames == 5
    for frames, part in ((13, 5), (17, 4), (17, 1)):
        with pytest.raises(InputError, match=rf"tasks\.prefix_frames is {part}; it must be 1 \+ 4k"):
            without_weights(tmp_path, settings.format(frames, part))


@pytest.mark.parametrize("able, precision", [(True, "bf16"), (False, "fp32")])
def test_precision_is_what_the_machine_computes_in(monkeypatch, able, precision):
    monkeypatch.setattr(run_config, "computes_in_bf16", lambda: able)
    assert RunConfig().precision == RunConfig(precision="auto").precision == precision
    assert RunConfig(precision="bf16").precision == "bf16"


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU decides")
def test_a_cpu_computes_in_bf16_if_its_instructions_do():
    """Against the system's own list of them."""
    flags = Path("/proc/cpuinfo")
    if not flags.exists() or platform.machine() != "x86_64":
        pytest.skip("Linux on x86-64 says which there are")
    words = set(flags.read_text().split())
    if words & {"avx512_bf16", "amx_bf16"}:
        assert run_config.computes_in_bf16()
    elif "avx512f" not in words:  # with it alone, products are made of float32 ones and are not slower than those
        assert not run_config.computes_in_bf16()
