"""Labels of the procedural scenes from what the rays met: normals, boxes, keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lavin.data.scene_geometry import Hits, Rays, World, dot
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


@dataclass
class Aims:
    """Rays to the K joints that lie in their pictures."""

    index: np.ndarray
    """(4, K): scene, frame, person, joint."""
    place: np.ndarray
    """(K, 2) x and y in pixels."""
    depth: np.ndarray
    """(K,) of the joint, as the ray's parameter."""
    flesh: np.ndarray
    """(K,) how far before that its own parts may lie, likewise."""
    rays: Rays


def aim(layouts: Sequence[Layout], frames: int, size: tuple[int, int], device: torch.device) -> Aims:
    """At all joints of the scenes' people, leaving out those outside the picture or behind the camera."""
    height, width = size
    index, place, direction, slopes, depths, flesh = [], [], [], [], [], []
    for scene, layout in enumerate(layouts):
        joints = np.stack([who.joints[:frames] for who in layout.people], 1)  # frames, people, 17, 3
        offset = joints - layout.camera_position[:frames, None, None]
        seen = np.einsum("fmjc,fcd->fmjd", offset, layout.camera_rotation[:frames])
        x = layout.focal * seen[..., 0] / seen[..., 2] + width / 2
        y = layout.focal * seen[..., 1] / seen[..., 2] + height / 2
        inside = (seen[..., 2] > NEAR_M) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        frame, who, joint = inside.nonzero()
        index.append(np.stack([np.full_like(frame, scene), frame, who, joint]))
        place.append(np.stack([x[inside], y[inside]], -1))
        depth = seen[inside][:, 2]
        direction.append(offset[inside] / depth[:, None])
        slopes.append(seen[inside][:, :2] / depth[:, None])
        depths.append(depth)
        around = np.stack([person.flesh for person in layout.people])[who, joint]
        flesh.append(around / np.linalg.norm(direction[-1], axis=-1))
    index = np.concatenate(index, 1)
    view = torch.from_numpy(index[0] * frames + index[1]).to(device)
    tables = (torch.from_numpy(np.concatenate(part).T.copy()).float().to(device) for part in (direction, slopes))
    return Aims(index, np.concatenate(place), np.concatenate(depths), np.concatenate(flesh), Rays(view, *tables))


def keypoints(world: World, aims: Aims, hits: Hits, scenes: int, frames: int) -> np.ndarray:
    """COCO keypoints by projection, their visibility by what the rays to them hit.

    A joint lies inside the body, so it counts as visible if the ray meets nothing before it but the parts that meet
    in that joint, and those no farther before it than ``KEYPOINTS`` says.

    Returns:
        (scenes, frames, PEOPLE, 17, 3) float32: x and y in pixels, and v, which is 2 for visible, 1 for hidden; all
        three are 0 for joints outside the picture or behind the camera, and for people whom the scene does not have.
    """
    found = np.zeros((scenes, frames, PEOPLE, len(KEYPOINTS), 3), np.float32)
    scene, frame, who, joint = aims.index
    met, surface = hits.t.cpu().numpy(), hits.surface.cpu().numpy()
    part = surface - world.alone - who * world.parts
    own = (part >= 0) & (part < world.parts)
    own &= AROUND[joint, np.where(own, part, 0)]
    hidden = met < aims.depth - np.where(own, aims.flesh, 0)
    found[scene, frame, who, joint, :2] = aims.place
    found[scene, frame, who, joint, 2] = np.where(hidden, 1, 2)
    return found
