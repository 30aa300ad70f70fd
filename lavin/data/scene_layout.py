"""Composition of the procedural scenes: which solids stand where, in which colours, under which light, seen from where.

A Layout is plain numpy in float64, drawn from a generator that the caller keys; the labels' tests read it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lavin.data import scene_solids as solids
from lavin.data.scene_appearance import COLOURS, MUTED, TEXTURES
from lavin.data.scene_people import PARTS, Person, turn
from lavin.data.scene_solids import KINDS

SLOTS = 5
"""Most objects in a scene."""
PEOPLE = 3
"""Most people in a scene."""
FPS = 8.0
"""Frames per second of clips, unless others are asked for."""
HORIZON, OVERHEAD = np.array([0.72, 0.78, 0.84]), np.array([0.36, 0.52, 0.74])
"""Mean colours of the sky."""
PALETTE = np.array(list(COLOURS.values()))
PLAIN, CHECKS, STRIPES, SPECKLE, PLANKS, CLOUDS, BRICKS = range(len(TEXTURES))


@dataclass
class Layout:
    """One scene before rendering: n objects, p poses (one more than frames for clips), world frame as in solids."""

    kind: np.ndarray
    """(n,) index into KINDS."""
    colour: np.ndarray
    """(n,) index into COLOURS."""
    size: np.ndarray
    """(n, 3) as KINDS says, metres."""
    centre: np.ndarray
    """(p, n, 3)."""
    rotation: np.ndarray
    """(p, n, 3, 3) object-to-world."""
    camera_position: np.ndarray
    """(p, 3)."""
    camera_rotation: np.ndarray
    """(p, 3, 3) camera-to-world."""
    focal: float
    """Pixels."""
    walls: np.ndarray
    """(2,) metres, infinite outdoors."""
    light: np.ndarray
    """(3, 3): towards the light, and two vectors across it."""
    surfaces: np.ndarray
    """(10, SLOTS + 3), rows as in Look.surfaces; with people (10, SLOTS + PEOPLE * parts + 3)."""
    brightness: np.ndarray
    """(2,) ambient and direct."""
    sky: np.ndarray
    """(6,) colours at the horizon and overhead."""
    people: list[Person] = field(default_factory=list)
    """In the world's frame."""
    clothes: list[dict[str, str]] = field(default_factory=list)
    """What each of them wears, as ``dress`` says."""

    @property
    def slots(self) -> int:
        """Rows that the scene takes in the geometry's tables."""
        return self.surfaces.shape[1] - 3

    def solids(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All solids, objects and parts of people: slot (s,), kind (s,), size (s, 3), centre (p, s, 3) and rotation
        (p, s, 3, 3)."""
        if not self.people:
            return np.arange(len(self.kind)), self.kind, self.size, self.centre, self.rotation
        parts = zip(*((who.kind, who.size, who.centre, who.rotation) for who in self.people), strict=True)
        kind, size, centre, rotation = parts
        return (
            np.concatenate([np.arange(len(self.kind)), SLOTS + np.arange(len(self.people) * len(PARTS))]),
            np.concatenate([self.kind, *kind]),
            np.concatenate([self.size, *size]),
            np.concatenate([self.centre, *centre], 1),
            np.concatenate([self.rotation, *rotation], 1),
        )


def pools(rng: np.random.Generator, number: int, choices: int) -> np.ndarray:
    """One of few values for each object: two often share theirs, but at least two differ."""
    pool = rng.permutation(choices)[: rng.integers(2, 5)]
    drawn = pool[rng.integers(0, len(pool), number)]
    first, second = rng.permutation(number)[:2]
    if (drawn == drawn[0]).all():
        drawn[first], drawn[second] = pool[0], pool[1]
    return drawn


def sizes(rng: np.random.Generator, kind: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Proportions (n, 3) of solids that look about ``radius`` big."""
    low = np.array([(1, 1, 1), (0.5, 0.5, 0.5), (0.5, 0.6, 1), (0.65, 0.75, 1), (0.42, 0.5, 1), (0.75, 0.24, 1)])
    high = np.array([(1, 1, 1), (0.9, 0.95, 0.9), (0.8, 1, 1), (0.95, 1.1, 1), (0.58, 0.8, 1), (0.85, 0.36, 1)])
    return radius[:, None] * (low + (high - low) * rng.random((len(kind), 1, 3)))[np.arange(len(kind)), kind]


def orientation(rng: np.random.Generator, kind: int) -> np.ndarray:
    """Upright, lying or leaning, then turned about the vertical: (3, 3)."""
    chance, lean, yaw = rng.random(3)
    lying = {solids.CYLINDER: 0.25, solids.CAPSULE: 0.5, solids.TORUS: 0.5, solids.CONE: 0.08}.get(kind, 0.0)
    tilt = np.pi / 2 if chance < lying else (lean - 0.5) * (1.2 if chance > 0.9 else 0.0)
    return turn(1, 2 * np.pi * yaw) @ turn(0, tilt)


def place(rng: np.random.Generator, bounding: np.ndarray, disc: float) -> tuple[np.ndarray, np.ndarray]:
    """Ground positions (n, 2) in a disc such that bounding circles stay apart, and the shrinking (n,) it took."""
    number = len(bounding)
    draws = rng.random((number, 24, 2))
    distance, angle = disc * np.sqrt(draws[..., 0]), 2 * np.pi * draws[..., 1]
    candidates = np.stack([distance * np.cos(angle), distance * np.sin(angle)], -1)
    places, shrink = candidates[:, 0].copy(), np.ones(number)
    for i in range(1, number):
        to_others = np.linalg.norm(candidates[i][:, None] - places[None, :i], axis=-1)
        gap = (to_others - (bounding * shrink)[:i]).min(1)
        fits = np.flatnonzero(gap > 1.1 * bounding[i])
        best = fits[0] if len(fits) else gap.argmax()
        places[i], shrink[i] = candidates[i, best], min(1.0, max(gap[best], 0.02) / bounding[i])
    return places, shrink


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cross product of (..., 3); numpy's own takes longer than the rest of a layout's algebra."""
    ahead, behind = [1, 2, 0], [2, 0, 1]
    return a[..., ahead] * b[..., behind] - a[..., behind] * b[..., ahead]


def pick(rng: np.random.Generator, values: Sequence[float], number: int | None = None) -> np.ndarray:
    """Values with replacement (numpy's choice is ten times slower)."""
    return np.asarray(values)[rng.integers(len(values), size=number)]


def _look_at(eye: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """Camera-to-world rotations (p, 3, 3), columns right, down, forward."""
    forward = target - eye
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    right = np.stack([-forward[:, 2], np.zeros(len(eye)), forward[:, 0]], -1)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    down = _cross(forward, right)
    level = np.stack([right, down, forward], -1)
    return level @ turn(2, roll)


def _tones(rng: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
    """Slightly varied copies (k, 3) of colours: brightness by up to 8 %, saturation down by up to 12 %."""
    chosen = chosen * rng.uniform(0.92, 1.06, (len(chosen), 1))
    grey = chosen.mean(1, keepdims=True)
    return np.clip(chosen + (grey - chosen) * rng.uniform(0, 0.12, (len(chosen), 1)), 0, 1)


def paint(rng: np.random.Generator, colour: np.ndarray, radius: np.ndarray, width: float) -> np.ndarray:
    """Table of surfaces (10, SLOTS + 3): objects, ground, two walls."""
    number, table = len(colour), np.ones((10, SLOTS + 3))
    base = _tones(rng, PALETTE[colour])
    lighter = rng.random((number, 1)) < 0.4
    second = np.where(lighter, base + 0.3 * (1 - base), base * 0.68)
    textured = rng.random(number) < 0.35
    table[:3, :number], table[3:6, :number] = base.T, second.T
    table[6, :number] = radius * pick(rng, (0.5, 0.8, 1.2), number)
    table[8, :number] = pick(rng, (0.0, 0.15, 0.4), number)
    table[9, :number] = np.where(textured, pick(rng, (CHECKS, CHECKS, STRIPES, STRIPES, SPECKLE, CLOUDS), number), 0)
    tones = _tones(rng, MUTED[rng.permutation(len(MUTED))[:3]])
    tones[2] = tones[1] if rng.random() < 0.5 else tones[2]
    table[:3, SLOTS:] = tones.T
    table[3:6, SLOTS:] = (tones * rng.uniform(0.72, 0.92, (3, 1))).T
    table[6, SLOTS:] = width * rng.uniform(0.35, 1.0, 3)
    table[8, SLOTS:] = 0
    ground = pick(rng, (PLAIN, CHECKS, PLANKS, CLOUDS, CLOUDS))
    wall = pick(rng, (PLAIN, PLAIN, STRIPES, CLOUDS, BRICKS))
    table[9, SLOTS:] = ground, wall, wall
    table[7] = rng.random(SLOTS + 3)
    return table


def light_axes(azimuth: float, elevation: float) -> np.ndarray:
    """Orthonormal rows (3, 3): towards the light and two vectors across."""
    across = np.array([np.cos(azimuth), 0, -np.sin(azimuth)])
    towards = np.array([np.cos(elevation) * np.sin(azimuth), np.sin(elevation), np.cos(elevation) * np.cos(azimuth)])
    return np.stack([towards, across, _cross(towards, across)])


def _sway(rng: np.random.Generator, time: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth motion that starts at 0 and stays within [-1, 1]: (p, *shape)."""
    phase = 2 * np.pi * rng.random(shape)
    pace = 2 * np.pi / rng.uniform(1.5, 4.0, shape)
    time = time.reshape(-1, *[1] * len(shape))
    return (np.sin(pace * time + phase) - np.sin(phase)) / 2


def move(rng: np.random.Generator, time: np.ndarray, centre: np.ndarray, room: np.ndarray, width: float) -> tuple:
    """Positions (p, n, 3) and turns about the vertical (p, n, 3, 3): each object sways within its free space,
    some hop, some spin, some rest."""
    number = len(centre)
    direction = 2 * np.pi * rng.random(number)
    reach = np.minimum(room, 0.3 * width) * (rng.random(number) < 0.8)
    sway = _sway(rng, time, (number,)) * reach
    hop = np.abs(_sway(rng, time, (number,))) * 0.25 * width * (rng.random(number) < 0.3)
    moved = np.stack([sway * np.cos(direction), hop, sway * np.sin(direction)], -1)
    return centre + moved, turn(1, time[:, None] * rng.uniform(-2, 2, number) * (rng.random(number) < 0.6))


def _camera(
    rng: np.random.Generator, time: np.ndarray, indoors: bool, distance: float, aim: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Eye positions (p, 3), rotations (p, 3, 3) and the first azimuth: a camera that looks at ``aim`` and drifts."""
    azimuth = np.radians(rng.uniform(15, 75) if indoors else rng.uniform(0, 360))
    pitch = np.radians(rng.uniform(10, 42))
    return *orbit(rng, time, azimuth, pitch, distance, aim), azimuth


def orbit(
    rng: np.random.Generator, time: np.ndarray, azimuth: float, pitch: float, distance: float, aim: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Eye positions (p, 3) and rotations (p, 3, 3) about these angles in radians."""
    drift = _sway(rng, time, (3,)) * (rng.random() < 0.75)
    turned, height, away = azimuth + 0.3 * drift[:, 0], pitch + 0.08 * drift[:, 1], distance * (1 + 0.1 * drift[:, 2])
    towards_eye = np.stack([np.cos(height) * np.sin(turned), np.sin(height), np.cos(height) * np.cos(turned)], -1)
    eye = aim + away[:, None] * towards_eye
    return eye, _look_at(eye, aim, np.radians(rng.uniform(-5, 5)))


def draw_layout(rng: np.random.Generator, size: tuple[int, int], poses: int = 1, fps: float = FPS) -> Layout:
    """Compose a scene: objects of 2 to 20 % of the picture, most of them standing, seen from above eye level."""
    time = np.arange(poses) / fps
    indoors = rng.random() < 0.5
    half_view = np.radians(rng.uniform(20, 30))
    distance = np.exp(rng.uniform(np.log(2.0), np.log(7.0)))
    width = 2 * distance * np.tan(half_view)  # of the picture's shorter side, at the middle of the scene

    number = int(rng.integers(2, SLOTS + 1))
    kind, colour = pools(rng, number, len(KINDS)), pools(rng, number, len(COLOURS))
    small = rng.random(number) < 0.15
    radius = width * np.exp(np.where(small, rng.uniform(-2.8, -2.3, number), rng.uniform(-2.2, -1.6, number)))
    radius *= (1.3, 1.15, 1.05, 1.0)[number - 2]
    solid = sizes(rng, kind, radius)
    bounding = np.array([solids.bounding_radius(k, s) for k, s in zip(kind, solid, strict=True)])
    places, shrink = place(rng, bounding, 0.42 * width)
    solid, bounding = solid * shrink[:, None], bounding * shrink
    upright = np.stack([orientation(rng, k) for k in kind])
    height = np.array([solids.reach(k, s, -r[1]) for k, s, r in zip(kind, solid, upright, strict=True)])
    height += bounding * rng.uniform(0.2, 0.9, number) * (rng.random(number) < 0.1)
    centre = np.stack([places[:, 0], height, places[:, 1]], -1)

    walls = (bounding[:, None] - places).max(0) + width * rng.uniform(0.03, 0.5, 2)
    walls[rng.integers(2)] += 2 * width * (rng.random() < 0.35)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) - bounding[:, None] - bounding
    np.fill_diagonal(apart, np.inf)
    free = np.minimum(0.48 * apart.min(1), (places + walls - bounding[:, None]).min(1) if indoors else np.inf)
    centres, turns = move(rng, time, centre, free.clip(0), width)
    aim = centre.mean(0) * (0.8, 0.7, 0.8) + 0.05 * width * rng.standard_normal(3)
    eye, look, azimuth = _camera(rng, time, indoors, distance, aim)

    surfaces = paint(rng, colour, radius * shrink, width)
    sun = np.radians(rng.uniform(10, 80)) if indoors else azimuth + np.radians(rng.uniform(-110, 110))
    horizon = HORIZON + rng.uniform(-0.08, 0.08, 3)
    overhead = OVERHEAD + rng.uniform(-0.1, 0.1, 3)
    return Layout(
        kind=kind,
        colour=colour,
        size=solid,
        centre=centres,
        rotation=turns @ upright,
        camera_position=eye,
        camera_rotation=look,
        focal=min(size) / 2 / np.tan(half_view),
        walls=walls if indoors else np.full(2, np.inf),
        light=light_axes(sun, np.radians(rng.uniform(35, 70))),
        surfaces=surfaces,
        brightness=rng.uniform((0.46, 0.5), (0.62, 0.68)),
        sky=np.concatenate([horizon, overhead * rng.uniform(0.8, 1.1)]),
    )
