import pytest

from lavin import config_dir
from lavin.errors import InputError
from lavin.training.config import PretrainConfig, STVAEConfig, load_config
from lavin.training.trainer import learning_rate_factor


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (STVAEConfig, "stvae/tiny"),
        (STVAEConfig, "stvae/debug"),
        (PretrainConfig, "pretrain/tiny"),
        (PretrainConfig, "pretrain/debug"),
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
        ("run.max_steps=many", "max_steps"),
        ("run.max_steps=0", "above 0"),
        ("run.precision=fp16", "'bf16' or 'fp32'"),
        ("tasks.weights.dept=1", "did you mean 'depth'"),
        ("tasks.weights.depth=-1", "must not be negative"),
        ("scenes.size=60", "multiple of 16"),
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
