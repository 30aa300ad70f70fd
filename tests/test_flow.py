import pytest
import torch

from lavin import flow

RELEASED_20 = [0, .0056, .0111, .0167, .0222, .0278, .0333, .0389, .0444, .0500,
               .0524, .0730, .1148, .1777, .2618, .3671, .4936, .6412, .8100, 1]  # fmt: skip
RELEASED_30 = [0, .0036, .0071, .0107, .0143, .0179, .0214, .0250, .0286, .0321, .0357, .0393, .0429, .0464, .0500,
               .0511, .0600, .0779, .1049, .1410, .1862, .2403, .3036, .3759, .4573, .5477, .6472, .7557, .8733, 1]  # fmt: skip  # noqa: E501

MEAN = torch.tensor([2.0, -1.0], dtype=torch.float64).view(1, 2, 1, 1, 1)
STD = torch.tensor([0.5, 1.5], dtype=torch.float64).view(1, 2, 1, 1, 1)


def gaussian_velocity(x, t):
    """E[data - noise | x_t = x] for data N(MEAN, STD²), noise N(0, 1), in closed form."""
    t = t.view(-1, 1, 1, 1, 1)
    return MEAN + (t * STD**2 - (1 - t)) / ((1 - t) ** 2 + (t * STD) ** 2) * (x - t * MEAN)


def test_sampling_direction_carries_noise_to_data():
    """The flow of a Gaussian takes noise to mean + std * noise."""
    noise = torch.randn(64, 2, 1, 1, 1, dtype=torch.float64)
    found = flow.solve(gaussian_velocity, noise, torch.linspace(0, 1, 1001, dtype=torch.float64))
    torch.testing.assert_close(found, MEAN + STD * noise, atol=1e-2, rtol=0)  # Euler's error shrinks as 1 / steps


def test_training_direction_has_the_closed_form_as_its_minimum():
    """The closed-form velocity has the least loss: other affine velocities are worse, the reversed one by far."""
    torch.manual_seed(0)
    data = MEAN + STD * torch.randn(20000, 2, 1, 1, 1, dtype=torch.float64)
    t = flow.draw_timesteps(len(data)).double()
    losses = {}
    for name, model in {
        "exact": lambda x, t, c: gaussian_velocity(x, t),
        "shifted": lambda x, t, c: gaussian_velocity(x, t) + 0.2,
        "scaled": lambda x, t, c: 1.1 * gaussian_velocity(x, t),
        "reversed": lambda x, t, c: gaussian_velocity(x, 1 - t),
        "negative": lambda x, t, c: -gaussian_velocity(x, t),
    }.items():
        losses[name] = flow.loss(model, None, data, t, torch.Generator().manual_seed(1)).mean().item()
    assert min(losses, key=losses.get) == "exact"
    assert losses["shifted"] - losses["exact"] == pytest.approx(0.04, abs=0.02)
    assert min(losses["reversed"], losses["negative"]) > 1.5 * losses["exact"]


def test_midpoint_is_of_second_order():
    """Half the step halves Euler's error and quarters midpoint's: dx/dt = x carries x to e x."""
    start = torch.randn(8, 2, 1, 1, 1, dtype=torch.float64)
    for method, order in (("euler", 1), ("midpoint", 2)):
        errors = []
        for steps in (100, 200):
            grid = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            errors.append((flow.solve(lambda x, t: x, start, grid, method) - torch.e * start).abs().max())
        assert torch.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.05)


def test_path_ends_at_noise_and_data():
    noise, data = torch.randn(2, 3, 4, 2, 2), torch.randn(2, 3, 4, 2, 2)
    for t, end in ((0.0, noise), (1.0, data)):
        point, velocity = flow.interpolate(noise, data, torch.full((2,), t))
        torch.testing.assert_close(point, end)
        torch.testing.assert_close(velocity, data - noise)


def test_parallel_targets_have_their_own_times():
    noise, data = torch.randn(2, 3, 6, 2, 2), torch.randn(2, 3, 6, 2, 2)
    t = torch.rand(2, 3)
    point, _ = flow.interpolate(noise, data, t)
    for i in range(3):
        own = slice(2 * i, 2 * i + 2)
        torch.testing.assert_close(point[:, :, own], flow.interpolate(noise[:, :, own], data[:, :, own], t[:, i])[0])


def test_loss_is_the_mean_square_per_target():
    data, t = torch.randn(2, 3, 4, 2, 2), torch.rand(2, 2)
    noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(3))
    guess = torch.randn_like(data)
    found = flow.loss(lambda x, t, c: guess, None, data, t, torch.Generator().manual_seed(3), l1_weight=0.1)
    for b in range(2):
        for i in range(2):
            error = (guess - (data - noise))[b, :, 2 * i : 2 * i + 2].double()
            expected = (error**2).mean() + 0.1 * error.abs().mean()
            assert found[b, i].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, -1.0])
def test_timesteps_are_logit_normal(mean):
    t = flow.draw_timesteps((20000,), torch.Generator().manual_seed(0), mean=mean)
    logit = torch.logit(t.double())
    assert t.min() > 0 and t.max() < 1
    assert logit.mean().item() == pytest.approx(mean, abs=0.03)
    assert logit.std() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("table", [RELEASED_20, RELEASED_30])
def test_linear_quadratic_grid_reproduces_the_release(table):
    grid = flow.time_grid("linear_quadratic", len(table))
    torch.testing.assert_close(grid, torch.tensor(table, dtype=torch.float32), atol=5.1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "points"), [("uniform", 2), ("uniform", 7), ("linear_quadratic", 4), ("linear_quadratic", 12)]
)
def test_grids_rise_from_0_to_1(kind, points):
    grid = flow.time_grid(kind, points)
    assert len(grid) == points
    assert grid[0] == 0 and grid[-1] == 1
    assert (grid.diff() > 0).all()


@pytest.mark.parametrize(
    ("kind", "points"), [("uniform", 1), ("linear_quadratic", 2), ("linear_quadratic", 7), ("cosine", 8)]
)
def test_impossible_grids_are_refused(kind, points):
    with pytest.raises(ValueError, match="grid"):
        flow.time_grid(kind, points)


def test_guidance_of_one_is_the_conditional_velocity():
    with_context, without = torch.randn(5), torch.randn(5)
    torch.testing.assert_close(flow.guide(with_context, without, 1.0), with_context)
    torch.testing.assert_close(flow.guide(with_context, without, 0.0), without)
    torch.testing.assert_close(flow.guide(with_context, without, 2.0) - with_context, with_context - without)


def test_unknown_solver_is_refused():
    with pytest.raises(ValueError, match="unknown solver 'heun2'"):
        flow.solve(gaussian_velocity, torch.randn(1, 2, 1, 1, 1), torch.linspace(0, 1, 3), "heun2")
