"""Scenes' labels against slow, independent arithmetic: float64, pixel by pixel, solids as "is this point inside?"."""

import dataclasses

import numpy as np
import pytest
import torch

from lavin.data import scene_geometry as geometry
from lavin.data import scenes as scenes_module
from lavin.data.scene_geometry import GROUND, KINDS
from lavin.data.scenes import SLOTS, VOCABULARY, Scenes, build, render

TENSORS = ("clip", "semantic", "panoptic", "depth", "normals", "flow", "K", "pose")


# ------------------------------------------------------------------------------------------------- independent geometry


def outside_by(kind: str, p: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Negative inside the solid, positive outside, metres near the surface: (..., 3) -> (...)."""
    a, b, _ = size
    x, y, z = np.moveaxis(p, -1, 0)
    around = np.hypot(x, z)
    if kind == "sphere":
        return np.linalg.norm(p, axis=-1) - a
    if kind == "box":
        return (np.abs(p) - size).max(-1)
    if kind == "cylinder":
        return np.maximum(around - a, np.abs(y) - b)
    if kind == "cone":
        slope = np.arctan2(a, 2 * b)
        return np.maximum((around - a * (b - y) / (2 * b)) * np.cos(slope), -b - y)
    if kind == "capsule":
        return np.hypot(around, y - np.clip(y, -b, b)) - a
    return np.hypot(around - a, y) - b


def first_inside(kind: str, o: np.ndarray, d: np.ndarray, size: np.ndarray, steps: int = 500) -> tuple[float, float]:
    """Ray parameter of the entry (infinite for a miss) by sampling and bisection, and how deep the samples get."""
    middle, span = -(o @ d) / (d @ d), size.sum() / np.linalg.norm(d)
    t = np.linspace(max(middle - span, 0), max(middle + span, 0), steps)
    away = outside_by(kind, o + t[:, None] * d, size)
    if (away >= 0).all():
        return np.inf, away.min()
    last = (away < 0).argmax()
    low, high = t[last - 1], t[last]
    for _ in range(40):
        half = (low + high) / 2
        low, high = (low, half) if outside_by(kind, o + half * d, size) < 0 else (half, high)
    return high, away.min()


def example_size(kind: str) -> np.ndarray:
    return {
        "sphere": np.array([0.5, 0.5, 0.5]),
        "box": np.array([0.4, 0.7, 0.3]),
        "cylinder": np.array([0.4, 0.6, 0.5]),
        "cone": np.array([0.5, 0.7, 0.5]),
        "capsule": np.array([0.3, 0.4, 0.5]),
        "torus": np.array([0.6, 0.2, 0.5]),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rays_enter_solids_where_sampling_finds_the_inside(kind):
    """600 random rays; those that graze closer than 1e-4 m are left out, since the sampling may miss them."""
    rng, size = np.random.default_rng(1), example_size(kind)
    o = rng.standard_normal((600, 3))
    o *= 4 / np.linalg.norm(o, axis=1, keepdims=True)
    d = (rng.uniform(-0.8, 0.8, (600, 3)) - o) * rng.uniform(0.2, 3, (600, 1))
    columns = torch.from_numpy(np.repeat(size[:, None], 600, 1)).float()
    found = geometry.intersect(KINDS.index(kind), torch.from_numpy(o.T).float(), torch.from_numpy(d.T).float(), columns)
    expected = np.array([first_inside(kind, *ray, size) for ray in zip(o, d, strict=True)])
    clear = np.abs(expected[:, 1]) > 1e-4
    assert clear.mean() > 0.9 and 100 < np.isfinite(expected[clear, 0]).sum() < 500
    # float32 at 4 m from a solid of 0.5 m: 1e-5 in t; grazing rays amplify it
    np.testing.assert_allclose(found.numpy()[clear], expected[clear, 0], rtol=1e-3)
    hit = clear & np.isfinite(expected[:, 0])
    assert np.median(np.abs(found.numpy()[hit] / expected[hit, 0] - 1)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
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
    normal = geometry.normal_at(KINDS.index(kind), torch.from_numpy(points.T).float(), columns).numpy()
    near_edge = np.abs(np.linalg.norm(gradient, axis=0) - 1) > 1e-3  # the difference straddles two faces
    assert near_edge.mean() < 0.1
    np.testing.assert_allclose(normal[:, ~near_edge], gradient[:, ~near_edge], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_reach_and_bounding_radius_hold_the_solid(kind):
    """Random points inside stay within both, and both are touched: no slack that would make standing objects float."""
    rng, size, number = np.random.default_rng(3), example_size(kind), KINDS.index(kind)
    points = rng.uniform(-1.2, 1.2, (40000, 3))
    points[:400, [0, 2]] = 0  # chance alone would leave a cone's apex out
    points = points[outside_by(kind, points, size) < 0]
    assert np.linalg.norm(points, axis=1).max() <= geometry.bounding_radius(number, size)
    for direction in rng.standard_normal((10, 3)):
        direction /= np.linalg.norm(direction)
        furthest, reach = (points @ direction).max(), geometry.reach(number, size, direction)
        assert furthest <= reach < furthest + 0.12


def slow_pixel(layout, eye, direction) -> tuple[float, int]:
    """First hit of one ray: (t, surface)."""
    t, surface = np.inf, SLOTS + geometry.SKY
    if direction[1] < 0 and -eye[1] / direction[1] < geometry.FAR_M:
        t, surface = -eye[1] / direction[1], SLOTS + GROUND
    for axis, wall, which in ((0, layout.walls[0], geometry.WALL_X), (2, layout.walls[1], geometry.WALL_Z)):
        if direction[axis] < 0 and np.isfinite(wall) and (-wall - eye[axis]) / direction[axis] < t:
            t, surface = (-wall - eye[axis]) / direction[axis], SLOTS + which
    for slot, kind in enumerate(layout.kind):
        turn = layout.rotation[0, slot]
        o, d = (eye - layout.centre[0, slot]) @ turn, direction @ turn
        there, _ = first_inside(KINDS[kind], o, d, layout.size[slot], steps=160)
        if there < t:
            t, surface = there, slot
    return t, surface


LOOPED = (0, 5, 6, 8)
"""Scenes that a loop over pixels checks."""


@pytest.mark.parametrize("index", LOOPED)
def test_depth_ids_and_shadows_equal_a_loop_over_pixels(index):
    """Every third pixel of every third row; at most 1 % may differ, where a ray grazes an outline."""
    scenes = Scenes("validation", size=(40, 56), seed=5)
    layout = scenes.layout(index)
    world, look = build([layout], 1, torch.device("cpu"))
    rays, hits, _ = render(world, look, scenes.size)
    dark = geometry.shadows(world, rays, hits).view(40, 56)
    depth, surface = hits.t.view(40, 56), hits.surface.view(40, 56)
    eye, turn = layout.camera_position[0], layout.camera_rotation[0]
    pixels = [(row, column) for row in range(1, 40, 3) for column in range(1, 56, 3)]
    wrong, wrong_dark, lit = 0, 0, 0
    for row, column in pixels:
        direction = turn @ np.array([(column + 0.5 - 28) / layout.focal, (row + 0.5 - 20) / layout.focal, 1])
        t, expected = slow_pixel(layout, eye, direction)
        if surface[row, column] != expected:
            wrong += 1
            continue
        if not np.isfinite(t):
            assert depth[row, column].isinf()
            continue
        assert float(depth[row, column]) == pytest.approx(t, rel=2e-3)
        point = eye + t * direction
        if expected >= SLOTS:
            shadow = any(
                np.isfinite(
                    first_inside(KINDS[kind], (point - centre) @ turned, layout.light[0] @ turned, size, 160)[0]
                )
                for kind, centre, turned, size in zip(
                    layout.kind, layout.centre[0], layout.rotation[0], layout.size, strict=True
                )
            )
            wrong_dark += shadow != bool(dark[row, column])
            lit += 1
    assert wrong <= 0.01 * len(pixels)
    assert wrong_dark <= 0.01 * lit


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


# ----------------------------------------------------------------------------------------------------------------- flow


def test_flow_is_where_the_points_go():
    """Each pixel's point, carried by its object and seen by the next camera, lies at pixel + flow (float64 loop)."""
    scenes = Scenes("train", size=(36, 48), frames=3, seed=8)
    moved = sky_pixels = 0
    for index in range(6):
        sample, layout = scenes[index], scenes.layout(index)
        K = sample.K.double().numpy()
        for frame in range(3):
            for row in range(1, 36, 4):
                for column in range(2, 48, 5):
                    z = float(sample.depth[frame, row, column])
                    sky = np.isnan(z)
                    sky_pixels += sky
                    ray = np.linalg.inv(K) @ (column + 0.5, row + 0.5, 1)
                    pose, later = np.eye(4), np.eye(4)
                    for matrix, when in ((pose, frame), (later, frame + 1)):
                        matrix[:3, :3], matrix[:3, 3] = layout.camera_rotation[when], layout.camera_position[when]
                    point = pose @ np.append(ray * (1 if sky else z), 0 if sky else 1)
                    owner = int(sample.panoptic[frame, row, column])
                    if owner:
                        slot = sample.instances[owner - 1].track_id
                        before, after = np.eye(4), np.eye(4)
                        for matrix, when in ((before, frame), (after, frame + 1)):
                            matrix[:3, :3], matrix[:3, 3] = layout.rotation[when, slot], layout.centre[when, slot]
                        point = after @ np.linalg.inv(before) @ point
                        moved += np.abs(after - before).max() > 1e-3
                    elif sample.semantic[frame, row, column] < len(KINDS):
                        continue  # an object too small to be an instance
                    seen = K @ (np.linalg.inv(later) @ point)[:3]
                    expected = seen[:2] / seen[2] - (column + 0.5, row + 0.5)
                    np.testing.assert_allclose(sample.flow[:, frame, row, column].numpy(), expected, atol=3e-3)
    assert moved > 50 and sky_pixels > 20


def test_flow_leads_to_the_same_object_in_the_next_frame():
    """Follow the flow of pixels well inside objects: 95 % arrive on the same object; the rest is occluded there."""
    arrived = total = 0
    for sample in Scenes(size=48, frames=4, seed=1).samples(range(6)):
        for instance in sample.instances:
            for frame in range(3):
                mask = instance.mask[frame]
                inner = -torch.nn.functional.max_pool2d(-mask[None, None].float(), 5, 1, 2)[0, 0] > 0
                row, column = inner.nonzero(as_tuple=True)
                u, v = sample.flow[:, frame, row, column]
                column, row = (column + u).round().long(), (row + v).round().long()
                kept = (row >= 0) & (row < 48) & (column >= 0) & (column < 48)
                arrived += int(instance.mask[frame + 1][row[kept], column[kept]].sum())
                total += int(kept.sum())
    assert total > 1000 and arrived > 0.95 * total


# -------------------------------------------------------------------------------------------------------------- records


def same(a, b) -> bool:
    """Equal to the bit, NaN included."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    return a == b


@pytest.mark.parametrize("frames", [1, 3])
def test_a_scene_does_not_depend_on_its_batch(frames, monkeypatch):
    scenes = Scenes(size=(24, 40), frames=frames, seed=9)
    monkeypatch.setattr(scenes_module, "RAYS_AT_ONCE", 4 * 24 * 40 * frames)  # two passes, one of them not full
    batch = scenes.samples([3, 1, 4, 1, 5, 9])
    for sample, index in zip(batch, [3, 1, 4, 1, 5, 9], strict=True):
        alone = Scenes(size=(24, 40), frames=frames, seed=9)[index]
        assert sample.id == alone.id
        assert all(same(getattr(sample, name), getattr(alone, name)) for name in TENSORS)
        assert len(sample.instances) == len(alone.instances)
        for one, other in zip(sample.instances, alone.instances, strict=True):
            names = [field.name for field in dataclasses.fields(one)]
            assert all(same(getattr(one, name), getattr(other, name)) for name in names)


def test_a_clip_starts_with_the_picture_of_its_index():
    picture, clip = Scenes(size=32)[6], Scenes(size=32, frames=3)[6]
    assert torch.equal(picture.clip[0], clip.clip[0]) and torch.equal(picture.panoptic[0], clip.panoptic[0])
    assert not torch.equal(clip.clip[0], clip.clip[2])
    assert picture.flow is None and picture.fps is None and clip.fps > 0


def test_splits_never_meet():
    """No layout of one split occurs in the other, under equal or different seeds, nor twice in one split."""
    keys = []
    for split in ("train", "validation"):
        for seed in range(4):
            scenes = Scenes(split, seed=seed)
            keys += [scenes.layout(index).camera_position.tobytes() for index in range(10)]
    assert len(set(keys)) == 80
    assert Scenes(seed=2).layout(7).camera_position.tobytes() in keys


def test_an_unknown_split_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'test'.*train, validation"):
        Scenes("test")


@pytest.fixture(scope="module")
def many():
    return Scenes(size=64, seed=3).samples(range(60))


def test_masks_boxes_and_id_maps_agree(many):
    for sample in many + Scenes(size=32, frames=3, seed=3).samples(range(4)):
        painted = torch.zeros(sample.size, dtype=torch.int32)
        for number, instance in enumerate(sample.instances, 1):
            assert instance.class_name == VOCABULARY.classes[instance.class_id]
            assert instance.class_name in VOCABULARY.things and instance.colour in VOCABULARY.colours
            assert (sample.semantic[instance.mask] == instance.class_id).all()
            assert instance.mask.flatten(1).float().mean(1).max() >= 0.004
            painted[instance.mask] = number
            for mask, box in zip(instance.mask, instance.box, strict=True):
                row, column = mask.nonzero(as_tuple=True)
                if not len(row):
                    assert box.isnan().all()
                    continue
                extent = [column.min(), row.min(), column.max() + 1, row.max() + 1]
                assert box.tolist() == [float(side) for side in extent]
        assert torch.equal(painted, sample.panoptic)
        assert sample.semantic.max() < len(VOCABULARY.classes)
        stuff = sample.semantic >= len(VOCABULARY.things)
        assert not (stuff & (sample.panoptic > 0)).any()
        assert torch.equal(sample.depth.isnan(), sample.semantic == VOCABULARY.classes.index("sky"))
        assert (sample.depth[~sample.depth.isnan()] > 0).all()


def test_named_colours_are_seen(many):
    """The mean picture colour of an instance is nearer in hue to its own name than to the others, nine times in ten."""
    named = torch.tensor(list(scenes_module.COLOURS.values()))

    def chroma(colour):
        return torch.nn.functional.normalize(colour - 0.7 * colour.min(-1, keepdim=True).values, dim=-1)

    right = total = 0
    for sample in many:
        for instance in sample.instances:
            colour = sample.clip[instance.mask].float().mean(0) / 255
            nearest = int((chroma(named) - chroma(colour)).norm(dim=-1).argmin())
            right += VOCABULARY.colours[nearest] == instance.colour
            total += 1
    assert right > 0.9 * total


def refers_to(text: str, instances, width: int) -> list[int]:
    """Which instances a text describes, from masks, names and distances alone; comparisons without a margin."""
    _, first, noun = text.split() if len(text.split()) == 3 else ("the", None, text.split()[1])
    group = [i for i, instance in enumerate(instances) if noun in ("object", instance.class_name)]
    if first is None:
        return group
    if first in VOCABULARY.colours:
        return [i for i in group if instances[i].colour == first]
    measure = {
        "leftmost": lambda i: i.mask[0].nonzero()[:, 1].float().mean(),
        "rightmost": lambda i: -i.mask[0].nonzero()[:, 1].float().mean(),
        "largest": lambda i: -i.mask[0].sum(),
        "smallest": lambda i: i.mask[0].sum(),
        "nearest": lambda i: i.distance_m,
        "farthest": lambda i: -i.distance_m,
    }[first]
    values = [float(measure(instances[i])) for i in group]
    return [i for i, value in zip(group, values, strict=True) if value == min(values)]


def test_every_expression_is_true_of_one_object_alone(many):
    kinds = set()
    for sample in many:
        for number, instance in enumerate(sample.instances):
            for text in instance.expressions:
                assert refers_to(text, sample.instances, 64) == [number], text
                kinds.add(text.split()[1])
    comparisons = {"leftmost", "rightmost", "largest", "smallest", "nearest", "farthest"}
    assert kinds >= comparisons | set(VOCABULARY.colours) | set(VOCABULARY.things)


def test_comparisons_need_a_margin_and_count_objects_too_small_to_be_instances():
    def seen(slot, name, colour, area, x, distance):
        return scenes_module.Seen(slot, name, colour, area, x, distance)

    texts = scenes_module.expressions(
        [seen(0, "box", "red", 100, 0.20, 3.0), seen(1, "box", "red", 90, 0.25, 4.0), seen(2, "cone", "red", 3, 0.9, 9)]
    )
    assert texts[0] == ["the nearest box", "the nearest object"]  # 100 and 90 pixels, 0.20 and 0.25: too close to call
    assert "the red cone" in texts[2] and "the smallest object" in texts[2] and "the rightmost object" in texts[2]


def test_layouts_are_physical():
    """At all times of a clip: nothing below ground or behind walls, no two solids and no camera in one place, light
    from above and on the bright side of walls; and most solids stand, to the millimetre, on the ground."""
    scenes, standing = Scenes(frames=8, seed=7), []
    for index in range(60):
        layout = scenes.layout(index)
        radius = [geometry.bounding_radius(k, size) for k, size in zip(layout.kind, layout.size, strict=True)]
        light = layout.light
        np.testing.assert_allclose(light @ light.T, np.eye(3), atol=1e-12)
        assert light[0, 1] > 0.5 and (np.isinf(layout.walls).all() or light[0].min() > 0)
        for pose in range(9):
            centre, turn = layout.centre[pose], layout.rotation[pose]
            np.testing.assert_allclose(turn @ turn.swapaxes(1, 2), np.broadcast_to(np.eye(3), turn.shape), atol=1e-12)
            for slot, (kind, size) in enumerate(zip(layout.kind, layout.size, strict=True)):
                lowest = centre[slot, 1] - geometry.reach(kind, size, -turn[slot, 1])
                assert lowest > -1e-9
                standing.append(lowest < 1e-3)
                assert (centre[slot, [0, 2]] - radius[slot] > -layout.walls - 1e-9).all()
                assert np.linalg.norm(layout.camera_position[pose] - centre[slot]) > radius[slot]
                for other in range(slot):
                    apart = np.linalg.norm((centre[slot] - centre[other])[[0, 2]])
                    assert apart > 0.999 * (radius[slot] + radius[other])
    assert 0.5 < np.mean(standing) < 0.95


def test_composition_is_varied_and_objects_are_large(many):
    """Shares of class and colour between objects are common but not universal; areas suit 64 pixels."""
    numbers = [len(sample.instances) for sample in many]
    assert min(numbers) >= 1 and max(numbers) == SLOTS and np.mean(numbers) > 2.5
    areas = np.array([float(instance.mask.float().mean()) for sample in many for instance in sample.instances])
    assert 0.03 < np.median(areas) < 0.12 and (areas > 0.02).mean() > 0.75
    for name in ("class_name", "colour"):
        values = [[getattr(instance, name) for instance in sample.instances] for sample in many]
        shared = np.mean([len(set(group)) < len(group) for group in values])
        alike = np.mean([len(set(group)) == 1 for group in values])
        assert 0.4 < shared < 0.95 and alike < 0.2
    indoors = np.mean([bool((sample.semantic == VOCABULARY.classes.index("wall")).any()) for sample in many])
    assert 0.3 < indoors < 0.7


def test_pictures_are_antialiased():
    """A 48-pixel picture is close to the 192-pixel one averaged over 4 x 4 pixels: edges and textures are filtered."""
    small, large = Scenes(size=48, seed=6).samples(range(8)), Scenes(size=192, seed=6).samples(range(8))
    for coarse, fine in zip(small, large, strict=True):
        averaged = torch.nn.functional.avg_pool2d(fine.clip.permute(0, 3, 1, 2).float(), 4)
        error = (coarse.clip.permute(0, 3, 1, 2).float() - averaged).square().mean().sqrt()
        assert 20 * torch.log10(255 / error) > 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_sees_the_same_scene():
    for here, there in zip(Scenes().samples(range(8)), Scenes(device="cuda").samples(range(8)), strict=True):
        assert (here.panoptic != there.panoptic.cpu()).float().mean() < 1e-3
        assert (here.clip.int() - there.clip.cpu().int()).abs().float().mean() < 0.1
