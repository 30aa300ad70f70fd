"""Optical flow of the procedural scenes: every surface moves as a rigid body, seen by a camera that moves too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavin.data.scene_geometry import SKY, Hits, Rays, World, dot
from lavin.data.scene_layout import Layout
from lavin.data.scene_solids import NEAR_M


def carry(layouts: Sequence[Layout], frames: int, device: torch.device) -> Tensor:
    """Maps (12, (slots + 4) * V) from a frame's ray to the next frame's camera: row-major matrix A and vector b so that
    a surface point at eye + X is seen at A X + b; sky, at infinity, has b = 0. Composed in float64: the difference
    of two poses is small."""
    slots = layouts[0].slots
    maps = np.zeros((len(layouts), frames, slots + 4, 3, 4))
    for scene, layout in enumerate(layouts):
        now, later = slice(0, frames), slice(1, frames + 1)
        to_camera = layout.camera_rotation[later].transpose(0, 2, 1)
        eye, next_eye = layout.camera_position[now], layout.camera_position[later]
        maps[scene, :, :, :, :3] = to_camera[:, None]
        maps[scene, :, slots:, :, 3] = np.einsum("fij,fj->fi", to_camera, eye - next_eye)[:, None]
        slot, _, _, centre, rotation = layout.solids()
        turn = rotation[later] @ rotation[now].swapaxes(-1, -2)
        from_centre = np.einsum("fnij,fnj->fni", turn, eye[:, None] - centre[now])
        there = from_centre + centre[later] - next_eye[:, None]
        maps[scene, :, slot, :, :3] = (to_camera[:, None] @ turn).swapaxes(0, 1)
        maps[scene, :, slot, :, 3] = np.einsum("fij,fnj->nfi", to_camera, there)
        maps[scene, :, slots + SKY, :, 3] = 0
    columns = maps.transpose(3, 4, 2, 0, 1)  # row, column, surface, scene, frame
    matrix, vector = columns[:, :3].reshape(9, -1), columns[:, 3].reshape(3, -1)
    return torch.from_numpy(np.concatenate([matrix, vector])).float().to(device)


def flow(world: World, rays: Rays, hits: Hits, maps: Tensor, x: Tensor, y: Tensor, size: tuple[int, int]) -> Tensor:
    """Optical flow (2, M): pixels right and down to the next frame, NaN for what moves behind the camera.

    Args:
        rays, hits: through image points x and y (M,) pixels, and what they met.
        maps: of ``carry``.
        size: height and width of the picture.
    """
    moved = maps.index_select(1, hits.surface * world.views + rays.view)
    sky = hits.surface == world.slots + SKY
    offset = rays.direction * torch.where(sky, 1, hits.t)
    seen = torch.stack([dot(moved[i : i + 3], offset) + moved[9 + i // 3] for i in (0, 3, 6)])
    focal = rays.spread(world.focal)
    u = focal * seen[0] / seen[2] + size[1] / 2 - x
    v = focal * seen[1] / seen[2] + size[0] / 2 - y
    return torch.where(seen[2] > NEAR_M, torch.stack([u, v]), torch.nan)
