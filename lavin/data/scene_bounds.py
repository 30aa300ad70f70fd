"""Where solids show and where they shade: rectangles that let most rays pass by without being tried.

Each solid lies in one or more ellipsoids, written as centre c and matrix Q = R diag(semi-axes²) Rᵀ. Planes with a
normal n touch an ellipsoid where (n · c - h)² = nᵀ Q n for the plane n · x = h. A capsule is cut into ``PIECES``, each
of which reaches no farther than the balls at its ends, so that a limb that lies askew is not bounded by its diagonal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lavin.data.scene_solids import BOX, CAPSULE, CONE, CYLINDER, ELLIPSOID, TORUS

LOOSE = 1e-4
"""Added on all sides, metres or slopes, so that rounding in float32 shuts nothing out."""
PIECES = 3


@dataclass
class Bounds:
    """Rectangles of O slots in V views; where nothing is to be seen low is above high."""

    seen: tuple[np.ndarray, np.ndarray]
    """Least and most slope at which a camera ray meets a piece, (right and down, pieces, V, O) each."""
    shade: tuple[np.ndarray, np.ndarray]
    """Between which metres its shadow falls, (both axes across the light, pieces, V, O) each."""
    top: np.ndarray
    """(V, O) metres along the light, above which it throws none."""


def _ellipsoids(
    kind: np.ndarray, centre: np.ndarray, rotation: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (ends, V, O, 3) of the balls between a capsule's pieces, of all else the same for all ends, and matrices
    (V, O, 3, 3)."""
    a, b = size[..., 0], size[..., 1]
    half = np.where(kind == CAPSULE, b, 0)
    steps = np.linspace(-1, 1, PIECES + 1)[:, None, None, None]
    around = np.where(kind == TORUS, a + b, a)
    drum = np.sqrt(2) * np.stack([a, b, a], -1)
    axes = np.select(
        [(kind == which)[..., None] for which in (BOX, CYLINDER, CONE, ELLIPSOID)],
        [np.sqrt(3) * size, drum, drum, size],
        around[..., None],
    )
    turned = rotation * axes[..., None, :]
    along = rotation[..., 1] * half[..., None]
    return centre + steps * along, turned @ turned.swapaxes(-1, -2)


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
    return low, high


def _pieces(low: np.ndarray, high: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From the balls at the ends to the pieces between them; (axes, ends, V, O) to (axes, pieces, V, O)."""
    low, high = np.minimum(low[:, 1:], low[:, :-1]) - LOOSE, np.maximum(high[:, 1:], high[:, :-1]) + LOOSE
    return np.where(there, low, np.inf), np.where(there, high, -np.inf)


def bound(
    kind: np.ndarray,
    centre: np.ndarray,
    rotation: np.ndarray,
    size: np.ndarray,
    eye: np.ndarray,
    camera: np.ndarray,
    light: np.ndarray,
) -> Bounds:
    """Bound all solids of a batch.

    Args:
        kind: (V, O) index into SOLIDS, -1 for an empty slot.
        centre, rotation, size: (V, O, 3), (V, O, 3, 3) local-to-world, (V, O, 3) as SOLIDS says.
        eye, camera: (V, 3), (V, 3, 3) camera-to-world.
        light: (V, 3, 3) unit vectors: towards the light and two across it.
    """
    ends, matrix = _ellipsoids(kind, centre, rotation, size)
    turn = camera[:, None]
    there, turned = (ends - eye[:, None]) @ camera, turn.swapaxes(-1, -2) @ matrix @ turn
    seen = zip(*(slope_range(there, turned, axis) for axis in (0, 1)), strict=True)
    axes = light[:, [1, 2, 0]]  # two across the light, then along it
    extent = np.sqrt(np.maximum(np.einsum("vai,voij,vaj->avo", axes, matrix, axes, optimize=True), 0))[:, None]
    along = np.moveaxis(ends @ axes.swapaxes(-1, -2), -1, 0)
    low, high = along - extent, along + extent
    return Bounds(
        seen=_pieces(*(np.stack(side) for side in seen), kind >= 0),
        shade=_pieces(low[:2], high[:2], kind >= 0),
        top=high[2].max(0) + LOOSE,
    )
