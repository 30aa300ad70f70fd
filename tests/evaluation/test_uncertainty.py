"""The spread of an ensemble: calibrated where the truth is one of its kind, ordered as the error where it should be."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from lavin.data.mixture import Pool
from lavin.data.scenes import Scenes
from lavin.evaluation import uncertainty
from lavin.evaluation.episodes import Row, Settings, draw_episode, noise_generator
from lavin.evaluation.uncertainty import Bin
from lavin.tasks import REGISTRY
from tests.evaluation.small import SIZE, make_pipeline


@pytest.mark.parametrize("attention", ["causal", "full"])
def test_members_are_those_of_the_pipeline(attention):
    pipeline, pool = make_pipeline(attention), Pool(Scenes("validation", size=SIZE), range(8))
    row = Row("depth", REGISTRY["depth"])
    episodes = [draw_episode(pool, row, 2, 0, index) for index in range(2)]
    generators = [noise_generator(0, row.name, index) for index in range(2)]
    found = uncertainty.predict_ensemble(pipeline, episodes, generators, Settings(pairs=2, steps=4), 3)
    for index, (episode, members) in enumerate(zip(episodes, found, strict=True)):
        output = pipeline(
            episode.pairs,
            episode.query.input,
            num_inference_steps=4,
            generator=noise_generator(0, row.name, index),
            output_type="pt",
            ensemble_size=3,
            speed="exact",
        )
        torch.testing.assert_close(members.mean(0), output.images[0], atol=1e-4, rtol=0)
        spread = members.div(2).double().std(0).square().mean(0).sqrt().float()
        torch.testing.assert_close(spread, output.spread[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [2, 4, 16])
def test_an_ensemble_that_the_truth_could_belong_to_is_calibrated(size):
    """Members and truth are drawn alike, with a spread of each pixel's own: the predicted error is the observed one."""
    rng = torch.Generator().manual_seed(size)
    sigma = torch.rand(1, 64, 64, generator=rng) * 0.1 + 0.01
    members, truths = [], []
    for _ in range(6):
        centre = torch.rand(3, 1, 64, 64, generator=rng) * 0.2 - 0.1
        drawn = centre + 2 * sigma * torch.randn(size + 1, 3, 1, 64, 64, generator=rng)
        members.append(drawn[:size])
        truths.append(drawn[size])
    found = uncertainty.measure("depth", members, truths)
    assert found.predicted_rmse == pytest.approx(found.rmse, rel=0.03)
    assert found.single_rmse == pytest.approx(np.sqrt(2 / (1 + 1 / size)) * found.rmse, rel=0.03)
    assert found.ause > 0
    assert found.aurg > 0.05
    if size == 16:  # bins by a spread of few members also collect those that came out small by chance
        assert found.ence < 0.1


def test_calibration_by_hand():
    predicted, error = np.array([[0.1, 0.3], [0.3, 0.1]]), np.array([[0.1, 0.6], [0.6, 0.1]])
    bins = uncertainty.calibration(predicted, error, bins=2)
    assert bins == [Bin(pytest.approx(0.1), pytest.approx(0.1), 2), Bin(pytest.approx(0.3), pytest.approx(0.6), 2)]
    assert uncertainty.calibration_error(bins) == pytest.approx((0 + 1) / 2)
    assert uncertainty.calibration_error([Bin(0.0, 0.0, 1), Bin(0.2, 0.1, 1)]) == pytest.approx(0.25)
    assert uncertainty.calibration_error([Bin(0.0, 0.1, 1)]) == np.inf


def test_sparsification_equals_a_loop():
    rng = np.random.default_rng(0)
    spread, error = rng.random((7, 9)), rng.random((7, 9))
    expected = []
    for fraction in uncertainty.FRACTIONS:
        pixels = sorted(zip(spread.flat, error.flat, strict=True), reverse=True)[int(fraction * spread.size) :]
        expected.append(sum(e for _, e in pixels) / len(pixels) / error.mean())
    np.testing.assert_allclose(uncertainty.sparsification(spread, error), expected, rtol=1e-12)


def test_perfect_and_useless_orders():
    rng = np.random.default_rng(1)
    error = rng.random((50, 50))
    oracle = uncertainty.sparsification(error, error)
    np.testing.assert_allclose(uncertainty.sparsification(3 * error**2, error), oracle)
    assert (np.diff(oracle) < 0).all()
    for useless in (np.zeros_like(error), np.ones_like(error)):  # ties are no order
        np.testing.assert_allclose(uncertainty.sparsification(useless, error), 1)
    assert uncertainty.area(uncertainty.sparsification(-error, error)) > 1
    assert np.isnan(uncertainty.sparsification(error, 0 * error)).all()
    # errors uniform on [0, 1]: without the largest share f their mean is (1 - f) / 2
    np.testing.assert_allclose(oracle, 1 - np.array(uncertainty.FRACTIONS), atol=0.03)


# --- The command ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command():
    path = Path(__file__).parents[2] / "eval" / "uncertainty.py"
    spec = importlib.util.spec_from_file_location("eval_uncertainty", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "small"
    make_pipeline().save_pretrained(folder)
    return folder


SMALL = ["--tasks", "depth,denoising", "--queries", "3", "--ensemble", "3", "--pairs", "2", "--steps", "4"]
SMALL += ["--pool", "8", "--batch", "2"]


def test_report_and_figure(command, model, tmp_path, capsys):
    arguments = ["--model", str(model), *SMALL, "--out", str(tmp_path / "out")]
    assert command(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [result["task"] for result in results] == ["depth", "denoising"]
    for result in results:
        assert result["single_rmse"] > result["rmse"] > 0  # a mean is nearer than its members, by convexity
        assert sum(one["pixels"] for one in result["bins"]) == 3 * SIZE**2
        assert result["ause"] > 0
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert "spread and error: small" in capsys.readouterr().out
    assert command(arguments) == 2
    assert "output exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ensemble", "1"], "--ensemble is 1; predictions from at least 2 noises"),
        (["--tasks", "dept"], "unknown task 'dept'; did you mean 'depth'?"),
        (["--queries", "0"], "queries is 0; it must be at least 1"),
        (["--pairs", "8"], "pool is 8; 8 pairs and a query need at least 9"),
    ],
)
def test_mistakes_are_one_line(command, model, tmp_path, capsys, options, message):
    assert command(["--model", str(model), *SMALL, *options, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
