"""Where people's parts show and where they shade: rectangles that let most rays pass by without being tried.

A part is a ball, an ellipsoid or a capsule, and the last is no larger than the balls at its ends. So each is bounded
by one or two ellipsoids, written as centre c and matrix Q = R diag(semi-axes²) Rᵀ. Planes with a normal n touch an
ellipsoid where (n · c - h)² = nᵀ Q n for the plane n · x = h.
"""

from __future__ import annotations

import numpy as np

from lavin.data.scene_layout import PEOPLE, Layout
from lavin.data.scene_people import PARTS, Person
from lavin.data.scene_solids import CAPSULE, ELLIPSOID

LOOSE = 1e-4
"""Added on all sides, metres or slopes, so that rounding in float32 shuts nothing out."""


def _ellipsoids(person: Person, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres (ends, p, parts, 3) and matrices (p, parts, 3, 3): both balls of a capsule, all else twice."""
    half = np.where(person.kind == CAPSULE, person.size[:, 1], 0)
    along = person.rotation[:frames, :, :, 1] * half[:, None]
    axes = np.where((person.kind == ELLIPSOID)[:, None], person.size, person.size[:, :1])
    turned = person.rotation[:frames] * axes[:, None]
    centre = person.centre[:frames]
    return np.stack([centre - along, centre + along]), turned @ turned.swapaxes(-1, -2)


def slope_range(centre: np.ndarray, matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Least and largest slope x_axis / z at which a ray from the origin meets ellipsoids: planes through the origin
    with normal e_axis - slope e_z touch them where a quadratic equation in the slope says so."""
    x, z = centre[..., axis], centre[..., 2]
    a = z**2 - matrix[..., 2, 2]
    b = x * z - matrix[..., axis, 2]
    root = np.sqrt(np.maximum(b**2 - a * (x**2 - matrix[..., axis, axis]), 0))
    ahead, behind = (a > 0) & (z > 0), (a > 0) & (z < 0)
    safe = np.where(a > 0, a, 1)
    low = np.where(ahead, (b - root) / safe, np.where(behind, np.inf, -np.inf))
    high = np.where(ahead, (b + root) / safe, np.where(behind, -np.inf, np.inf))
    return low.min(0), high.max(0)


def part_bounds(layout: Layout, frames: int) -> np.ndarray:
    """Table (9, PEOPLE * parts, frames) of one scene, rows as ``World.bounds``; infinite for nobody."""
    table = np.full((9, PEOPLE * len(PARTS), frames), np.inf, np.float32)
    camera, eye = layout.camera_rotation[:frames, None], layout.camera_position[:frames, None]
    axes = layout.light[[1, 2, 0]]  # two across the light, then along it
    for number, person in enumerate(layout.people):
        columns = slice(number * len(PARTS), (number + 1) * len(PARTS))
        centre, matrix = _ellipsoids(person, frames)
        seen = ((centre - eye)[..., None, :] @ camera)[..., 0, :], camera.swapaxes(-1, -2) @ matrix @ camera
        for axis in (0, 1):
            low, high = slope_range(*seen, axis)
            table[axis, columns], table[2 + axis, columns] = low.T - LOOSE, high.T + LOOSE
        extent = np.sqrt(np.einsum("ai,pnij,aj->apn", axes, matrix, axes))
        along = np.einsum("ai,epni->eapn", axes, centre)
        table[4:6, columns] = (along.min(0) - extent - LOOSE)[:2].swapaxes(1, 2)
        table[6:, columns] = (along.max(0) + extent + LOOSE).swapaxes(1, 2)
    return table
