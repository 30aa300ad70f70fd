"""Depth, ids, shadows and normals of the scenes against a loop over pixels and against differences of depth."""

import numpy as np
import pytest
import torch

from lavin.data import scene_geometry as geometry
from lavin.data.scene_bounds import slope_range
from lavin.data.scene_layout import SLOTS
from lavin.data.scene_rendering import build, limits, pack, render
from lavin.data.scene_solids import CAPSULE, ELLIPSOID, KINDS, SOLIDS, SPHERE
from lavin.data.scenes import VOCABULARY, Scenes
from tests.data.reference import distances, enters, first_hit, solids_of

ROUND = {SPHERE, CAPSULE, ELLIPSOID}
"""Solids that their ellipsoids fit."""
LOOPED = (0, 5, 6, 8)
"""Scenes that a loop over pixels checks."""


@pytest.mark.parametrize(("people", "index"), [(False, index) for index in LOOPED] + [(True, 2), (True, 3)])
def test_depth_ids_and_shadows_equal_a_loop_over_pixels(people, index):
    """Every third pixel of every third row; with people the id is that of the limb. At most 1 % may differ, where a
    ray grazes an outline."""
    scenes = Scenes("validation", size=(40, 56), seed=5, people=people)
    layout = scenes.layout(index)
    world, look = build([layout], 1, torch.device("cpu"))
    rays, hits, *_ = render(world, look, scenes.size)
    dark = geometry.shadows(world, rays, hits).view(40, 56)
    depth, surface = hits.t.view(40, 56), hits.surface.view(40, 56)
    eye, turn = layout.camera_position[0], layout.camera_rotation[0]
    pixels = [(row, column) for row in range(1, 40, 3) for column in range(1, 56, 3)]
    wrong, wrong_dark, lit, limbs = 0, 0, 0, 0
    for row, column in pixels:
        direction = turn @ np.array([(column + 0.5 - 28) / layout.focal, (row + 0.5 - 20) / layout.focal, 1])
        t, expected = first_hit(layout, eye, direction)
        if surface[row, column] != expected:
            wrong += 1
            continue
        if not np.isfinite(t):
            assert depth[row, column].isinf()
            continue
        assert float(depth[row, column]) == pytest.approx(t, rel=2e-3)
        if expected >= layout.slots:
            shadow = np.isfinite(enters(layout, eye + t * direction, layout.light[0])).any()
            wrong_dark += shadow != bool(dark[row, column])
            lit += 1
        limbs += SLOTS <= expected < layout.slots
    assert wrong <= 0.01 * len(pixels)
    assert wrong_dark <= 0.01 * lit
    assert limbs > 10 or not people


def test_surfaces_of_the_loop_cover_what_scenes_are_made_of():
    """The scenes of the test above show all solids and all backgrounds, else it would prove little."""
    scenes = Scenes("validation", size=(40, 56), seed=5)
    kinds = {KINDS[kind] for index in LOOPED for kind in scenes.layout(index).kind}
    indoors = {bool(np.isfinite(scenes.layout(index).walls).all()) for index in LOOPED}
    assert len(kinds) == len(KINDS) and indoors == {True, False}


# -------------------------------------------------------------------------------------------------------------- normals


def normals_from_depth(depth: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Unit normals (height - 2, width - 2, 3), x right, y up, z to the viewer, by central differences of points."""
    height, width = depth.shape
    v, u = np.mgrid[0.5:height, 0.5:width]
    points = np.stack([(u - K[0, 2]) * depth / K[0, 0], -(v - K[1, 2]) * depth / K[1, 1], -depth], -1)
    along = points[1:-1, 2:] - points[1:-1, :-2]
    upwards = points[:-2, 1:-1] - points[2:, 1:-1]
    normal = np.cross(along, upwards)
    return normal / np.linalg.norm(normal, axis=-1, keepdims=True)


def test_normals_are_the_gradient_of_depth_on_planes():
    """Ground, walls and box faces are planes, on which central differences are exact."""
    checked = {"ground": 0, "wall": 0, "box": 0}
    for sample in Scenes(size=96, seed=5).samples(range(10)):
        depth, normals = sample.depth[0].double().numpy(), sample.normals[:, 0].permute(1, 2, 0).double().numpy()
        expected = normals_from_depth(depth, sample.K.double().numpy())
        found = normals[1:-1, 1:-1]
        flat = np.ones_like(expected[..., 0], dtype=bool)
        ids = sample.panoptic[0].numpy()
        for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
            beside = (slice(dy, dy + expected.shape[0]), slice(dx, dx + expected.shape[1]))
            flat &= (np.abs(normals[beside] - found).max(-1) < 1e-5) & (ids[beside] == ids[1:-1, 1:-1])
        for name in checked:
            here = flat & (sample.semantic[0].numpy()[1:-1, 1:-1] == VOCABULARY.classes.index(name))
            here &= depth[1:-1, 1:-1] < 20  # farther, float32 depth is too coarse to be differenced
            checked[name] += here.sum()
            angle = np.degrees(np.arccos(np.clip((expected * found).sum(-1)[here], -1, 1)))
            assert np.quantile(angle, 0.98, method="lower") < 0.5 if here.any() else True, name
    assert min(checked.values()) > 500


def test_sphere_normals_point_away_from_the_centre():
    scenes, seen = Scenes(size=64, seed=2), 0
    for index, sample in enumerate(scenes.samples(range(10))):
        layout = scenes.layout(index)
        for instance in sample.instances:
            if instance.class_name != "sphere":
                continue
            row, column = (axis.double() for axis in instance.mask[0].nonzero(as_tuple=True))
            z = sample.depth[0][instance.mask[0]].double()
            K = sample.K.double()
            ray = torch.stack([(column + 0.5 - K[0, 2]) / K[0, 0], (row + 0.5 - K[1, 2]) / K[1, 1], torch.ones_like(z)])
            turn = torch.from_numpy(layout.camera_rotation[0])
            centre = turn.T @ torch.from_numpy(layout.centre[0, instance.track_id] - layout.camera_position[0])
            away = (ray * z - centre[:, None]) / layout.size[instance.track_id, 0]
            expected = away * torch.tensor([[1.0], [-1.0], [-1.0]])
            torch.testing.assert_close(
                sample.normals[:, 0][:, instance.mask[0]].double(), expected, atol=1e-3, rtol=0, check_dtype=False
            )
            seen += 1
    assert seen >= 3


def test_normals_are_unit_face_the_viewer_and_know_up():
    sample = Scenes(size=64)[1]
    z = sample.normals.norm(dim=0)
    valid = sample.depth.isfinite()
    torch.testing.assert_close(z[valid], torch.ones_like(z[valid]), atol=1e-5, rtol=0)
    assert (z[~valid] == 0).all()
    ground = sample.semantic == VOCABULARY.classes.index("ground")
    assert (sample.normals[1][ground] > 0.5).all()


def test_normals_of_people_are_the_gradient_of_the_distance_to_their_limbs():
    """By central differences at the point that the depth map says; seams and grazing views are left out."""
    scenes, checked = Scenes(size=48, seed=4, people=True), 0
    for index in range(3):
        sample, layout = scenes[index], scenes.layout(index)
        K, turn = sample.K.double().numpy(), layout.camera_rotation[0]
        for instance in sample.instances:
            if instance.keypoints is None:
                continue
            parts = solids_of(layout, instance.track_id)
            for row, column in instance.mask[0].nonzero().tolist()[::5]:
                ray = turn @ np.linalg.inv(K) @ (column + 0.5, row + 0.5, 1)
                point = layout.camera_position[0] + float(sample.depth[0, row, column]) * ray
                away = np.abs(distances(layout, point, 0, parts))
                part = parts[[away.argmin()]]
                steps = 1e-6 * np.eye(3)
                rise = [distances(layout, point + h, 0, part) - distances(layout, point - h, 0, part) for h in steps]
                expected = turn.T @ (np.concatenate(rise) / 2e-6) * (1, -1, -1)
                if (away < 2e-3).sum() > 1 or expected[2] < 0.2:
                    continue
                found = sample.normals[:, 0, row, column].double().numpy()
                assert found @ expected / np.linalg.norm(expected) > 0.999
                checked += 1
    assert checked > 60


def _points_on(rng: np.random.Generator, kind: str, size: np.ndarray) -> np.ndarray:
    """Points all over a solid's surface or inside it, (4000, 3) in its own frame."""
    towards = rng.standard_normal((4000, 3))
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    if kind == "capsule":
        return size[0] * towards + rng.choice((-1, 0.3, 1), (4000, 1)) * (0, 1, 0) * size[1]
    if kind in ("sphere", "ellipsoid"):
        return towards * (size if kind == "ellipsoid" else size[0])
    if kind == "box":
        return size * rng.choice((-1, 0.4, 1), (4000, 3))
    level = rng.uniform(-1, 1, 4000)
    if kind == "torus":
        ring, tube = towards[:, [0, 2]] / np.linalg.norm(towards[:, [0, 2]], axis=1, keepdims=True), np.pi * level
        across = ring * (size[0] + size[1] * np.cos(tube))[:, None]
        return np.stack([across[:, 0], size[1] * np.sin(tube), across[:, 1]], -1)
    wide = size[0] * (1 if kind == "cylinder" else (1 - level) / 2)
    angle = rng.uniform(-np.pi, np.pi, 4000)
    return np.stack([wide * np.cos(angle), size[1] * level, wide * np.sin(angle)], -1)


@pytest.mark.parametrize("people", [False, True])
def test_bounds_of_solids_hold_them_and_no_more(people):
    """Points all over each solid lie in the rectangles of its pieces, seen by the camera and by the light, and grids
    over these rectangles name the solid at these points."""
    rng, scenes = np.random.default_rng(0), Scenes(frames=2, seed=4, people=people)
    looseness, kinds = [], set()
    for index in range(6 if people else 12):
        layout = scenes.layout(index)
        tables = pack([layout], 2)
        bounds, (world, _) = limits(*tables[:3]), build([layout], 2, torch.device("cpu"))
        slots, kind, size, centre, rotation = layout.solids()
        for solid, slot in enumerate(slots):
            points = _points_on(rng, SOLIDS[kind[solid]], size[solid]) @ rotation[1, solid].T + centre[1, solid]
            seen = (points - layout.camera_position[1]) @ layout.camera_rotation[1]
            if seen[:, 2].min() < 0.05:
                continue
            across = points @ layout.light[[1, 2, 0]].T
            assert (across[:, 2] < bounds.top[1, slot]).all()
            ways = (bounds.seen, seen[:, :2] / seen[:, 2:], world.seen), (bounds.shade, across[:, :2], world.shade)
            for (low, high), values, grid in ways:
                low, high = low[:, :, 1, slot], high[:, :, 1, slot]
                in_piece = (values.T[:, None] > low[..., None]) & (values.T[:, None] < high[..., None])
                assert in_piece.all(0).any(0).all()
                place = torch.from_numpy(values.T).float()
                named, point = grid.candidates(
                    torch.ones(4000, dtype=torch.long), *(x[:, 1:] for x in grid.frame), place
                )
                assert len(set(point[named == slot].tolist())) == 4000
                if kind[solid] in ROUND:
                    looseness.append(((high.max(1) - low.min(1)) / np.ptp(values, axis=0)).max())
            kinds.add(kind[solid])
    assert len(looseness) > (200 if people else 10) and np.median(looseness) < 1.05 and max(looseness) < 1.3
    assert kinds >= (ROUND if people else set(range(len(KINDS))))


def test_grids_leave_most_cells_and_most_solids_out():
    """Solids that a cell names are few, else a grid would be of no use."""
    scenes = Scenes(seed=4, people=True)
    world, _ = build([scenes.layout(index) for index in range(8)], 1, torch.device("cpu"))
    for grid in (world.seen, world.shade):
        assert grid.count.double().mean() < 3 and grid.count.max() <= world.slots


def test_ellipsoids_seen_from_within_or_behind_are_bounded_by_all_or_nothing():
    centre, matrix = np.array([[[[0.0, 0.0, z]]] for z in (3.0, 0.1, -3.0)]), np.eye(3)[None, None] * 0.25
    low, high = zip(*(slope_range(place, matrix, 0) for place in centre), strict=True)
    half = np.tan(np.arcsin(0.5 / 3))
    np.testing.assert_allclose(np.ravel([low[0], high[0]]), [-half, half])
    assert low[1] == -np.inf and high[1] == np.inf and low[2] == np.inf and high[2] == -np.inf
