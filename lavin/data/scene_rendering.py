"""From layouts to pictures: packs scenes into the tables of a batch and casts the rays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lavin.data import scene_geometry as geometry
from lavin.data.scene_appearance import Look, shade
from lavin.data.scene_bounds import Bounds, bound
from lavin.data.scene_geometry import Hits, Rays, World
from lavin.data.scene_grid import lay_grid
from lavin.data.scene_layout import SLOTS, Layout
from lavin.data.scene_people import PARTS
from lavin.data.scene_solids import indices

WIDEST = 0.6
"""Slope beyond which pictures hardly reach."""
CONTRAST = 0.07
"""Colour step between neighbours above which a pixel is supersampled."""


# ------------------------------------------------------------------------------------------------------------- packing


def _tables(layout: Layout, frames: int) -> tuple[np.ndarray, ...]:
    """The columns of World and Look that belong to one scene: float32 (rows, frames), kind (slots, frames)."""
    slot, solid_kind, size, centre, rotation = layout.solids()
    kind = np.full((layout.slots, frames), -1)
    kind[slot] = solid_kind[:, None]
    table = np.zeros((15, layout.slots, frames), np.float32)
    table[:3, slot] = centre[:frames].transpose(2, 1, 0)
    table[3:12, slot] = rotation[:frames].reshape(frames, len(slot), 9).transpose(2, 1, 0)
    table[12:, slot] = size.T[:, :, None]
    view = np.concatenate(
        [[layout.focal], layout.walls, layout.light.ravel(), layout.brightness, layout.sky], dtype=np.float32
    )
    camera = np.concatenate([layout.camera_rotation[:frames].reshape(frames, 9), layout.camera_position[:frames]], 1)
    views = np.concatenate([np.repeat(view[:, None], frames, 1), camera.T.astype(np.float32)])
    surfaces = np.repeat(layout.surfaces[:, :, None], frames, 2).astype(np.float32)
    return kind, table, views, surfaces


def pack(layouts: Sequence[Layout], frames: int) -> tuple[np.ndarray, ...]:
    """``_tables`` of all scenes side by side: kind (slots, V), solids (15, slots, V), views, surfaces."""
    tables = zip(*(_tables(layout, frames) for layout in layouts), strict=True)
    return tuple(np.concatenate(parts, axis=-1) for parts in tables)


def build(layouts: Sequence[Layout], frames: int, device: torch.device) -> tuple[World, Look]:
    """Tables of all views, scene by scene, frame by frame."""
    kind, table, views, surfaces = pack(layouts, frames)
    bounds = limits(kind, table, views)
    seen, shade = lay_grid(*bounds.seen, WIDEST, device), lay_grid(*bounds.shade, np.inf, device)
    top = torch.from_numpy(bounds.top.T.astype(np.float32)).flatten().to(device)
    kind, solids, views, surfaces = (torch.from_numpy(values).to(device) for values in (kind, table, views, surfaces))
    focal, walls, light, brightness, sky, rotation, position = views.split([1, 2, 9, 2, 6, 9, 3])
    alone = min(kind.shape[0], SLOTS)
    parts = len(PARTS) if kind.shape[0] > alone else 0
    eye, sun = (
        geometry.rotate_back(solids[3:12], vector.expand(solids[:3].shape)).flatten(1)
        for vector in (position.unsqueeze(1) - solids[:3], light[:3].unsqueeze(1))
    )
    world = World(
        focal[0], rotation, position, kind.flatten(), solids.flatten(1), walls, light, eye, sun, seen, shade, top,
        alone, parts,
    )  # fmt: skip
    return world, Look(surfaces.flatten(1), brightness, sky)


def limits(kind: np.ndarray, table: np.ndarray, views: np.ndarray) -> Bounds:
    """Bounds of what ``pack`` returns, in float64 again."""
    slots, number = kind.shape
    table, views = table.T.astype(float), views.T.astype(float)
    return bound(
        kind.T,
        table[..., :3],
        table[..., 3:12].reshape(number, slots, 3, 3),
        table[..., 12:],
        eye=views[:, 29:],
        camera=views[:, 20:29].reshape(number, 3, 3),
        light=views[:, 3:12].reshape(number, 3, 3),
    )


def owners(slots: int) -> np.ndarray:
    """(slots + 4,) what each surface is part of: objects 0 ... SLOTS - 1, then people, then the backgrounds."""
    things = np.concatenate([np.arange(SLOTS), SLOTS + np.arange(slots - SLOTS) // len(PARTS)])
    return np.concatenate([things, things[-1] + 1 + np.arange(4)])


# ----------------------------------------------------------------------------------------------------------- rendering


def _rough(colour: Tensor, surface: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Indices of pixels that differ from a neighbour in surface or by more than CONTRAST in colour."""
    colour, surface = colour.view(3, *shape), surface.view(shape)
    rough = torch.zeros(shape, dtype=torch.bool, device=colour.device)
    for axis in (1, 2):
        length = shape[axis] - 1
        step = (colour.narrow(axis + 1, 1, length) - colour.narrow(axis + 1, 0, length)).abs_()
        differs = torch.maximum(torch.maximum(step[0], step[1]), step[2]) > CONTRAST
        differs |= surface.narrow(axis, 1, length) != surface.narrow(axis, 0, length)
        rough.narrow(axis, 1, length).logical_or_(differs)
        rough.narrow(axis, 0, length).logical_or_(differs)
    return indices(rough.flatten())


def _cast(world: World, look: Look, rays: Rays) -> tuple[Hits, Tensor]:
    hits = geometry.trace(world, rays)
    return hits, shade(world, look, rays, hits, geometry.shadows(world, rays, hits))


def render(
    world: World, look: Look, size: tuple[int, int], others: Rays | None = None
) -> tuple[Rays, Hits, Tensor, Hits | None]:
    """Cast a ray through every pixel centre, then four more where the picture has an edge, and others with these.

    Returns:
        Rays and hits at pixel centres (the labels' view of the scene), the picture, uint8 (V, height, width, 3), and
        the hits of the other rays.
    """
    x, y, view = geometry.pixel_centres(world.views, size, world.focal.device)
    rays = geometry.camera_rays(world, x, y, view, size, size[0] * size[1])
    hits, colour = _cast(world, look, rays)
    surface, met = hits.surface, None
    if world.parts:  # seams between parts of a person need no finer rays unless they show
        surface = torch.from_numpy(owners(world.slots)).to(surface.device)[surface]
    rough = _rough(colour, surface, (world.views, *size))
    if rough.numel() or others is not None:
        corners_x = x[rough] + torch.tensor([[-0.25], [0.25], [-0.25], [0.25]], device=x.device)
        corners_y = y[rough] + torch.tensor([[-0.25], [-0.25], [0.25], [0.25]], device=x.device)
        finer = geometry.camera_rays(world, corners_x.flatten(), corners_y.flatten(), view[rough].repeat(4), size, None)
        number = len(finer.view)
        finer_hits, finer_colour = _cast(world, look, finer.followed_by(others))
        a, b, c, d = finer_colour[:, :number].reshape(3, 4, -1).unbind(1)
        colour.index_copy_(1, rough, (a + b + c + d) / 4)
        met = None if others is None else finer_hits.after(number)
    picture = (colour * 255).round_().to(torch.uint8)
    return rays, hits, picture.view(3, world.views, *size).permute(1, 2, 3, 0).contiguous(), met
