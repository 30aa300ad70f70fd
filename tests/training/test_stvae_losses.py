"""Every term of the ST-VAE's loss beside an independent computation; discriminators small enough to check by eye."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
import torchvision
from torch import nn

from lavin.errors import InputError
from lavin.training.discriminator import Discriminator, accuracy, gap, split_verdicts
from lavin.training.stvae_losses import (
    Perceptual,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
    kl_divergence,
    r1_penalty,
    reconstruction,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_kl_equals_the_library():
    mean, logvar = torch.randn(3, 4, 1, 2, 2), torch.randn(3, 4, 1, 2, 2)
    library = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    )
    torch.testing.assert_close(kl_divergence(mean, logvar), library.mean())


def test_reconstruction_equals_a_loop():
    decoded, clip = torch.randn(2, 2, 3, 3, 4, 4, dtype=torch.float64)
    squares, absolutes = [], []
    for x, y in zip(decoded.flatten().tolist(), clip.flatten().tolist(), strict=True):
        squares.append((x - y) ** 2)
        absolutes.append(abs(x - y))
    wanted = 0.7 * np.mean(squares) + 0.2 * np.mean(absolutes)
    assert reconstruction(decoded, clip, 0.7, 0.2).item() == pytest.approx(wanted, rel=1e-12)
    assert reconstruction(decoded, clip, 1.0, 0.0).item() == pytest.approx(np.mean(squares), rel=1e-12)


def slow_lpips(file: Path, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """LPIPS of two pictures (3, height, width) by its definition, on SqueezeNet's seven taps, in float64."""
    network = torchvision.models.squeezenet1_1(weights=None).double().eval()
    network.load_state_dict(torch.load(file))
    lin = torch.load(Path(torchmetrics.__file__).parent / "functional/image/lpips_models/squeeze.pth", "cpu")
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
    x, y, total = (a.double() - shift) / scale, (b.double() - shift) / scale, 0.0
    taps = {1: 0, 4: 1, 7: 2, 9: 3, 10: 4, 11: 5, 12: 6}
    for number, layer in enumerate(network.features):
        x, y = layer(x[None])[0], layer(y[None])[0]
        if number in taps:
            unit = [value / (value.square().sum(0).sqrt() + 1e-10) for value in (x, y)]
            weight = lin[f"lin{taps[number]}.model.1.weight"].double().flatten()
            total = total + ((unit[0] - unit[1]).square() * weight[:, None, None]).sum(0).mean()
    return total


def test_perceptual_is_the_mean_of_lpips_over_frames(random_squeezenet):
    decoded, clip = torch.rand(2, 2, 3, 2, 40, 32) * 2 - 1
    frames = [(b, f) for b in range(2) for f in range(2)]
    wanted = torch.stack([slow_lpips(random_squeezenet, decoded[b, :, f], clip[b, :, f]) for b, f in frames]).mean()
    loss = Perceptual("squeeze")
    found = loss(decoded.requires_grad_(), clip)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-4)  # float32, thirteen layers
    found.backward()
    assert decoded.grad.abs().min(dim=0).values.max() > 0
    assert all(weight.grad is None for weight in loss.parameters())


def test_a_backbone_that_is_missing_names_the_option(tmp_path):
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(InputError, match=r"LPIPS \(vgg\).*is missing.*losses\.perceptual_weight=0"):
            Perceptual("vgg")
    finally:
        torch.hub.set_dir(before)


# --- The adversary's game ---------------------------------------------------------------------------------------------


def test_hinge_losses_by_eye():
    """Real logits 2 and 0 lack 0 and 1, decoded ones -2 and 0.5 exceed -1 by 0 and 1.5: (1/2 + 1.5/2) / 2."""
    real, fake = [torch.tensor([2.0, 0.0])], [torch.tensor([-2.0, 0.5])]
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.625)
    assert hinge_generator(fake).item() == pytest.approx(0.75)
    assert accuracy(real, fake).item() == pytest.approx(0.5)
    assert gap(real, fake).item() == pytest.approx(1 + 0.75)


def test_two_discriminators_count_the_same_however_many_patches_they_have():
    real, fake = [torch.zeros(2, 1), torch.full((2, 9), 1.0)], [torch.zeros(2, 1), torch.full((2, 9), -1.0)]
    assert hinge_discriminator(real, fake).item() == pytest.approx((1 + 0) / 2)
    assert hinge_generator(fake).item() == pytest.approx(0.5)


def test_r1_of_a_linear_discriminator_is_its_weights_norm():
    """D(x) = w · x has the gradient w everywhere: R1 is |w|² / 2, and its own gradient w."""
    weight = torch.randn(3 * 2 * 4 * 4, dtype=torch.float64, requires_grad=True)
    real = torch.randn(5, 3, 2, 4, 4, dtype=torch.float64)
    penalty = r1_penalty(lambda clip: [clip.flatten(1) @ weight[:, None]], real)
    assert penalty.item() == pytest.approx(weight.square().sum().item() / 2)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_r1_of_the_real_discriminators_equals_finite_differences():
    discriminator = Discriminator(8, 1, clips=True).double()
    real, direction = torch.randn(2, 1, 3, 5, 16, 16, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(
        sum(logits.mean() for logits in discriminator(real.requires_grad_())), real, create_graph=False
    )
    step = 1e-5 * direction
    moved = [sum(logits.mean() for logits in discriminator(real.detach() + sign * step)) for sign in (1, -1)]
    assert ((moved[0] - moved[1]) / 2).item() == pytest.approx((gradient * step).sum().item(), rel=1e-5)
    assert r1_penalty(discriminator, real).item() == pytest.approx(gradient.square().sum().item() / 2, rel=1e-9)


def test_adaptive_weight_equals_gradients_taken_by_hand():
    """x̂ = W h: the error's gradient is 2 (x̂ - x) hᵀ / n, that of -mean(v x̂) is -vᵀ hᵀ / n."""
    layer = nn.Linear(3, 2, bias=False).double()
    hidden, wanted, verdict = torch.randn(4, 3).double(), torch.randn(4, 2).double(), torch.randn(2).double()
    found = layer(hidden)
    error, adversarial = (found - wanted).square().mean(), -(found @ verdict).mean()
    by_error = 2 * (found - wanted).detach().T @ hidden / found.numel()
    by_verdict = -verdict[:, None] * hidden.sum(0)[None] / len(hidden)
    ratio = by_error.norm() / (by_verdict.norm() + 1e-4)
    weight = adaptive_weight(error, adversarial, layer.weight)
    assert weight.item() == pytest.approx(ratio.item(), rel=1e-12)
    assert not weight.requires_grad
    (error + weight * adversarial).backward()
    torch.testing.assert_close(layer.weight.grad, by_error + ratio * by_verdict)


def test_adaptive_weight_is_bounded_where_nothing_is_heard():
    layer = nn.Linear(3, 2).double()
    found = layer(torch.full((1, 3), 1e3).double())
    assert adaptive_weight(found.square().sum(), 0 * found.sum(), layer.weight).item() == 1e4


def test_verdicts_do_not_depend_on_company_and_those_over_time_do_on_time():
    discriminator = Discriminator(8, 2, clips=True).eval()
    clips = torch.randn(3, 3, 5, 32, 32)
    together, alone = discriminator(clips), [discriminator(clip[None]) for clip in clips]
    for number in range(2):
        torch.testing.assert_close(together[number], torch.cat([verdict[number] for verdict in alone]))
    backwards = discriminator(clips.flip(2))
    torch.testing.assert_close(backwards[0], together[0].flip(1))
    assert (backwards[1] - together[1].flip(1)).abs().max() > 1e-4
    assert len(discriminator(clips[:, :, :1])) == 1
    real, fake = split_verdicts(discriminator(torch.cat([clips, -clips])))
    torch.testing.assert_close(fake[1], discriminator(-clips)[1])
    torch.testing.assert_close(real[0], together[0])
