"""Rays, solids and planes of the procedural scenes: what a camera sees, and what stands in the light's way.

Frames. The world has y up and the ground at y = 0. The camera frame is the one K expects: x right, y down, z forward.
A camera ray's direction is not normalised: its forward component is 1, so the ray parameter ``t`` *is* planar depth.

Tables. A batch has V views (scene x frame), each with O slots for solids: first those of solids that stand alone,
then, where a scene may have people, a row of slots for the parts of each person. Constants of a view are tables
``(..., V)``, those of a solid ``(..., O * V)`` with column ``slot * V + view``; rays are flat, ``(..., M)``, and say
which view they belong to. Sums over x, y, z are written out: a batched reduction may add in another order than a
single one, and a scene must not depend on its neighbours in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lavin.data.scene_grid import Grid
from lavin.data.scene_solids import NEAR_M, SOLIDS, dot, indices, intersect, normal_at

GROUND, WALL_X, WALL_Z, SKY = range(4)
"""Background surfaces; they follow the O slots in ``Hits.surface``."""

FAR_M = 100.0
"""Ground beyond this is sky."""


@dataclass
class World:
    """Geometry of V views; tables as the module's docstring says, float32."""

    focal: Tensor
    """(V,) focal length in pixels."""
    camera_rotation: Tensor
    """(9, V) camera-to-world, row-major."""
    camera_position: Tensor
    """(3, V) metres."""
    kind: Tensor
    """(O * V,) index into SOLIDS, -1 for an empty slot."""
    solids: Tensor
    """(15, O * V): centre 3, local-to-world rotation 9 (row-major), size 3."""
    walls: Tensor
    """(2, V): the walls are the planes x = -walls[0] and z = -walls[1]; infinite where there is none."""
    light: Tensor
    """(9, V): unit vector towards the light, then two unit vectors across it."""
    eye: Tensor
    """(3, O * V) the camera in each solid's own frame."""
    sun: Tensor
    """(3, O * V) towards the light in each solid's own frame."""
    seen: Grid
    """Which solids a camera ray may meet, by its slopes right and down."""
    shade: Grid
    """Which solids may stand in the light's way, by a point's place across the light."""
    top: Tensor
    """(O * V,) metres along the light above which a solid throws no shadow."""
    alone: int
    """Slots of solids that stand alone; people's parts follow them."""
    parts: int
    """Slots of a person, 0 without people."""

    @property
    def views(self) -> int:
        return self.focal.shape[0]

    @property
    def slots(self) -> int:
        return self.kind.shape[0] // self.views


@dataclass
class Rays:
    """M camera rays."""

    view: Tensor
    """(M,) int64: which view each belongs to."""
    direction: Tensor
    """(3, M) in the world, forward component 1 in the camera."""
    slopes: Tensor
    """(2, M) the components right and down in the camera."""
    per_view: int | None = None
    """Rays per view if they come sorted and equally many for every view, so that spreading needs no gather."""

    def followed_by(self, others: Rays | None) -> Rays:
        """These rays, then others."""
        if others is None:
            return self
        tables = ((self.view, others.view), (self.direction, others.direction), (self.slopes, others.slopes))
        return Rays(*(torch.cat(both, -1) for both in tables))

    def spread(self, table: Tensor) -> Tensor:
        """Constants of views (..., V) to constants of rays (..., M)."""
        if self.per_view is None:
            return table.index_select(-1, self.view)
        return table.unsqueeze(-1).expand(*table.shape, self.per_view).flatten(-2)


@dataclass
class Hits:
    """What M rays meet first."""

    t: Tensor
    """(M,) planar depth in metres, infinite for sky."""
    surface: Tensor
    """(M,) int64: slot of the solid, or O + GROUND, WALL_X, WALL_Z, SKY."""
    point: Tensor
    """(3, M) in the world; the camera for sky."""
    normal: Tensor
    """(3, M) unit vectors in the world; zeros for sky."""
    local: Tensor
    """(3, M) the point in the solid's own frame; the world's for background."""
    local_normal: Tensor
    """(3, M)."""
    facing: Tensor
    """(M,) cosine between the normal and the direction of the light; 0 for sky."""

    def after(self, number: int) -> Hits:
        """Those of the rays after the first ``number``."""
        return Hits(*(value[..., number:] for value in vars(self).values()))


def rotate(rotation: Tensor, vector: Tensor) -> Tensor:
    """(9, ...) row-major times (3, ...)."""
    return torch.stack([dot(rotation[row : row + 3], vector) for row in (0, 3, 6)])


def rotate_back(rotation: Tensor, vector: Tensor) -> Tensor:
    """Transpose of (9, ...) row-major times (3, ...)."""
    return torch.stack([dot(rotation[column::3], vector) for column in (0, 1, 2)])


# ---------------------------------------------------------------------------------------------------------------- rays


def camera_rays(world: World, x: Tensor, y: Tensor, view: Tensor, size: tuple[int, int], per_view: int | None) -> Rays:
    """Rays through image points.

    Args:
        x, y: (M,) pixels from the top left corner of the picture; the centre of the first pixel is (0.5, 0.5).
        view: (M,).
        size: height and width of the picture; its middle is the principal point.
        per_view: as in Rays.
    """
    rays = Rays(view, torch.empty(0), torch.empty(0), per_view)
    height, width = size
    focal = rays.spread(world.focal)
    right, down = (x - width / 2) / focal, (y - height / 2) / focal
    rays.slopes = torch.stack([right, down])
    rotation = rays.spread(world.camera_rotation)
    rays.direction = torch.stack([rotation[i] * right + rotation[i + 1] * down + rotation[i + 2] for i in (0, 3, 6)])
    return rays


def pixel_centres(views: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, view of every pixel of every view, each (views * height * width,)."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    view = torch.arange(views, device=device).repeat_interleave(height * width)
    return x.flatten().repeat(views) + 0.5, y.flatten().repeat(views) + 0.5, view


# ------------------------------------------------------------------------------------------------------------- tracing


def _pair_hits(world: World, column: Tensor, ray: Tensor, frame: tuple[Tensor, ...]) -> Tensor:
    """Ray parameter (P,) at which ray ``ray`` enters the solid in ``column``; the solids are worked through by kind.

    Args:
        column, ray: (P,).
        frame: the table that is one for all rays of a view, in each solid's own frame (3, O * V); the table that each
            ray has of its own, in the world (3, M); and whether the latter are points, not directions.
    """
    shared, own, points = frame
    t = torch.full((column.shape[0],), torch.inf, device=column.device)
    kind = world.kind.index_select(0, column)
    tables = torch.cat([world.solids, shared])
    for k in range(len(SOLIDS)):
        chosen = indices(kind == k)
        if chosen.numel():
            solid = tables.index_select(1, column.index_select(0, chosen))
            vector = own.index_select(1, ray.index_select(0, chosen))
            turned = rotate_back(solid[3:12], vector - solid[:3] if points else vector)
            o, d = (turned, solid[15:]) if points else (solid[15:], turned)
            t.index_copy_(0, chosen, intersect(k, o, d, solid[12:15]))
    return t


def _background(world: World, rays: Rays, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Ground, walls or sky: t (M,) and surface (M,)."""
    slots, d = world.slots, rays.direction
    t = -origin[1] / d[1]
    found = (t > NEAR_M) & (t < FAR_M)
    t = torch.where(found, t, torch.inf)
    surface = torch.where(found, slots + GROUND, slots + SKY)
    walls = rays.spread(world.walls)
    for axis, wall, which in ((0, walls[0], WALL_X), (2, walls[1], WALL_Z)):
        there = (-wall - origin[axis]) / d[axis]
        found = (there > NEAR_M) & (there < t)
        t = torch.where(found, there, t)
        surface = torch.where(found, slots + which, surface)
    return t, surface


def trace(world: World, rays: Rays) -> Hits:
    """What each ray meets first. Solids are tried only by rays in whose cell of the grid they are."""
    origin, d = rays.spread(world.camera_position), rays.direction
    t, surface = _background(world, rays, origin)
    slot, ray = world.seen.candidates(rays.view, *(rays.spread(table) for table in world.seen.frame), rays.slopes)
    column = slot * world.views + rays.view.index_select(0, ray)
    found = _pair_hits(world, column, ray, (world.eye, d, False))
    met = indices(found < torch.inf)
    t, surface = _nearer(t, surface, *(values.index_select(0, met) for values in (found, slot, ray)))
    point = origin + torch.where(surface == world.slots + SKY, 0, t) * d  # the camera itself stands in for sky
    return _with_normals(world, rays, t, surface, point)


def _nearer(t: Tensor, surface: Tensor, found: Tensor, slot: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """t and surface (M,) after pairs of slot and ray (P,) that were found at (P,); of equals the first slot counts,
    and the background before all."""
    nearest = t.scatter_reduce(0, ray, found, "amin")
    closest = (found == nearest.index_select(0, ray)) & (found < t.index_select(0, ray))
    winner = indices(closest)
    ray, slot = ray.index_select(0, winner), slot.index_select(0, winner)
    none = torch.full_like(surface, torch.iinfo(torch.int64).max)
    which = none.scatter_reduce_(0, ray, slot, "amin")
    return nearest, torch.where(nearest < t, which, surface)


def _with_normals(world: World, rays: Rays, t: Tensor, surface: Tensor, point: Tensor) -> Hits:
    """Add what the solids and planes know about the points hit."""
    slots = world.slots
    normal = torch.stack([(surface == slots + which).float() for which in (WALL_X, GROUND, WALL_Z)])
    local, local_normal = point.clone(), normal.clone()
    on_solid = indices(surface < slots)
    column = surface.index_select(0, on_solid) * world.views + rays.view.index_select(0, on_solid)
    kind = world.kind.index_select(0, column)
    for k in range(len(SOLIDS)):
        chosen = indices(kind == k)
        if chosen.numel():
            ray, solid = on_solid.index_select(0, chosen), world.solids.index_select(1, column.index_select(0, chosen))
            there = rotate_back(solid[3:12], point.index_select(1, ray) - solid[:3])
            n = normal_at(k, there, solid[12:])
            local.index_copy_(1, ray, there)
            local_normal.index_copy_(1, ray, n)
            normal.index_copy_(1, ray, rotate(solid[3:12], n))
    return Hits(t, surface, point, normal, local, local_normal, dot(normal, rays.spread(world.light[:3])))


def shadows(world: World, rays: Rays, hits: Hits) -> Tensor:
    """(M,) bool: whether another solid stands between the point and the light.

    A solid's own dark side is the shading's business; walls and ground never come between (the light is on their
    bright side). Candidates are those in the point's cell of the plane across the light, unless all of them is lower.
    """
    lit = indices((hits.facing > 0) & (hits.surface != world.slots + SKY))
    view, point = rays.view.index_select(0, lit), hits.point.index_select(1, lit)
    light = world.light.index_select(1, view)
    across = torch.stack([dot(point, light[i : i + 3]) for i in (3, 6)])
    slot, ray = world.shade.candidates(view, *(table.index_select(1, view) for table in world.shade.frame), across)
    column = slot * world.views + view.index_select(0, ray)
    along = dot(point, light[:3]).index_select(0, ray)
    other = hits.surface.index_select(0, lit).index_select(0, ray) != slot
    above = indices((along < world.top.index_select(0, column)) & other)
    column, ray = column.index_select(0, above), ray.index_select(0, above)
    found = _pair_hits(world, column, ray, (world.sun, point, True))
    shaded = lit.index_select(0, ray.index_select(0, indices(found < torch.inf)))
    return torch.zeros_like(hits.surface, dtype=torch.bool).index_fill_(0, shaded, True)
