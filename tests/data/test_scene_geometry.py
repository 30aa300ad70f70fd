"""Depth, ids, shadows and normals of the scenes against a loop over pixels and against differences of depth."""

import numpy as np
import pytest
import torch

from lavin.data import scene_geometry as geometry
from lavin.data.scene_bounds import part_bounds, slope_range
from lavin.data.scene_layout import SLOTS
from lavin.data.scene_rendering import build, render
from lavin.data.scene_solids import KINDS, SOLIDS
from lavin.data.scenes import VOCABULARY, Scenes
from tests.data.reference import distances, enters, first_hit, solids_of

LOOPED = (0, 5, 6, 8)
"""Scenes that a loop over pixels checks."""


@pytest.mark.parametrize(("people", "index"), [(False, index) for index in LOOPED] + [(True, 2), (True, 3)])
def test_depth_ids_and_shadows_equal_a_loop_over_pixels(people, index):
    """Every third pixel of every third row; with people the id is that of the limb. At most 1 % may differ, where a
    ray grazes an outline."""
    scenes = Scenes("validation", size=(40, 56), seed=5, people=people)
    layout = scenes.layout(index)
    world, look = build([layout], 1, torch.device("cpu"))
    rays, hits, _ = render(world, look, scenes.size)
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


def test_bounds_of_limbs_hold_them_and_no_more():
    """Points all over each limb, seen by the camera and by the light, fill the rectangles that rays are tried in."""
    rng, scenes = np.random.default_rng(0), Scenes(frames=2, seed=4, people=True)
    looseness = []
    for index in range(6):
        layout = scenes.layout(index)
        bounds = part_bounds(layout, 2).astype(float)
        parts = np.concatenate([solids_of(layout, SLOTS + number) for number in range(len(layout.people))])
        _, kind, size, centre, rotation = layout.solids()
        for column, solid in enumerate(parts):
            towards = rng.standard_normal((4000, 3))
            towards /= np.linalg.norm(towards, axis=1, keepdims=True)
            if SOLIDS[kind[solid]] == "capsule":
                points = size[solid, 0] * towards + np.sign(towards[:, 1:2]) * (0, 1, 0) * size[solid, 1]
            else:
                points = towards * (size[solid] if SOLIDS[kind[solid]] == "ellipsoid" else size[solid, 0])
            points = points @ rotation[1, solid].T + centre[1, solid]
            seen = (points - layout.camera_position[1]) @ layout.camera_rotation[1]
            if seen[:, 2].min() < 0.05:
                continue
            across = points @ layout.light[[1, 2, 0]].T
            values = np.concatenate([seen[:, :2] / seen[:, 2:], across], 1)
            low = np.concatenate([bounds[[0, 1, 4, 5], column, 1], [-np.inf]])
            high = bounds[[2, 3, 6, 7, 8], column, 1]
            assert (values > low).all() and (values < high).all()
            looseness.append(((high - low)[:4] / np.ptp(values[:, :4], axis=0)).max())
    assert len(looseness) > 100 and np.median(looseness) < 1.05 and max(looseness) < 1.3


def test_ellipsoids_seen_from_within_or_behind_are_bounded_by_all_or_nothing():
    centre, matrix = np.array([[[[0.0, 0.0, z]]] * 2 for z in (3.0, 0.1, -3.0)]), np.eye(3)[None, None] * 0.25
    low, high = zip(*(slope_range(place, matrix, 0) for place in centre), strict=True)
    half = np.tan(np.arcsin(0.5 / 3))
    np.testing.assert_allclose([low[0][0], high[0][0]], [-half, half])
    assert low[1] == -np.inf and high[1] == np.inf and low[2] == np.inf and high[2] == -np.inf
