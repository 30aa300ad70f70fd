"""Measured depth: metres of stored millimetres, and the surface normals that depth and a camera's intrinsics mean."""

from __future__ import annotations

import cv2
import numpy as np


def metres(depth_mm: np.ndarray) -> np.ndarray:
    """float32 metres of 16-bit millimetres; NaN where 0 or 65535, which mean that nothing was measured."""
    known = (depth_mm != 0) & (depth_mm != 65535)
    return np.where(known, depth_mm / np.float32(1000), np.float32(np.nan))


JUMP = np.log(1.05)
"""Neighbouring depths that differ by more than 5 % belong to two surfaces."""
FAR_M = 20_000.0
"""Stands for an unknown depth; so far from all others that no filter mixes them."""
LITTLE = 1e-3
"""Scale of slopes beside log depth in a bilateral filter, so that depth alone says which pixels are averaged."""


def normals_from_depth(depth_m: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Unit normals of a depth picture, float32 (height, width, 3): x right, y up, z towards the viewer.

    With l = log depth, and u, v in pixels from the principal point, back-projection gives a surface the normal

        (fx dl/dx, -fy dl/dy, 1 + u dl/dx + v dl/dy)    up to its length.

    A camera measures depth in steps larger than a pixel's slope, so the slopes, central differences of median-filtered
    depth, are averaged over pixels of nearly equal depth. Averaging the depth itself would flatten every slope that
    ends at a hole or at the picture's border. Zeros where depth is unknown, or a jump or an unknown pixel lies between
    the two points of a difference.

    Args:
        depth_m: (height, width) planar depth, NaN = unknown.
        K: (3, 3) pinhole intrinsics in pixels.
    """
    height, width = depth_m.shape
    step, radius = max(1, width // 320), max(2, width // 80)
    unknown = np.isnan(depth_m)
    log_depth = cv2.medianBlur(np.log(np.where(unknown, np.float32(FAR_M), depth_m)), 5)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (2 * step + 1, 2 * step + 1))
    unknown |= cv2.dilate(jumps(log_depth), cross) > 0

    right, down = slopes(log_depth, step, axis=1), slopes(log_depth, step, axis=0)
    layers = np.stack([log_depth, right * LITTLE, down * LITTLE], axis=-1)
    layers[unknown] = np.log(FAR_M), 0, 0
    border = 2 + step  # where the median and the differences have no room; filled from inside
    layers = layers[border:-border, border:-border]
    for _ in range(2):
        layers = cv2.bilateralFilter(layers, 2 * radius + 1, 0.6 * JUMP, radius)
    log_depth, right, down = np.pad(layers, ((border, border), (border, border), (0, 0)), "edge").transpose(2, 0, 1)
    right, down = right / LITTLE, down / LITTLE
    unknown |= log_depth > np.log(FAR_M) - 1

    v, u = np.mgrid[:height, :width].astype(np.float32) + 0.5 - K[[1, 0], 2].astype(np.float32).reshape(2, 1, 1)
    normals = np.stack([K[0, 0] * right, -K[1, 1] * down, 1 + u * right + v * down], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[unknown] = 0
    return normals.astype(np.float32)


def slopes(values: np.ndarray, step: int, axis: int) -> np.ndarray:
    """Change per pixel between the points ``step`` before and after each; wrong closer than that to the border."""
    return (np.roll(values, -step, axis) - np.roll(values, step, axis)) / np.float32(2 * step)


def jumps(log_depth: np.ndarray) -> np.ndarray:
    """1 where a pixel and one of its four neighbours are on two surfaces, uint8."""
    found = np.zeros(log_depth.shape, np.uint8)
    for axis in range(2):
        apart = np.abs(np.diff(log_depth, axis=axis)) > JUMP
        low, high = ([slice(None)] * 2 for _ in range(2))
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        found[tuple(low)] |= apart
        found[tuple(high)] |= apart
    return found
