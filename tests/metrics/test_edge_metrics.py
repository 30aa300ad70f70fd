"""Edge scores against loops over pixels, another matching algorithm, and cases with a known answer."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from lavin.metrics import EdgeF, EdgeODS, EdgeOIS
from lavin.metrics.edges import matched_pixels, thin

RNG = np.random.default_rng(0)


def slow_edge_f(found, truth):
    def hits(points, others):
        return np.mean([any(abs(y - v) <= 1 and abs(x - u) <= 1 for v, u in others) for y, x in points])

    a, b = np.argwhere(found), np.argwhere(truth)
    precision, recall = hits(a, b), hits(b, a)
    return 2 * precision * recall / (precision + recall)


def test_edge_f_equals_a_loop_over_pixels():
    for _ in range(3):
        found, truth = RNG.random((2, 20, 24)) < 0.06
        score = EdgeF().score(torch.from_numpy(found)[None], torch.from_numpy(truth)[None]).item()
        assert score == pytest.approx(slow_edge_f(found, truth), abs=1e-9)


@pytest.mark.parametrize("shift, wanted", [(0, 1), (1, 1), (2, 0)])
def test_a_line_may_be_one_pixel_off(shift, wanted):
    found, truth = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    truth[:, :, 5] = True
    found[:, :, 5 + shift] = True
    assert EdgeF().score(found, truth) == wanted


def test_no_edges_are_right_only_where_there_are_none():
    none, some = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    some[0, 1] = True
    assert [EdgeF().score(*pair).item() for pair in [(none, none), (some, none), (none, some)]] == [1, 0, 0]


def blobs(seed: int, size: int = 24) -> np.ndarray:
    """Random thick shapes, some of them touching the border."""
    noise = torch.rand(1, 1, size // 4, size // 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(noise, (size, size), mode="bicubic")[0, 0] > 0.5).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_thinning_equals_scikit_image(seed):
    morphology = pytest.importorskip("skimage.morphology")
    mask = blobs(seed) if seed else np.ones((9, 12), bool)
    np.testing.assert_array_equal(thin(mask), morphology.thin(mask))


def test_a_thin_line_stays_and_an_empty_picture_too():
    diagonal = np.eye(8, dtype=bool)
    np.testing.assert_array_equal(thin(diagonal), diagonal)
    assert not thin(np.zeros((5, 5), bool)).any()
    one = np.zeros((5, 5), bool)
    one[0, 0] = True
    np.testing.assert_array_equal(thin(one), one)


@pytest.mark.parametrize("radius_px", [0, 1, 1.5, 3])
def test_matching_joins_as_many_pixels_as_the_hungarian_method(radius_px):
    found, true = RNG.random((2, 14, 14)) < 0.15
    a, b = np.argwhere(found), np.argwhere(true)
    far = np.linalg.norm(a[:, None] - b, axis=-1) > radius_px
    rows, columns = linear_sum_assignment(far.astype(float))
    hit, recalled = matched_pixels(found, true, radius_px)
    assert hit.sum() == recalled.sum() == (~far[rows, columns]).sum()
    assert not (hit & ~found).any() and not (recalled & ~true).any()


def lines(*columns: tuple[int, float], size: int = 40) -> torch.Tensor:
    """Vertical lines of given strengths, (1, size, size)."""
    picture = torch.zeros(1, size, size)
    for column, strength in columns:
        picture[:, :, column] = strength
    return picture


def test_a_line_within_the_tolerance_is_found_one_to_one():
    """0.0375 of the diagonal of 56.6 px is 2.1 px: a line 2 px off is found, 3 px off not, and two beside a true one
    do not both count."""
    truth = lines((10, 1)).bool()
    for column, wanted in ((12, 1), (13, 0)):
        assert EdgeODS(9, tolerance=0.0375).score(lines((column, 1)), truth).item() == wanted
    twice = EdgeODS(9, tolerance=0.0375).score(lines((9, 1), (11, 1)), truth).item()
    assert twice == pytest.approx(2 * 0.5 / 1.5)  # precision 1 / 2, recall 1


def test_every_drawing_counts_in_recall_and_any_in_precision():
    truth = torch.stack([lines((10, 1)), lines((30, 1))]).bool()
    metric = EdgeODS(1)
    metric.update(lines((10, 1)), truth)  # precision 1, recall 1 / 2
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_thick_lines_are_thinned_before_they_are_scored():
    thick = lines((9, 1), (10, 1), (11, 1))
    assert EdgeODS(1).score(thick, lines((10, 1)).bool()).item() > 0.95
    assert EdgeODS(1, thinning=False).score(thick, lines((10, 1)).bool()).item() == pytest.approx(2 / 4)


def test_ods_has_one_threshold_for_all_and_ois_one_for_each_picture():
    """The true line is 0.9 strong in one picture and 0.4 in the other, the false ones 0.6 and 0.1: no threshold suits
    both. At 0.25 precision is 2 / 3 and recall 1, at 0.75 precision is 1 and recall 1 / 2."""
    ods, ois = EdgeODS(3), EdgeOIS(3)
    for strength in (0.9, 0.4):
        for metric in (ods, ois):
            metric.update(lines((10, strength), (30, strength - 0.3)), lines((10, 1)).bool())
    assert ois.compute().item() == 1
    assert ods.compute().item() == pytest.approx(2 * (2 / 3) / (5 / 3))
    assert EdgeODS.higher_is_better and EdgeOIS.higher_is_better


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")  # the counts are set by hand
def test_ods_is_the_best_on_straight_lines_between_thresholds():
    """Precision and recall 1 / 2 and 1 at one threshold, 1 and 1 / 2 at the next: F is 2 / 3 at both, 3 / 4 between."""
    metric = EdgeODS(2)
    metric.pooled = torch.tensor([[1, 2, 2, 2], [2, 2, 1, 2]], dtype=torch.float64)
    assert metric.compute().item() == pytest.approx(0.75, abs=1e-4)  # 100 points between two thresholds


def test_no_prediction_and_no_drawing_score_nothing():
    nothing, line = lines(), lines((5, 1))
    for pair in ((nothing, line), (line, nothing), (nothing, nothing)):
        assert EdgeOIS(3).score(pair[0], pair[1].bool()) == 0
    with pytest.raises(ValueError, match=r"strengths must be in \[0, 1\]"):
        EdgeODS(3).update(255 * line, line.bool())


def slow_counts(strength, drawings, threshold, radius_px):
    """What is matched of one picture, by scikit-image's thinning, the Hungarian method and a loop over drawings."""
    morphology = pytest.importorskip("skimage.morphology")
    found = np.argwhere(morphology.thin(strength >= threshold))
    right, recalled = np.zeros(len(found), bool), 0
    for drawing in drawings:
        true = np.argwhere(drawing)
        far = np.linalg.norm(found[:, None] - true[None], axis=-1) > radius_px
        rows, columns = linear_sum_assignment(far.astype(float))
        matched = ~far[rows, columns]
        right[rows[matched]] = True
        recalled += matched.sum()
    return right, recalled, drawings.sum()


def slow_f(precision, recall):
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_ods_and_ois_equal_a_slow_benchmark_on_random_drawings():
    """Which predicted pixels are matched to one drawing is not unique, so that with several drawings their union is
    not either: one drawing a picture for both numbers, and recall alone for three."""
    thresholds, tolerance = (0.25, 0.5, 0.75), 0.1
    radius_px = tolerance * np.hypot(12, 14)
    ods, ois, counts, own = EdgeODS(3, tolerance), EdgeOIS(3, tolerance), np.zeros((3, 4)), np.zeros(4)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        strength, drawings = rng.random((12, 14)), rng.random((1, 12, 14)) < 0.1
        pair = torch.from_numpy(strength)[None], torch.from_numpy(drawings)[:, None]
        ods.update(*pair)
        ois.update(*pair)
        picture = []
        for threshold in thresholds:
            right, recalled, drawn = slow_counts(strength, drawings, threshold, radius_px)
            picture.append((right.sum(), len(right), recalled, drawn))
        counts += picture
        own += max(picture, key=lambda row: slow_f(row[0] / row[1], row[2] / row[3]))
        assert ods.score(*pair).item() == pytest.approx(max(slow_f(a / b, c / d) for a, b, c, d in picture), abs=1e-6)
        three = np.random.default_rng(seed + 9).random((3, 12, 14)) < 0.1
        found = ods.counts(pair[0], torch.from_numpy(three)[:, None])[:, 2:].numpy()
        wanted = [slow_counts(strength, three, threshold, radius_px)[1:] for threshold in thresholds]
        np.testing.assert_array_equal(found, wanted)
    precision, recall = counts[:, 0] / counts[:, 1], counts[:, 2] / counts[:, 3]
    best = max(
        slow_f((1 - w) * precision[i] + w * precision[i + 1], (1 - w) * recall[i] + w * recall[i + 1])
        for i in range(2)
        for w in np.linspace(0, 1, 100)
    )
    assert ods.compute().item() == pytest.approx(best, abs=1e-6)
    assert ois.compute().item() == pytest.approx(slow_f(own[0] / own[1], own[2] / own[3]), abs=1e-6)
