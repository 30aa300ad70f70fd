"""People of the procedural scenes: a skeleton with joint limits, a body of capsules and ellipsoids on it, clothes.

The body's own frame has x to the person's left, y up, z forward, with the soles at y = 0 below the pelvis. Lengths
are shares of the person's height, close to the proportions of adults (Drillis and Contini, 1966).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavin.data.scene_appearance import COLOURS, TEXTURES
from lavin.data.scene_solids import CAPSULE, ELLIPSOID, SPHERE

# ------------------------------------------------------------------------------------------------------------- anatomy

BONES = {
    "pelvis": (None, (0, 0.53, 0)),
    "chest": ("pelvis", (0, 0.06, 0)),
    "head": ("chest", (0, 0.275, 0.004)),
    "left_arm": ("chest", (0.115, 0.225, 0)),
    "left_forearm": ("left_arm", (0, -0.172, 0)),
    "left_thigh": ("pelvis", (0.054, -0.01, 0)),
    "left_shin": ("left_thigh", (0, -0.24, 0)),
    "left_foot": ("left_shin", (0, -0.238, 0)),
    "right_arm": ("chest", (-0.115, 0.225, 0)),
    "right_forearm": ("right_arm", (0, -0.172, 0)),
    "right_thigh": ("pelvis", (-0.054, -0.01, 0)),
    "right_shin": ("right_thigh", (0, -0.24, 0)),
    "right_foot": ("right_shin", (0, -0.238, 0)),
}
"""Name: (parent, where in the parent's frame the joint between them lies). At rest all frames are the body's."""

ACROSS = ((0, -1, 0), (1, 0, 0), (0, 0, 1))
"""Turns a part's long axis from y to x."""


def _both(bone: str, kind: int, centre: tuple, size: tuple, paint: str) -> list[tuple]:
    return [(f"{side}_{bone}", kind, centre, size, paint) for side in ("left", "right")]


PARTS = (
    ("pelvis", ELLIPSOID, (0, 0.015, 0), (0.092, 0.085, 0.070), "trousers"),
    ("chest", ELLIPSOID, (0, 0.105, 0), (0.100, 0.170, 0.066), "shirt"),
    ("chest", CAPSULE, (0, 0.215, 0), (0.046, 0.072, 0), "shirt"),
    ("chest", CAPSULE, (0, 0.262, 0.002), (0.030, 0.030, 0), "skin"),
    ("head", ELLIPSOID, (0, 0.065, 0.008), (0.048, 0.068, 0.056), "skin"),
    ("head", ELLIPSOID, (0, 0.082, -0.013), (0.053, 0.058, 0.055), "hair"),
    ("head", SPHERE, (0, 0.055, 0.066), (0.012, 0, 0), "nose"),
    ("head", SPHERE, (0.019, 0.073, 0.056), (0.009, 0, 0), "eyes"),
    ("head", SPHERE, (-0.019, 0.073, 0.056), (0.009, 0, 0), "eyes"),
    *_both("arm", CAPSULE, (0, -0.082, 0), (0.034, 0.080, 0), "sleeve"),
    *_both("forearm", CAPSULE, (0, -0.070, 0), (0.026, 0.070, 0), "forearm"),
    *_both("forearm", ELLIPSOID, (0, -0.187, 0), (0.020, 0.050, 0.030), "skin"),
    *_both("thigh", CAPSULE, (0, -0.118, 0), (0.052, 0.112, 0), "trousers"),
    *_both("shin", CAPSULE, (0, -0.115, -0.003), (0.037, 0.112, 0), "shin"),
    *_both("foot", ELLIPSOID, (0, -0.014, 0.036), (0.036, 0.030, 0.078), "shoes"),
)
"""Bone, solid, centre in the bone's frame, size as the solid reads it, what it is painted as."""
KINDS_OF_PARTS, SIZES, OFFSETS = (np.array([part[i] for part in PARTS]) for i in (1, 3, 2))
BONE_OF_PART = np.array([list(BONES).index(part[0]) for part in PARTS])
"""``PARTS`` and below ``KEYPOINTS`` by column: what every person has alike."""
HAIR = next(i for i, part in enumerate(PARTS) if part[4] == "hair")
LYING = next(i for i, part in enumerate(PARTS) if part[1] == CAPSULE)
"""The shoulders' capsule, the only part whose long axis is across."""

KEYPOINTS = {
    "nose": ("head", (0, 0.055, 0.076), 0.025),
    "left_eye": ("head", (0.019, 0.073, 0.060), 0.02),
    "right_eye": ("head", (-0.019, 0.073, 0.060), 0.02),
    "left_ear": ("head", (0.048, 0.065, 0.004), 0.03),
    "right_ear": ("head", (-0.048, 0.065, 0.004), 0.03),
    "left_shoulder": ("left_arm", (0, 0, 0), 0.12),
    "right_shoulder": ("right_arm", (0, 0, 0), 0.12),
    "left_elbow": ("left_forearm", (0, 0, 0), 0.09),
    "right_elbow": ("right_forearm", (0, 0, 0), 0.09),
    "left_wrist": ("left_forearm", (0, -0.145, 0), 0.08),
    "right_wrist": ("right_forearm", (0, -0.145, 0), 0.08),
    "left_hip": ("left_thigh", (0, 0, 0), 0.13),
    "right_hip": ("right_thigh", (0, 0, 0), 0.13),
    "left_knee": ("left_shin", (0, 0, 0), 0.12),
    "right_knee": ("right_shin", (0, 0, 0), 0.12),
    "left_ankle": ("left_foot", (0, 0, 0), 0.10),
    "right_ankle": ("right_foot", (0, 0, 0), 0.10),
}
"""COCO's keypoints in its order: (bone, place in its frame, flesh). A joint lies inside the body: parts of its bone and
of the bone before may lie in front of it, up to ``flesh`` along the line of sight, and the joint still shows."""


BONE_OF_JOINT, JOINT_AT, FLESH = (
    np.array([use(entry) for entry in KEYPOINTS.values()])
    for use in (lambda entry: list(BONES).index(entry[0]), lambda entry: entry[1], lambda entry: entry[2])
)


def _around(bone: str) -> list[bool]:
    """Which parts belong to a bone or to its parent; the trunk is both pelvis and chest."""
    bones = {bone, BONES[bone][0]} if bone != "head" else {"head"}
    bones |= {"chest"} if "pelvis" in bones else set()
    return [part[0] in bones for part in PARTS]


AROUND = np.array([_around(bone) for bone, _, _ in KEYPOINTS.values()])
"""(17, parts): the parts that meet in each joint."""

# --------------------------------------------------------------------------------------------------------------- poses

TRUNK = ("bend", "lean", "twist", "nod", "turn")
LIMB = ("flex", "raise", "roll", "elbow", "hip", "spread", "knee")
ANGLES = TRUNK + tuple(f"left_{name}" for name in LIMB) + tuple(f"right_{name}" for name in LIMB)
LIMITS_DEG = {
    "bend": (-10, 45), "lean": (-20, 20), "twist": (-30, 30), "nod": (-25, 30), "turn": (-60, 60),
    "flex": (-40, 170), "raise": (0, 120), "roll": (-95, 80), "elbow": (0, 140),
    "hip": (-25, 100), "spread": (0, 35), "knee": (0, 130),
}  # fmt: skip
"""Range of each joint. Trunk: forward, sideways, round; head: down, round. Arm: forward, sideways, rolled inwards,
bent; leg: forward, sideways, bent."""
REST_DEG = {
    "bend": (-3, 8), "lean": (-4, 4), "twist": (-8, 8), "nod": (-10, 15), "turn": (-35, 35),
    "flex": (-10, 15), "raise": (6, 18), "roll": (-10, 30), "elbow": (5, 30),
    "hip": (-4, 6), "spread": (2, 8), "knee": (0, 8),
}  # fmt: skip
"""Ranges of somebody who just stands."""
ACTIONS = {
    "stand": ({}, {}),
    "walk": ({}, {}),
    "wave": ({"raise": (70, 110), "roll": (-95, -60), "elbow": (40, 110)}, {}),
    "reach": ({"flex": (60, 165), "elbow": (0, 40)}, {}),
    "arms up": ({"flex": (135, 170), "raise": (5, 25)}, {"flex": (135, 170), "raise": (5, 25)}),
    "arms out": ({"raise": (55, 95)}, {"raise": (55, 95)}),
    "hands on hips": (
        {"flex": (-25, -10), "raise": (35, 50), "roll": (55, 75), "elbow": (90, 115)},
        {"flex": (-25, -10), "raise": (35, 50), "roll": (55, 75), "elbow": (90, 115)},
    ),
    "lift a knee": ({"hip": (30, 85), "knee": (30, 110)}, {"flex": (10, 60), "elbow": (20, 90)}),
    "crouch": (
        {"bend": (15, 40), "hip": (70, 100), "knee": (90, 130), "flex": (20, 70), "elbow": (10, 90)},
        {"hip": (70, 100), "knee": (90, 130), "flex": (20, 70), "elbow": (10, 90)},
    ),
    "anything": (LIMITS_DEG | {"hip": (-20, 60), "knee": (0, 90), "bend": (-5, 25)}, LIMITS_DEG),
}
"""What one side and the other do, where it differs from rest; which side is which is drawn."""


def _sways(rng: np.random.Generator, time: np.ndarray, number: int, pace_hz: tuple[float, float]) -> np.ndarray:
    """Sines of random pace and phase, (p, number)."""
    pace, phase = rng.uniform(*pace_hz, number), 2 * np.pi * rng.random(number)
    return np.sin(2 * np.pi * time[:, None] * pace + phase)


def draw_pose(rng: np.random.Generator, time: np.ndarray, action: str) -> np.ndarray:
    """Angles (p, len(ANGLES)) in degrees within ``LIMITS_DEG`` at the times (p,) in seconds: limbs swing."""
    one, other = ACTIONS[action] if rng.random() < 0.5 else ACTIONS[action][::-1]
    ranges = [(one | other).get(name, REST_DEG[name]) for name in TRUNK]
    ranges += [side.get(name, REST_DEG[name]) for side in (one, other) for name in LIMB]
    low, high = np.array(ranges, float).T
    arms = np.array([name.endswith(("flex", "raise", "roll", "elbow")) for name in ANGLES])
    angles = rng.uniform(low, high) + np.where(arms, rng.uniform(3, 14), 1.5) * _sways(
        rng, time, len(ANGLES), (0.3, 0.9)
    )
    if action == "wave":
        side = "left" if "roll" in one else "right"
        waving = [ANGLES.index(f"{side}_{name}") for name in ("roll", "elbow")]
        angles[:, waving] += rng.uniform(10, 25) * _sways(rng, time, 1, (1.0, 1.6))
    if action == "walk":
        angles += _gait(rng, time)
    limits = np.array([LIMITS_DEG[name.split("_")[-1]] for name in ANGLES], float)
    return angles.clip(limits[:, 0], limits[:, 1])


def _gait(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """What walking adds: legs in opposite phase, arms opposite to legs, the knee of the leg that comes forward bent."""
    phase = 2 * np.pi * (rng.random() + rng.uniform(0.7, 1.0) * time)
    stride, swing, knee = rng.uniform(18, 30), rng.uniform(12, 28), rng.uniform(25, 50)
    added = np.zeros((len(time), len(ANGLES)))
    for side, sign in (("left", 1), ("right", -1)):
        added[:, ANGLES.index(f"{side}_hip")] = 4 + sign * stride * np.sin(phase)
        added[:, ANGLES.index(f"{side}_knee")] = 6 + knee * np.maximum(0, sign * np.cos(phase))
        added[:, ANGLES.index(f"{side}_flex")] = -sign * swing * np.sin(phase)
        added[:, ANGLES.index(f"{side}_elbow")] = 10
    return added


def turn(axis: int, angle: np.ndarray | float) -> np.ndarray:
    """Rotation matrices (..., 3, 3) about a coordinate axis, radians."""
    angle = np.asarray(angle, float)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.zeros((*angle.shape, 3, 3))
    matrix[..., axis, axis] = 1
    matrix[..., i, i] = matrix[..., j, j] = np.cos(angle)
    matrix[..., j, i] = np.sin(angle)
    matrix[..., i, j] = -matrix[..., j, i]
    return matrix


def _turns(axis: int, angles: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``turn`` of many angles (p,) at once, by name."""
    return dict(zip(angles, turn(axis, np.stack(list(angles.values()))), strict=True))


def skeleton(angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics of a person of height 1: each bone's frame, in the order of ``BONES``, as rotation
    (p, bones, 3, 3) and origin (p, bones, 3).

    Positive angles about x take what hangs down backwards; that is why flexing is negative but for the knee's.
    """
    a = dict(zip(ANGLES, np.radians(angles_deg).T, strict=True))
    about_x, about_y, about_z = (
        {name: a[name] for name in names} for names in (("bend", "nod"), ("twist", "turn"), ("lean",))
    )
    for side, sign in (("left", 1), ("right", -1)):
        about_x |= {f"{side}_{name}": -a[f"{side}_{name}"] for name in ("flex", "elbow", "hip")}
        about_x[f"{side}_knee"] = a[f"{side}_knee"]
        about_y[f"{side}_roll"] = -sign * a[f"{side}_roll"]
        about_z |= {f"{side}_{name}": sign * a[f"{side}_{name}"] for name in ("raise", "spread")}
    x, y, z = (_turns(axis, angles) for axis, angles in enumerate((about_x, about_y, about_z)))
    local = {"chest": y["twist"] @ x["bend"] @ z["lean"], "head": y["turn"] @ x["nod"]}
    for side in ("left", "right"):
        local[f"{side}_arm"] = z[f"{side}_raise"] @ x[f"{side}_flex"] @ y[f"{side}_roll"]
        local[f"{side}_forearm"] = x[f"{side}_elbow"]
        local[f"{side}_thigh"] = z[f"{side}_spread"] @ x[f"{side}_hip"]
        local[f"{side}_shin"] = x[f"{side}_knee"]
    frames = {}
    for bone, (parent, offset) in BONES.items():
        if parent is None:
            still = np.broadcast_to(np.eye(3), (len(angles_deg), 3, 3))
            frames[bone] = still, np.broadcast_to(np.array(offset, float), (len(angles_deg), 3))
            continue
        rotation, origin = frames[parent]
        frames[bone] = rotation @ local[bone] if bone in local else rotation, origin + rotation @ np.array(offset)
    rotations, origins = zip(*frames.values(), strict=True)
    return np.stack(rotations, 1), np.stack(origins, 1)


# -------------------------------------------------------------------------------------------------------------- bodies

SKIN = np.array([(0.96, 0.80, 0.69), (0.89, 0.69, 0.55), (0.80, 0.58, 0.43), (0.62, 0.42, 0.29), (0.42, 0.28, 0.20)])
HAIR_TONES = np.array(
    [(0.10, 0.09, 0.09), (0.25, 0.16, 0.10), (0.42, 0.28, 0.16), (0.78, 0.62, 0.34), (0.55, 0.55, 0.55)]
)
SHOES = np.array([(0.12, 0.12, 0.13), (0.30, 0.20, 0.14), (0.85, 0.85, 0.84)])
CLOTH = COLOURS | {"black": (0.12, 0.12, 0.14), "grey": (0.45, 0.46, 0.48)}
"""Colours of clothes."""


@dataclass
class Person:
    """A body that moves in place: the body's frame, metres."""

    kind: np.ndarray
    """(parts,) index into SOLIDS."""
    size: np.ndarray
    """(parts, 3) as SOLIDS says."""
    centre: np.ndarray
    """(p, parts, 3)."""
    rotation: np.ndarray
    """(p, parts, 3, 3) part-to-body."""
    joints: np.ndarray
    """(p, 17, 3) in the order of ``KEYPOINTS``."""
    flesh: np.ndarray
    """(17,) as ``KEYPOINTS`` says."""
    pelvis: np.ndarray
    """(p, 3)."""


def pose_person(angles_deg: np.ndarray, height: float, girth: float = 1.0, long_hair: bool = False) -> Person:
    """A body of that height in metres in these poses, its lowest point on the ground at all times.

    Args:
        angles_deg: (p, len(ANGLES)).
        girth: thickness of trunk and limbs, 1 is usual.
    """
    rotations, origins = skeleton(angles_deg)
    kind, size, offset = KINDS_OF_PARTS, SIZES.copy(), OFFSETS.copy()
    thick = np.array([part[0] != "head" for part in PARTS])
    size[thick, 0] *= girth
    size[thick & (kind == ELLIPSOID), 2] *= girth
    if long_hair:
        offset[HAIR], size[HAIR] = (0, 0.055, -0.020), (0.056, 0.088, 0.052)
    rotation = rotations[:, BONE_OF_PART]
    centre = origins[:, BONE_OF_PART] + (rotation @ offset[..., None])[..., 0]
    rotation[:, LYING] = rotation[:, LYING] @ np.array(ACROSS, float)
    joints = origins[:, BONE_OF_JOINT] + (rotations[:, BONE_OF_JOINT] @ JOINT_AT[..., None])[..., 0]
    lift = np.array([0, 1, 0]) * (centre[..., 1] - reach_down(kind, size, rotation)).min(1)[:, None]
    return Person(
        kind=kind,
        size=size * height,
        centre=(centre - lift[:, None]) * height,
        rotation=rotation,
        joints=(joints - lift[:, None]) * height,
        flesh=FLESH * height * max(1, girth),
        pelvis=(origins[:, 0] - lift) * height,
    )


def reach_down(kind: np.ndarray, size: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """How far parts (n,) extend below their centres, (p, n); rotation (p, n, 3, 3) part-to-world."""
    up = rotation[..., 1, :]
    capsule = size[:, 0] + size[:, 1] * np.abs(up[..., 1])
    ellipsoid = np.linalg.norm(up * size, axis=-1)
    return np.select([kind == CAPSULE, kind == ELLIPSOID], [capsule, ellipsoid], size[:, 0])


def part_radii(kind: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Radii (n,) of spheres around parts; the vectorised ``bounding_radius`` of the solids that people have."""
    return np.select([kind == CAPSULE, kind == ELLIPSOID], [size[:, 0] + size[:, 1], size.max(1)], size[:, 0])


def dress(rng: np.random.Generator) -> tuple[np.ndarray, dict[str, str]]:
    """Surfaces (10, parts) with the rows of Look.surfaces, and by name the colours of shirt and trousers, and the
    shirt's pattern if it has one."""
    tones = {name: np.array(tone) for name, tone in CLOTH.items()}
    shirt = list(COLOURS)[rng.integers(len(COLOURS))]
    trousers = (
        list(CLOTH)[rng.integers(len(CLOTH))] if rng.random() < 0.5 else ("black", "grey", "blue")[rng.integers(3)]
    )
    skin, hair = SKIN[rng.integers(len(SKIN))], HAIR_TONES[rng.integers(len(HAIR_TONES))]
    long_sleeves, shorts, short_sleeves = rng.random() < 0.5, rng.random() < 0.3, rng.random() < 0.85
    colours = {
        "skin": skin,
        "nose": 0.9 * skin,
        "eyes": np.full(3, 0.06),
        "hair": hair,
        "shirt": tones[shirt],
        "sleeve": tones[shirt] if long_sleeves or short_sleeves else skin,
        "forearm": tones[shirt] if long_sleeves else skin,
        "trousers": tones[trousers],
        "shin": skin if shorts else tones[trousers],
        "shoes": SHOES[rng.integers(len(SHOES))],
    }
    table = np.ones((10, len(PARTS)))
    table[:3] = table[3:6] = np.array([colours[part[4]] for part in PARTS]).T
    table[7:] = 0
    clothes = {"shirt": shirt, "trousers": trousers}
    pattern = rng.random()
    if pattern < 0.3:
        worn = [part[4] == "shirt" or (part[4] == "sleeve" and (long_sleeves or short_sleeves)) for part in PARTS]
        table[3:6, worn] *= 0.6
        table[6, worn] = 0.16
        clothes["pattern"] = "striped" if pattern < 0.2 else "checked"
        table[9, worn] = TEXTURES.index("stripes" if pattern < 0.2 else "checks")
    return table, clothes
