"""Slow arithmetic that knows nothing of the renderer: float64, solids as "is this point inside?", one ray at a time."""

import numpy as np

from lavin.data import scene_geometry as geometry
from lavin.data.scene_layout import SLOTS, Layout
from lavin.data.scene_solids import SOLIDS


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
    if kind == "ellipsoid":
        scaled = np.linalg.norm(p / size, axis=-1)
        return scaled * (scaled - 1) / np.linalg.norm(p / size**2, axis=-1)
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


def enters(layout: Layout, origin: np.ndarray, direction: np.ndarray, frame: int = 0, steps: int = 160) -> np.ndarray:
    """Ray parameters (s,) at which a ray enters each of ``layout.solids()``, infinite for a miss."""
    _, kind, size, centre, rotation = layout.solids()
    found = np.full(len(kind), np.inf)
    for i in range(len(kind)):
        o, d = (origin - centre[frame, i]) @ rotation[frame, i], direction @ rotation[frame, i]
        closest = o - (o @ d) / (d @ d) * d
        if np.linalg.norm(closest) < size[i].sum():
            found[i] = first_inside(SOLIDS[kind[i]], o, d, size[i], steps)[0]
    return found


def first_hit(layout: Layout, eye: np.ndarray, direction: np.ndarray, frame: int = 0) -> tuple[float, int]:
    """What a ray from the camera meets first: (t, surface as in Hits.surface)."""
    t, surface = np.inf, layout.slots + geometry.SKY
    if direction[1] < 0 and -eye[1] / direction[1] < geometry.FAR_M:
        t, surface = -eye[1] / direction[1], layout.slots + geometry.GROUND
    for axis, wall, which in ((0, layout.walls[0], geometry.WALL_X), (2, layout.walls[1], geometry.WALL_Z)):
        if direction[axis] < 0 and np.isfinite(wall) and (-wall - eye[axis]) / direction[axis] < t:
            t, surface = (-wall - eye[axis]) / direction[axis], layout.slots + which
    there = enters(layout, eye, direction, frame)
    if there.size and there.min() < t:
        t, surface = there.min(), int(layout.solids()[0][there.argmin()])
    return t, surface


def solids_of(layout: Layout, thing: int) -> np.ndarray:
    """Which of ``layout.solids()`` an object is, or a person is made of."""
    slot = layout.solids()[0]
    parts = slot[slot >= SLOTS]
    if thing < SLOTS:
        return np.flatnonzero(slot == thing)
    each = len(parts) // len(layout.people)
    return np.flatnonzero((slot - SLOTS) // each == thing - SLOTS) if each else parts


def distances(layout: Layout, point: np.ndarray, frame: int, among: np.ndarray) -> np.ndarray:
    """How far a point is off the surfaces of the solids numbered ``among``, metres near them; negative inside."""
    _, kind, size, centre, rotation = layout.solids()
    return np.array(
        [outside_by(SOLIDS[kind[i]], (point - centre[frame, i]) @ rotation[frame, i], size[i]) for i in among]
    )
