"""Optical flow scores against a loop and hand cases."""

import math

import pytest
import torch

from lavin.metrics import EndPointError, FlowOutliers


def test_flow_scores_equal_a_loop_over_pixels():
    generator = torch.Generator().manual_seed(0)
    epe, outliers, errors, off = EndPointError(), FlowOutliers(), [], []
    for frames in (1, 2):
        truth = 30 * torch.randn(2, frames, 5, 6, generator=generator, dtype=torch.float64)
        found = truth + 3 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
        truth[torch.randint(2, (1,), generator=generator), 0, 1, :3] = torch.nan
        found[:, 0, 1, 0] = torch.nan  # not asked for
        for metric in (epe, outliers):
            metric.update(found, truth)
        for u, v, wanted_u, wanted_v in zip(
            *(channel.flatten().tolist() for clip in (found, truth) for channel in clip)
        ):
            if math.isfinite(wanted_u) and math.isfinite(wanted_v):
                errors.append(math.hypot(u - wanted_u, v - wanted_v))
                off.append(errors[-1] > 3 and errors[-1] > 0.05 * math.hypot(wanted_u, wanted_v))
    assert len(errors) == 84 and 0 < sum(off) < 84
    assert epe.compute().item() == pytest.approx(sum(errors) / 84, rel=1e-6)
    assert outliers.compute().item() == pytest.approx(sum(off) / 84, rel=1e-6)


@pytest.mark.parametrize("error, length, wanted", [(3, 0, 0), (3.5, 0, 1), (4, 100, 0), (6, 100, 1), (2, 1, 0)])
def test_an_outlier_is_off_by_3_px_and_by_5_per_cent(error, length, wanted):
    truth = torch.tensor([float(length), 0.0]).view(2, 1, 1, 1)
    found = truth + torch.tensor([0.0, float(error)]).view(2, 1, 1, 1)
    assert FlowOutliers().score(found, truth) == wanted


def test_without_valid_flow_there_is_no_score_and_a_failed_one_is_an_error():
    unknown, still = torch.full((2, 1, 2, 2), torch.nan), torch.zeros(2, 1, 2, 2)
    metric = EndPointError()
    metric.update(still, unknown)
    assert metric.compute().isnan() and not metric.higher_is_better
    with pytest.raises(ValueError, match="the predicted flow: 8 of 8 values are NaN"):
        metric.update(unknown, still)
