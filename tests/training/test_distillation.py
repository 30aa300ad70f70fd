"""Learning some tasks from their targets and keeping to a teacher's velocity in all others."""

import numpy as np
import pytest
import torch

from lavin import config_dir, context, flow
from lavin.errors import InputError
from lavin.models.jdit import JDiT
from lavin.models.stvae import STVAE
from lavin.training import pretrain
from lavin.training.config import PretrainConfig, load_config
from lavin.training.objective import sequence_loss

SMALL = [
    "run.batch_size=6", "run.validate_every=0", "run.precision=fp32", "run.log_every=1", "scenes.size=32",
    "scenes.train_scenes=60", "scenes.validation_scenes=60", "cache.contexts=12", "cache.validation_contexts=2",
    "tasks.weights={depth: 1, foreground: 1}",
]  # fmt: skip
ROWS, PAIRS, FRAMES = 5, 3, 2


def config(*overrides):
    return load_config(PretrainConfig, config_dir() / "pretrain/debug.yaml", [*SMALL, *overrides])


def random_model(seed: int, attention: str) -> JDiT:
    torch.manual_seed(seed)
    model = JDiT(latent_channels=4, hidden_size=16, num_layers=2, num_heads=2, attention=attention).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    """Condition x1 y1 x2 y2 x3 and all targets, of clips of two latent frames."""
    x, y = torch.randn(2, ROWS, 4, PAIRS, FRAMES, 4, 4, dtype=torch.float64)
    return torch.stack((x, y), dim=3).flatten(2, 4)[:, :, :-FRAMES], y.flatten(2, 3)


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_taught_sequences_learn_the_teachers_velocity_and_the_others_their_own(attention):
    """One sequence at a time; full models with sequences that lose their pairs, and their teacher's too."""
    model, teacher = random_model(0, attention), random_model(1, attention)
    condition, targets = sequences()
    taught = torch.tensor([True, False, True, False, True])
    dropped = np.array([False, False, True, True, False]) if attention == "full" else None
    shape = (ROWS,) if attention == "full" else (ROWS, PAIRS)
    t = torch.rand(shape)
    answered = targets[:, :, -FRAMES:] if attention == "full" else targets
    noise = torch.randn_like(answered)
    expected = []
    for row in range(ROWS):
        one = slice(row, row + 1)
        seen, clips = condition[one], [FRAMES] * (2 * PAIRS - 1)
        if dropped is not None and dropped[row]:
            seen, clips = context.unconditional(seen[:, :, -FRAMES:]), (1, FRAMES)
        noisy, velocity = flow.interpolate(noise[one], answered[one], t[one])
        if taught[row]:
            velocity = teacher(noisy, t[one], seen, clip_frames=clips).detach()
        squared = (model(noisy, t[one], seen, clip_frames=clips) - velocity).square()
        expected.append(squared.unflatten(2, (-1, FRAMES)).mean((1, 3, 4, 5)))
    given = iter([noise] if dropped is None else [noise[~dropped], noise[dropped]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *args, **kwargs: next(given))
        found = sequence_loss(model, condition, targets, t, PAIRS, None, 0.0, dropped, teacher, taught)
    torch.testing.assert_close(found, torch.cat(expected).view(shape), atol=1e-6, rtol=0)  # embedded t is float32
    found.mean().backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_model_that_is_its_own_teacher_errs_in_what_it_learns_alone(tmp_path):
    torch.manual_seed(0)
    STVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4).save_pretrained(tmp_path / "stvae")
    run = [f"stvae={tmp_path}/stvae", "run.max_steps=2"]
    first = pretrain.train(config(*run, f"run.output_dir={tmp_path}/first"))
    losses, rows = [], []
    original = pretrain.sequence_loss

    def recording(*args):
        rows.append(args[-1])
        losses.append(original(*args))
        return losses[-1]

    still = ["run.max_steps=3", "optimizer.learning_rate=1e-12", f"init={first}"]
    keep = [f"distillation.teacher={first}", "distillation.learned=[depth]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "sequence_loss", recording)
        pretrain.train(config(*run, *still, *keep, f"run.output_dir={tmp_path}/second"))
    taught = torch.cat(rows)
    loss = torch.cat([each.detach() for each in losses])
    assert 0 < taught.sum() < len(taught)
    assert loss[taught].max() < 1e-9 < 1e-2 < loss[~taught].min()
    with pytest.raises(InputError, match=r"distillation\.teacher: the J-DiT of .* has other sizes"):
        pretrain.train(config(*run, *keep, f"run.output_dir={tmp_path}/third", "model.hidden_size=32"))
    mistyped = ["distillation.teacher=lavin-tny", "distillation.learned=[depth]"]
    with pytest.raises(InputError, match=r"distillation\.teacher: unknown model 'lavin-tny'; did you mean"):
        pretrain.train(config(*run, *mistyped, f"run.output_dir={tmp_path}/fourth"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.learned=[depth]"], "distillation.learned needs distillation.teacher"),
        (["distillation.teacher=lavin-tiny"], "distillation.learned is empty"),
        (
            ["distillation.teacher=lavin-tiny", "distillation.learned=[dept]"],
            "distillation.learned: unknown task of this training 'dept'; did you mean 'depth'?",
        ),
    ],
)
def test_impossible_lessons_are_refused(overrides, message):
    with pytest.raises(InputError) as error:
        config(*overrides)
    assert message in str(error.value) and "\n" not in str(error.value)
