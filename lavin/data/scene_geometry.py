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

from lavin.data.scene_solids import NEAR_M, SOLIDS, dot, intersect, normal_at

GROUND, WALL_X, WALL_Z, SKY = range(4)
"""Background surfaces; they follow the O slots in ``Hits.surface``."""

SEEN_LOW, SEEN_HIGH, SHADE_LOW, SHADE_HIGH = slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 9)
"""Rows of ``World.bounds``."""

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
    radius: Tensor
    """(slots of solids that stand alone, V) of the bounding sphere, 0 for an empty slot."""
    walls: Tensor
    """(2, V): the walls are the planes x = -walls[0] and z = -walls[1]; infinite where there is none."""
    light: Tensor
    """(9, V): unit vector towards the light, then two unit vectors across it."""
    bounds: Tensor
    """(9, other slots, V) rectangles around people's parts, none without people. Least and most slope to the right
    and down at which a camera ray meets a part: rows ``SEEN_LOW``, ``SEEN_HIGH``; between which metres across the light
    its shadow falls, and its top along the light: rows ``SHADE_LOW``, ``SHADE_HIGH``."""
    parts: int
    """Slots of a person, 0 without people."""

    @property
    def views(self) -> int:
        return self.focal.shape[0]

    @property
    def slots(self) -> int:
        return self.kind.shape[0] // self.views

    @property
    def alone(self) -> int:
        """Slots of solids that stand alone; people's parts follow them."""
        return self.radius.shape[0]


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


def _pairs(near: Tensor) -> tuple[Tensor, Tensor]:
    """Slots and rays of the true entries of (O, M)."""
    flat = near.flatten().nonzero().squeeze(1)
    slot = flat.div(near.shape[1], rounding_mode="floor")
    return slot, flat - slot * near.shape[1]


def _part_pairs(
    world: World, rays: Rays, values: Tensor, low: Tensor, high: Tensor, of_interest: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Slots and rays of people's parts between whose bounds the rays' values lie: people first, then their parts.

    Args:
        values: (3 or fewer, M).
        low, high: rows of ``World.bounds``, each for the value in the same place.
        of_interest: (M,) rays that count, all if None.
    """
    low, high = (bound.view(len(bound), -1, world.parts, world.views) for bound in (low, high))
    near = torch.ones((), dtype=torch.bool, device=values.device) if of_interest is None else of_interest
    for value, least, most in zip(values, low.amin(2), high.amax(2)):
        near = near & (value > rays.spread(least)) & (value < rays.spread(most))
    person, ray = _pairs(near)
    # a pair takes the bounds of all parts as one row, which is far faster than to gather them one by one
    row = person * world.views + rays.view.index_select(0, ray)
    low, high = (bound.transpose(2, 3).reshape(len(bound), -1, world.parts) for bound in (low, high))
    values = values.index_select(1, ray).unsqueeze(2)
    inside = values[0] > low[0].index_select(0, row)
    for value, bound in zip(values[1:], low[1:]):
        inside &= value > bound.index_select(0, row)
    for value, bound in zip(values, high):
        inside &= value < bound.index_select(0, row)
    flat = inside.flatten().nonzero().squeeze(1)
    pair = flat.div(world.parts, rounding_mode="floor")
    slot = world.alone + person.index_select(0, pair) * world.parts + flat - pair * world.parts
    return slot, ray.index_select(0, pair)


def _pair_hits(world: World, column: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Ray parameter (P,) at which each ray enters the solid in ``column``; the solids are worked through by kind."""
    t = torch.full((column.shape[0],), torch.inf, device=column.device)
    kind = world.kind.index_select(0, column)
    for k in range(len(SOLIDS)):
        chosen = (kind == k).nonzero().squeeze(1)
        if chosen.numel():
            solid = world.solids.index_select(1, column.index_select(0, chosen))
            o = rotate_back(solid[3:12], origin.index_select(1, chosen) - solid[:3])
            d = rotate_back(solid[3:12], direction.index_select(1, chosen))
            t.index_copy_(0, chosen, intersect(k, o, d, solid[12:]))
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


def _passed(world: World, rays: Rays) -> tuple[Tensor, Tensor, int]:
    """Slots and rays of the bounds that rays pass, and how many of these pairs come before people's."""
    d = rays.direction
    centre = world.solids[:3].view(3, world.slots, world.views)[:, : world.alone] - world.camera_position.unsqueeze(1)
    outside = dot(centre, centre) - world.radius.square()
    along = sum(rays.spread(centre[i]) * d[i] for i in range(3))
    slot, ray = _pairs((along > 0) & (along * along > rays.spread(outside) * dot(d, d)))
    if not world.parts:
        return slot, ray, len(slot)
    part, who = _part_pairs(world, rays, rays.slopes, world.bounds[SEEN_LOW], world.bounds[SEEN_HIGH], None)
    return torch.cat([slot, part]), torch.cat([ray, who]), len(slot)


def trace(world: World, rays: Rays) -> Hits:
    """What each ray meets first. Solids are tried only by rays that pass their bounding spheres."""
    origin, d = rays.spread(world.camera_position), rays.direction
    t, surface = _background(world, rays, origin)
    slot, ray, alone = _passed(world, rays)
    column = slot * world.views + rays.view.index_select(0, ray)
    found = _pair_hits(world, column, origin.index_select(1, ray), d.index_select(1, ray))
    every = torch.full((world.alone, t.shape[0]), torch.inf, device=t.device)
    every.view(-1).index_copy_(0, slot[:alone] * t.shape[0] + ray[:alone], found[:alone])
    for number in range(world.alone):
        closer = every[number] < t
        t = torch.where(closer, every[number], t)
        surface = torch.where(closer, number, surface)
    if alone < len(slot):
        t, surface = _nearer(t, surface, found[alone:], slot[alone:], ray[alone:])
    point = origin + torch.where(surface == world.slots + SKY, 0, t) * d  # the camera itself stands in for sky
    return _with_normals(world, rays, Hits(t, surface, point, torch.empty(0), point.clone(), torch.empty(0)))


def _nearer(t: Tensor, surface: Tensor, found: Tensor, slot: Tensor, ray: Tensor) -> tuple[Tensor, Tensor]:
    """t and surface (M,) after pairs of slot and ray (P,) that were found at (P,); of equals the first slot counts.
    People have too many slots for a row of rays each."""
    nearest = torch.full_like(t, torch.inf).scatter_reduce_(0, ray, found, "amin")
    winner = (found == nearest.index_select(0, ray)).nonzero().squeeze(1)
    which = torch.full_like(surface, torch.iinfo(torch.int64).max)
    which.scatter_reduce_(0, ray.index_select(0, winner), slot.index_select(0, winner), "amin")
    closer = nearest < t
    return torch.where(closer, nearest, t), torch.where(closer, which, surface)


def _with_normals(world: World, rays: Rays, hits: Hits) -> Hits:
    """Fill in what the solids and planes know about the points hit."""
    slots = world.slots
    normal = torch.stack([(hits.surface == slots + which).float() for which in (WALL_X, GROUND, WALL_Z)])
    local_normal = normal.clone()
    on_solid = (hits.surface < slots).nonzero().squeeze(1)
    column = hits.surface.index_select(0, on_solid) * world.views + rays.view.index_select(0, on_solid)
    kind = world.kind.index_select(0, column)
    for k in range(len(SOLIDS)):
        chosen = (kind == k).nonzero().squeeze(1)
        ray, solid = on_solid.index_select(0, chosen), world.solids.index_select(1, column.index_select(0, chosen))
        local = rotate_back(solid[3:12], hits.point.index_select(1, ray) - solid[:3])
        n = normal_at(k, local, solid[12:])
        hits.local.index_copy_(1, ray, local)
        local_normal.index_copy_(1, ray, n)
        normal.index_copy_(1, ray, rotate(solid[3:12], n))
    hits.normal, hits.local_normal = normal, local_normal
    return hits


def shadows(world: World, rays: Rays, hits: Hits) -> Tensor:
    """(M,) bool: whether another solid stands between the point and the light.

    A solid's own dark side is the shading's business; walls and ground never come between (the light is on their
    bright side). Candidates pass a test in the plane across the light, where shadows of bounding spheres are discs,
    and those of people's parts lie in rectangles.
    """
    light = rays.spread(world.light)
    flat = torch.stack([dot(hits.point, light[i : i + 3]) for i in (3, 6, 0)])  # two across the light, one along it
    lit = (hits.surface != world.slots + SKY) & (dot(hits.normal, light[:3]) > 0)
    centre, column_light = (
        world.solids[:3].view(3, world.slots, world.views)[:, : world.alone],
        world.light.unsqueeze(1),
    )
    u, v, top = (dot(centre, column_light[i : i + 3]) for i in (3, 6, 0))
    squared = (flat[0] - rays.spread(u)).square() + (flat[1] - rays.spread(v)).square()
    near = squared < rays.spread(world.radius.square())
    near &= flat[2] < rays.spread(top + world.radius)
    near &= hits.surface != torch.arange(world.alone, device=near.device).unsqueeze(1)
    slot, ray = _pairs(near & lit)
    if world.parts:
        part, who = _part_pairs(world, rays, flat, world.bounds[SHADE_LOW], world.bounds[SHADE_HIGH], lit)
        other = (hits.surface.index_select(0, who) != part).nonzero().squeeze(1)
        slot, ray = torch.cat([slot, part.index_select(0, other)]), torch.cat([ray, who.index_select(0, other)])
    column = slot * world.views + rays.view.index_select(0, ray)
    found = _pair_hits(world, column, hits.point.index_select(1, ray), light[:3].index_select(1, ray))
    dark = torch.zeros_like(hits.surface, dtype=torch.bool)
    dark[ray[found.isfinite()]] = True
    return dark
