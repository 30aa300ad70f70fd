"""Entries, normals and extents of the scenes' solids against sampling and differences."""

import numpy as np
import pytest
import torch

from lavin.data import scene_solids as solids
from lavin.data.scene_solids import SOLIDS
from tests.data.reference import first_inside, outside_by


def example_size(kind: str) -> np.ndarray:
    return {
        "sphere": np.array([0.5, 0.5, 0.5]),
        "box": np.array([0.4, 0.7, 0.3]),
        "cylinder": np.array([0.4, 0.6, 0.5]),
        "cone": np.array([0.5, 0.7, 0.5]),
        "capsule": np.array([0.3, 0.4, 0.5]),
        "ellipsoid": np.array([0.3, 0.6, 0.4]),
        "torus": np.array([0.6, 0.2, 0.5]),
    }[kind]


@pytest.mark.parametrize("kind", SOLIDS)
def test_rays_enter_solids_where_sampling_finds_the_inside(kind):
    """600 random rays; those that graze closer than 1e-4 m are left out, since the sampling may miss them."""
    rng, size = np.random.default_rng(1), example_size(kind)
    o = rng.standard_normal((600, 3))
    o *= 4 / np.linalg.norm(o, axis=1, keepdims=True)
    d = (rng.uniform(-0.8, 0.8, (600, 3)) - o) * rng.uniform(0.2, 3, (600, 1))
    columns = torch.from_numpy(np.repeat(size[:, None], 600, 1)).float()
    found = solids.intersect(SOLIDS.index(kind), torch.from_numpy(o.T).float(), torch.from_numpy(d.T).float(), columns)
    expected = np.array([first_inside(kind, *ray, size) for ray in zip(o, d, strict=True)])
    clear = np.abs(expected[:, 1]) > 1e-4
    assert clear.mean() > 0.9 and 100 < np.isfinite(expected[clear, 0]).sum() < 500
    # float32 at 4 m from a solid of 0.5 m: 1e-5 in t; grazing rays amplify it
    np.testing.assert_allclose(found.numpy()[clear], expected[clear, 0], rtol=1e-3)
    hit = clear & np.isfinite(expected[:, 0])
    assert np.median(np.abs(found.numpy()[hit] / expected[hit, 0] - 1)) < 1e-5


@pytest.mark.parametrize("kind", SOLIDS)
def test_normals_are_the_gradient_of_the_distance(kind):
    rng, size = np.random.default_rng(2), example_size(kind)
    points = []
    while len(points) < 60:
        o = 4 * rng.standard_normal(3)
        d = rng.uniform(-0.4, 0.4, 3) - o
        t, depth = first_inside(kind, o, d, size)
        if np.isfinite(t) and depth < -0.02 and np.linalg.norm(o) > 2:
            points.append(o + t * d)
    points, step = np.array(points), 1e-6
    steps = step * np.eye(3)
    rise = [outside_by(kind, points + step, size) - outside_by(kind, points - step, size) for step in steps]
    gradient = np.stack(rise) / (2 * step)
    columns = torch.from_numpy(np.repeat(size[:, None], len(points), 1)).float()
    normal = solids.normal_at(SOLIDS.index(kind), torch.from_numpy(points.T).float(), columns).numpy()
    near_edge = np.abs(np.linalg.norm(gradient, axis=0) - 1) > 1e-3  # the difference straddles two faces
    assert near_edge.mean() < 0.1
    np.testing.assert_allclose(normal[:, ~near_edge], gradient[:, ~near_edge], atol=1e-3)


@pytest.mark.parametrize("kind", SOLIDS)
def test_reach_and_bounding_radius_hold_the_solid(kind):
    """Random points inside stay within both, and both are touched: no slack that would make standing objects float."""
    rng, size, number = np.random.default_rng(3), example_size(kind), SOLIDS.index(kind)
    points = rng.uniform(-1.2, 1.2, (40000, 3))
    points[:400, [0, 2]] = 0  # chance alone would leave a cone's apex out
    points = points[outside_by(kind, points, size) < 0]
    assert np.linalg.norm(points, axis=1).max() <= solids.bounding_radius(number, size)
    for direction in rng.standard_normal((10, 3)):
        direction /= np.linalg.norm(direction)
        furthest, reach = (points @ direction).max(), solids.reach(number, size, direction)
        assert furthest <= reach < furthest + 0.12
