"""People of the scenes: keypoints by hand, visibility by a ray of float64, bodies that obey their joints."""

import numpy as np
import pytest
import torch

from lavin.data.scene_appearance import COLOURS
from lavin.data.scene_layout import PEOPLE, SLOTS
from lavin.data.scene_people import (
    ACTIONS,
    ANGLES,
    KEYPOINTS,
    LIMITS_DEG,
    PARTS,
    draw_pose,
    part_radii,
    pose_person,
    reach_down,
)
from lavin.data.scene_solids import SOLIDS, bounding_radius, reach
from lavin.data.scenes import Scenes
from tests.data.reference import distances, enters, solids_of

JOINTS = {name: i for i, name in enumerate(KEYPOINTS)}

# ------------------------------------------------------------------------------------------------------------ keypoints


@pytest.fixture(scope="module")
def clips():
    scenes = Scenes("validation", size=(60, 80), frames=3, seed=5, people=True)
    return [(scenes.layout(index), sample) for index, sample in enumerate(scenes.samples(range(10)))]


def test_keypoints_are_where_the_camera_sees_the_joints(clips):
    """x, y by the pinhole formula, one joint at a time; outside the picture all three numbers are 0."""
    inside = outside = 0
    for layout, sample in clips:
        focal, (cx, cy) = float(sample.K[0, 0]), sample.K[:2, 2].tolist()
        for instance in sample.instances:
            if instance.class_name != "person":
                assert instance.keypoints is None
                continue
            assert instance.keypoints.shape == (3, 17, 3)
            for frame, joint in np.ndindex(3, 17):
                world = layout.people[instance.track_id - SLOTS].joints[frame, joint]
                right, down, forward = layout.camera_rotation[frame].T @ (world - layout.camera_position[frame])
                x, y = focal * right / forward + cx, focal * down / forward + cy
                found = instance.keypoints[frame, joint].tolist()
                if forward > 0 and 0 <= x < 80 and 0 <= y < 60:
                    assert found[:2] == pytest.approx([x, y], abs=1e-3) and found[2] in (1, 2)
                    inside += 1
                else:
                    assert found == [0, 0, 0]
                    outside += 1
    assert inside > 300 and outside > 30


NEIGHBOURS = {
    "nose": "head", "eye": "head", "ear": "head", "shoulder": "chest SIDE_arm", "elbow": "SIDE_arm SIDE_forearm",
    "wrist": "SIDE_arm SIDE_forearm", "hip": "chest pelvis SIDE_thigh", "knee": "SIDE_thigh SIDE_shin",
    "ankle": "SIDE_shin SIDE_foot",
}  # fmt: skip
"""Bones whose flesh hides no joint between them."""


def test_visibility_is_that_of_a_ray_to_the_joint(clips):
    """A joint is hidden by whatever is entered before it, but for the limbs that meet in it, which must be thick."""
    counts = {1: 0, 2: 0}
    for layout, sample in clips:
        for instance in sample.instances:
            if instance.keypoints is None:
                continue
            person, own = layout.people[instance.track_id - SLOTS], solids_of(layout, instance.track_id)
            for joint, (_, _, v) in enumerate(instance.keypoints[1].tolist()):
                if not v:
                    continue
                side, _, name = list(KEYPOINTS)[joint].rpartition("_")
                bones = NEIGHBOURS[name].replace("SIDE", side).split()
                around = own[[part[0] in bones for part in PARTS]]
                eye = layout.camera_position[1]
                towards = person.joints[1, joint] - eye
                length = np.linalg.norm(towards)
                entry = enters(layout, eye, towards / length, frame=1, steps=400)
                first = entry.argmin()
                free = entry[first] - (length - (person.flesh[joint] if first in around else 0))
                if abs(free) > 1e-3:
                    assert v == (2 if free > 0 else 1), list(KEYPOINTS)[joint]
                    counts[v] += 1
    assert min(counts.values()) > 50


def test_a_visible_joint_lies_on_the_persons_own_mask(clips):
    """Nearly always: at a limb's outline the pixel's centre may miss what the joint's own ray meets."""
    on = total = 0
    for _, sample in clips:
        for instance in sample.instances:
            if instance.keypoints is not None:
                for frame in range(3):
                    x, y, _ = instance.keypoints[frame][instance.keypoints[frame, :, 2] == 2].T.long()
                    on += int(instance.mask[frame, y, x].sum())
                    total += len(x)
    assert total > 150 and on > 0.93 * total


def test_left_is_the_persons_left():
    """Who faces the camera has the left shoulder on the picture's right, and both eyes in it."""
    facing = away = 0
    scenes = Scenes(size=32, seed=11, people=True)
    for index in range(35):
        layout, sample = scenes.layout(index), scenes[index]
        for instance in sample.instances:
            if instance.keypoints is None:
                continue
            person, points = layout.people[instance.track_id - SLOTS], instance.keypoints
            left, right = points[JOINTS["left_shoulder"]], points[JOINTS["right_shoulder"]]
            nose, ears = person.joints[0, 0], person.joints[0, 3:5].mean(0)
            looks = (nose - ears) @ (layout.camera_position[0] - ears)
            across = person.joints[0, JOINTS["left_shoulder"]] - person.joints[0, JOINTS["right_shoulder"]]
            chest = np.cross(across, (0, 1, 0)) @ (layout.camera_position[0] - ears)  # left x up = forwards
            if left[2] and right[2] and abs(left[0] - right[0]) > 1:
                assert (left[0] > right[0]) == (chest > 0)
            looks /= np.linalg.norm(nose - ears) * np.linalg.norm(layout.camera_position[0] - ears)
            if looks < -0.8:
                assert points[0, 2] != 2 and (points[1:3, 2] != 2).all()  # the face is hidden from behind
                away += 1
            facing += chest > 0
    assert facing > 10 and away > 3


# --------------------------------------------------------------------------------------------------------------- bodies


def posed(**degrees: float) -> dict[str, np.ndarray]:
    """Joints by name of a person of height 1 at rest but for these angles."""
    angles = np.zeros((1, len(ANGLES)))
    for name, value in degrees.items():
        angles[0, ANGLES.index(name)] = value
    return dict(zip(KEYPOINTS, pose_person(angles, 1.0).joints[0], strict=True))


def test_joints_bend_the_way_people_do():
    """x is the person's left, y up, z forward."""
    rest = posed()
    x, y, z = range(3)
    assert rest["left_shoulder"][x] > 0 > rest["right_shoulder"][x] and rest["nose"][z] > rest["left_ear"][z]
    assert rest["left_wrist"][y] < rest["left_elbow"][y] < rest["left_shoulder"][y]
    for side, sign in (("left", 1), ("right", -1)):
        assert posed(**{f"{side}_knee": 90})[f"{side}_ankle"][z] < rest[f"{side}_knee"][z] - 0.2
        assert posed(**{f"{side}_hip": 90})[f"{side}_knee"][z] > 0.2
        assert posed(**{f"{side}_elbow": 90})[f"{side}_wrist"][z] > 0.1
        assert posed(**{f"{side}_flex": 90})[f"{side}_elbow"][z] > 0.1
        assert sign * (posed(**{f"{side}_raise": 90})[f"{side}_elbow"] - rest[f"{side}_elbow"])[x] > 0.1
        assert sign * (posed(**{f"{side}_spread": 30})[f"{side}_ankle"] - rest[f"{side}_ankle"])[x] > 0.1
        inwards = posed(**{f"{side}_elbow": 90, f"{side}_roll": 60})[f"{side}_wrist"]
        assert sign * (inwards - rest[f"{side}_wrist"])[x] < -0.1
    assert posed(bend=40)["nose"][z] > rest["nose"][z] + 0.1 and posed(nod=30)["nose"][y] < rest["nose"][y]
    assert posed(turn=40)["nose"][x] > 0.02


@pytest.mark.parametrize("action", ACTIONS)
def test_poses_keep_to_the_limits_and_bodies_keep_their_shape(action):
    """In every frame: angles within limits, bones as long as ever, the lowest point on the ground."""
    rng, time = np.random.default_rng(7), np.arange(17) / 8
    low, high = np.array([LIMITS_DEG[name.split("_")[-1]] for name in ANGLES]).T
    for _ in range(4):
        angles = draw_pose(rng, time, action)
        assert (angles >= low).all() and (angles <= high).all()
        assert np.abs(np.diff(angles, axis=0)).max() > 0.5  # somebody alive
        person = pose_person(angles, 1.8)
        joints = dict(zip(KEYPOINTS, person.joints.swapaxes(0, 1), strict=True))
        for one, other, length in (("elbow", "shoulder", 0.172), ("wrist", "elbow", 0.145), ("ankle", "knee", 0.238)):
            bones = np.linalg.norm(joints[f"left_{one}"] - joints[f"left_{other}"], axis=1)
            np.testing.assert_allclose(bones, 1.8 * length, rtol=1e-9)
        lowest = person.centre[..., 1] - reach_down(person.kind, person.size, person.rotation)
        np.testing.assert_allclose(lowest.min(1), 0, atol=1e-9)
        np.testing.assert_allclose(np.linalg.det(person.rotation), 1, atol=1e-9)


def test_joints_lie_in_the_body_no_deeper_than_their_flesh():
    """So that a joint of a lone person in full view can be visible at all."""
    scenes = Scenes(seed=5, people=True)
    for index in range(8):
        layout = scenes.layout(index)
        for number, person in enumerate(layout.people):
            parts = solids_of(layout, SLOTS + number)
            for joint, point in enumerate(person.joints[0]):
                depth = -distances(layout, point, 0, parts).min()
                assert -0.6 * person.flesh[joint] < depth < person.flesh[joint], list(KEYPOINTS)[joint]


def test_extents_of_parts_equal_those_of_the_solids():
    person = pose_person(np.zeros((1, len(ANGLES))), 1.7)
    down = reach_down(person.kind, person.size, person.rotation)[0]
    for i in range(len(PARTS)):
        assert part_radii(person.kind, person.size)[i] == pytest.approx(bounding_radius(person.kind[i], person.size[i]))
        assert down[i] == pytest.approx(reach(person.kind[i], person.size[i], -person.rotation[0, i, 1]))
    assert {SOLIDS[kind] for kind in person.kind} == {"sphere", "capsule", "ellipsoid"}


# --------------------------------------------------------------------------------------------------------------- scenes


def test_scenes_with_people_are_physical():
    """At all times of a clip: soles on the ground, bodies of a person's size, no camera inside anything, objects apart
    from each other and behind no wall."""
    scenes = Scenes(frames=9, seed=2, people=True)
    numbers, moved = [], 0
    for index in range(40):
        layout = scenes.layout(index)
        numbers.append(len(layout.people))
        radius = [bounding_radius(k, size) for k, size in zip(layout.kind, layout.size, strict=True)]
        for pose in range(10):
            eye = layout.camera_position[pose]
            for person in layout.people:
                lowest = person.centre[pose, :, 1] - reach_down(person.kind, person.size, person.rotation)[pose]
                assert abs(lowest.min()) < 1e-9
                assert (np.linalg.norm(person.centre[pose] - eye, axis=1) > part_radii(person.kind, person.size)).all()
                assert 0.6 < person.joints[pose, 0, 1] + 0.2 < 2.0
            for slot in range(len(layout.kind)):
                centre = layout.centre[pose, slot]
                assert np.linalg.norm(eye - centre) > radius[slot]
                assert (centre[[0, 2]] - radius[slot] > -layout.walls - 1e-9).all()
        for person in layout.people:
            moved += np.abs(person.joints[-1] - person.joints[0]).max() > 0.02
    assert set(numbers) == set(range(1, PEOPLE + 1)) and moved > 0.8 * sum(numbers)


def test_shirts_are_seen_in_their_colours():
    """Between shoulders and hips the hue is nearer to the shirt's own name than to the others, nine times in ten."""
    named = torch.tensor(list(COLOURS.values()))

    def chroma(colour):
        return torch.nn.functional.normalize(colour - 0.7 * colour.min(-1, keepdim=True).values, dim=-1)

    right = total = 0
    for sample in Scenes(size=64, seed=6, people=True).samples(range(40)):
        for instance in sample.instances:
            trunk = [JOINTS[name] for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip")]
            if instance.keypoints is None or (instance.keypoints[trunk, 2] != 2).any():
                continue
            x, y, _ = instance.keypoints[trunk].mean(0).long().tolist()
            patch = sample.clip[0, y - 1 : y + 2, x - 1 : x + 2].reshape(-1, 3).float() / 255
            nearest = int((chroma(named) - chroma(patch.median(0).values)).norm(dim=-1).argmin())
            right += list(COLOURS)[nearest] == instance.clothes["shirt"]
            total += 1
    assert total > 12 and right > 0.85 * total


def test_people_come_only_when_asked_for():
    assert "person" not in Scenes().vocabulary.things and "person" in Scenes(people=True).vocabulary.things
    assert Scenes().vocabulary.things == Scenes(people=True).vocabulary.things[:-1]
    assert not any(
        one.class_name == "person" for sample in Scenes(size=16).samples(range(20)) for one in sample.instances
    )
