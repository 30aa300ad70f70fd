"""Labels of the procedural scenes from what the rays met: normals, boxes, keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.scene_geometry import Hits, Rays, World, dot, trace
from lavin.data.scene_layout import PEOPLE, Layout
from lavin.data.scene_people import AROUND, KEYPOINTS
from lavin.data.scene_solids import NEAR_M


def camera_normals(world: World, rays: Rays, hits: Hits) -> Tensor:
    """(3, M): x right, y up, z towards the viewer."""
    rotation = rays.spread(world.camera_rotation)
    right, down, forward = (dot(rotation[column::3], hits.normal) for column in (0, 1, 2))
    return torch.stack([right, -down, -forward])


# ------------------------------------------------------------------------------------------------------ masks and boxes


@dataclass
class Profiles:
    """How many pixels of each thing lie in each column and row: everything boxes and expressions need."""

    columns: np.ndarray
    """(scenes, frames, things, width)."""
    rows: np.ndarray
    """(scenes, frames, things, height)."""


def count_profiles(owner: Tensor, things: int, scenes: int, frames: int, size: tuple[int, int]) -> Profiles:
    """Count from what each pixel shows, (V * height * width,); only numbers below ``things`` are things."""
    height, width = size
    on_thing = (owner < things).nonzero().squeeze(1)
    view = on_thing.div(height * width, rounding_mode="floor")
    thing = view * things + owner.index_select(0, on_thing)
    row = on_thing.div(width, rounding_mode="floor") - view * height
    column = on_thing % width
    bins = scenes * frames * things
    columns = torch.bincount(thing * width + column, minlength=bins * width)
    rows = torch.bincount(thing * height + row, minlength=bins * height)
    shape = (scenes, frames, things, -1)
    return Profiles(columns.view(shape).cpu().numpy(), rows.view(shape).cpu().numpy())


def _extent(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last non-zero entry along the last axis."""
    there = counts > 0
    return there.argmax(-1), there.shape[-1] - there[..., ::-1].argmax(-1)


def boxes(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(..., 4) float32 from profiles; NaN where nothing is visible."""
    (x0, x1), (y0, y1) = _extent(columns), _extent(rows)
    boxes = np.stack([x0, y0, x1, y1], -1).astype(np.float32)
    boxes[columns.sum(-1) == 0] = np.nan
    return boxes


# ----------------------------------------------------------------------------------------------------------- keypoints


def keypoints(world: World, layouts: Sequence[Layout], frames: int, size: tuple[int, int]) -> np.ndarray:
    """COCO keypoints by projection, their visibility by a ray to each.

    A joint lies inside the body, so it counts as visible if the ray meets nothing before it but the parts that meet
    in that joint, and those no farther before it than ``KEYPOINTS`` says.

    Returns:
        (scenes, frames, PEOPLE, 17, 3) float32: x and y in pixels, and v, which is 2 for visible, 1 for hidden; all
        three are 0 for joints outside the picture or behind the camera, and for people whom the scene does not have.
    """
    height, width = size
    found = np.zeros((len(layouts), frames, PEOPLE, len(KEYPOINTS), 3), np.float32)
    rows, places, rays, slopes, depths, flesh = [], [], [], [], [], []
    for scene, layout in enumerate(layouts):
        joints = np.stack([who.joints[:frames] for who in layout.people], 1)  # frames, people, 17, 3
        offset = joints - layout.camera_position[:frames, None, None]
        seen = np.einsum("fmjc,fcd->fmjd", offset, layout.camera_rotation[:frames])
        x = layout.focal * seen[..., 0] / seen[..., 2] + width / 2
        y = layout.focal * seen[..., 1] / seen[..., 2] + height / 2
        inside = (seen[..., 2] > NEAR_M) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        frame, who, joint = inside.nonzero()
        rows.append(np.stack([np.full_like(frame, scene), frame, who, joint]))
        places.append(np.stack([x[inside], y[inside]], -1))
        depth = seen[inside][:, 2]
        rays.append(offset[inside] / depth[:, None])
        slopes.append(seen[inside][:, :2] / depth[:, None])
        depths.append(depth)
        around = np.stack([person.flesh for person in layout.people])[who, joint]
        flesh.append(around / np.linalg.norm(rays[-1], axis=-1))
    scene, frame, who, joint = np.concatenate(rows, 1)
    device = world.focal.device
    view = torch.from_numpy(scene * frames + frame).to(device)
    direction, slopes = (torch.from_numpy(np.concatenate(part).T.copy()).float().to(device) for part in (rays, slopes))
    hits = trace(world, Rays(view, direction, slopes))
    met, surface = hits.t.cpu().numpy(), hits.surface.cpu().numpy()
    part = surface - world.alone - who * world.parts
    own = (part >= 0) & (part < world.parts)
    own &= AROUND[joint, np.where(own, part, 0)]
    hidden = met < np.concatenate(depths) - np.where(own, np.concatenate(flesh), 0)
    found[scene, frame, who, joint, :2] = np.concatenate(places)
    found[scene, frame, who, joint, 2] = np.where(hidden, 1, 2)
    return found
