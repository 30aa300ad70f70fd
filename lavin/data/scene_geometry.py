"""Rays, solids and planes of the procedural scenes: what a camera sees, and what stands in the light's way.

Frames. The world has y up and the ground at y = 0. The camera frame is the one K expects: x right, y down, z forward.
A camera ray's direction is not normalised: its forward component is 1, so the ray parameter ``t`` *is* planar depth.

Tables. A batch has V views (scene x frame), each with O slots for solids. Constants of a view are tables
``(..., V)``, those of a solid ``(..., O * V)`` with column ``slot * V + view``; rays are flat, ``(..., M)``, and say
which view they belong to. Sums over x, y, z are written out: a batched reduction may add in another order than a
single one, and a scene must not depend on its neighbours in the batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

KINDS = ("sphere", "box", "cylinder", "cone", "capsule", "torus")
"""Solids. ``size`` is (radius, -, -); (half extents); (radius, half height, -) for cylinder and cone (apex up);
(radius, half length of the straight part, -); (major radius, minor radius, -). The axis is the local y."""
SPHERE, BOX, CYLINDER, CONE, CAPSULE, TORUS = range(len(KINDS))

GROUND, WALL_X, WALL_Z, SKY = range(4)
"""Background surfaces; they follow the O slots in ``Hits.surface``."""

NEAR_M, FAR_M = 1e-3, 100.0
"""Hits nearer or farther than this do not count; ground beyond ``FAR_M`` is sky."""
TORUS_STEP = 0.03
"""Least step of the torus' sphere tracing in tube radii."""


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
    """(O * V,) index into KINDS, -1 for an empty slot."""
    solids: Tensor
    """(15, O * V): centre 3, local-to-world rotation 9 (row-major), size 3."""
    radius: Tensor
    """(O, V) of the bounding sphere, 0 for an empty slot."""
    walls: Tensor
    """(2, V): the walls are the planes x = -walls[0] and z = -walls[1]; infinite where there is none."""
    light: Tensor
    """(9, V): unit vector towards the light, then two unit vectors across it."""

    @property
    def views(self) -> int:
        return self.focal.shape[0]

    @property
    def slots(self) -> int:
        return self.radius.shape[0]


@dataclass
class Rays:
    """M camera rays."""

    view: Tensor
    """(M,) int64: which view each belongs to."""
    direction: Tensor
    """(3, M) in the world, forward component 1 in the camera."""
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


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(3, ...) . (3, ...) -> (...)"""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


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
    rays = Rays(view, torch.empty(0), per_view)
    height, width = size
    focal = rays.spread(world.focal)
    right, down = (x - width / 2) / focal, (y - height / 2) / focal
    rotation = rays.spread(world.camera_rotation)
    rays.direction = torch.stack([rotation[i] * right + rotation[i + 1] * down + rotation[i + 2] for i in (0, 3, 6)])
    return rays


def pixel_centres(views: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """x, y, view of every pixel of every view, each (views * height * width,)."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    view = torch.arange(views, device=device).repeat_interleave(height * width)
    return x.flatten().repeat(views) + 0.5, y.flatten().repeat(views) + 0.5, view


# -------------------------------------------------------------------------------------------------------------- solids


def _entry(near: Tensor, far: Tensor) -> Tensor:
    """The entry into a convex solid from the interval inside, infinite if there is none (NaN compares false)."""
    return torch.where((near < far) & (near > NEAR_M), near, torch.inf)


def _sphere(o: Tensor, d: Tensor, radius: Tensor, y: Tensor | float = 0.0) -> Tensor:
    """Entry into the sphere around (0, y, 0). The discriminant is taken at the closest point: distance squared
    minus radius squared would cancel for far cameras."""
    above = o[1] - y
    dd = dot(d, d)
    closest = -(o[0] * d[0] + above * d[1] + o[2] * d[2]) / dd
    offset = torch.stack([o[0] + closest * d[0], above + closest * d[1], o[2] + closest * d[2]])
    half = ((radius * radius - dot(offset, offset)) / dd).sqrt()
    return _entry(closest - half, closest + half)


def _box(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    low, high = (-size - o) / d, (size - o) / d
    near, far = torch.minimum(low, high), torch.maximum(low, high)
    return _entry(
        torch.maximum(torch.maximum(near[0], near[1]), near[2]), torch.minimum(torch.minimum(far[0], far[1]), far[2])
    )


def _tube(o: Tensor, d: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Interval inside the endless cylinder around the y axis; discriminant at the closest point, as for the sphere."""
    dd = d[0] * d[0] + d[2] * d[2]
    closest = -(o[0] * d[0] + o[2] * d[2]) / dd
    x, z = o[0] + closest * d[0], o[2] + closest * d[2]
    half = ((radius * radius - (x * x + z * z)) / dd).sqrt()
    return closest - half, closest + half


def _drum(o: Tensor, d: Tensor, radius: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Interval inside the cylinder of finite height: (enter, leave), reversed or NaN for a miss."""
    near, far = _tube(o, d, radius)
    low, high = (-half - o[1]) / d[1], (half - o[1]) / d[1]
    return torch.maximum(near, torch.minimum(low, high)), torch.minimum(far, torch.maximum(low, high))


def _cylinder(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    return _entry(*_drum(o, d, size[0], size[1]))


def _cone(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Nearest of the base disc and the two roots on the mantle x^2 + z^2 = (k (half - y))^2."""
    radius, half = size[0], size[1]
    k2 = (radius / (2 * half)).square()
    w = half - o[1]
    a = d[0] * d[0] + d[2] * d[2] - k2 * d[1] * d[1]
    b = o[0] * d[0] + o[2] * d[2] + k2 * w * d[1]
    c = o[0] * o[0] + o[2] * o[2] - k2 * w * w
    q = -(b + torch.copysign((b * b - a * c).sqrt(), b))  # no cancellation, and a = 0 only loses the root at infinity
    base = (-half - o[1]) / d[1]
    x, z = o[0] + base * d[0], o[2] + base * d[2]
    t = torch.where((x * x + z * z <= radius * radius) & (base > NEAR_M), base, torch.inf)
    for root in (q / a, c / q):
        y = o[1] + root * d[1]
        t = torch.where((y.abs() <= half) & (root > NEAR_M) & (root < t), root, t)
    return t


def _capsule(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """A union is entered where the first of its parts is: straight part and two balls."""
    radius, half = size[0], size[1]
    near, _ = _tube(o, d, radius)
    straight = torch.where(((o[1] + near * d[1]).abs() <= half) & (near > NEAR_M), near, torch.inf)
    return torch.minimum(straight, torch.minimum(_sphere(o, d, radius, half), _sphere(o, d, radius, -half)))


def _torus_distance(o: Tensor, d: Tensor, size: Tensor, t: Tensor) -> Tensor:
    """Signed distance of o + t d to the torus, exact: from the ring's circle, less the tube's radius."""
    x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
    around = (x * x + z * z).sqrt() - size[0]
    return (around * around + y * y).sqrt() - size[1]


def _torus_march(o: Tensor, d: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Last point outside and first point inside the torus along each ray: t (P,) and t (P,), NaN for a miss.

    Steps are the distance to the surface, but at least TORUS_STEP tube radii: rays that graze the tube would crawl,
    and a chord that short is far thinner than a pixel. Rays that are done leave the loop.
    """
    speed = dot(d, d).sqrt()
    start, leave = _drum(o, d, size[0] + size[1], size[1])  # a torus fits its drum tightly
    start = _entry(start, leave)
    outside, inside = torch.full_like(start, torch.nan), torch.full_like(start, torch.nan)
    live = start.isfinite().nonzero().squeeze(1)
    state = torch.cat([o, d, size, torch.stack([speed, leave, start, start])]).index_select(1, live)
    while live.numel():
        o, d, size, (speed, leave, last, t) = state[:3], state[3:6], state[6:9], state[9:]
        for _ in range(4):
            away = _torus_distance(o, d, size, t)
            out = away > 0
            last = torch.where(out, t, last)
            t = torch.where(out, t + torch.maximum(away, TORUS_STEP * size[1]) / speed, t)
        entered = (~out).nonzero().squeeze(1)
        outside[live[entered]], inside[live[entered]] = last[entered], t[entered]
        state[11], state[12] = last, t
        keep = (out & (t < leave)).nonzero().squeeze(1)
        live, state = live.index_select(0, keep), state.index_select(1, keep)
    return outside, inside


def _torus(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Sphere tracing to a bracket around the entry, then bisection and Newton's method inside the bracket."""
    found = torch.full_like(o[0], torch.inf)
    low, high = _torus_march(o, d, size)
    hit = (high > NEAR_M).nonzero().squeeze(1)
    if not hit.numel():
        return found
    o, d, size = (table.index_select(1, hit) for table in (o, d, size))
    low, high = low[hit], high[hit]
    for _ in range(4):
        middle = (low + high) / 2
        out = _torus_distance(o, d, size, middle) > 0
        low, high = torch.where(out, middle, low), torch.where(out, high, middle)
    t = (low + high) / 2
    for _ in range(2):
        x, y, z = o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]
        around = (x * x + z * z).sqrt()
        tube = ((around - size[0]).square() + y * y).sqrt()
        slope = ((around - size[0]) * (x * d[0] + z * d[2]) / around + y * d[1]) / tube
        t = torch.minimum(torch.maximum(t - (tube - size[1]) / slope, low), high).nan_to_num(0)
    return found.index_copy_(0, hit, t)


def intersect(kind: int, o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Where rays first enter solids.

    Args:
        kind: index into KINDS.
        o, d: (3, P) origins and directions in each solid's own frame.
        size: (3, P) as KINDS says, metres.

    Returns:
        (P,) ray parameters, infinite for a miss.
    """
    if kind == SPHERE:
        return _sphere(o, d, size[0])
    return {BOX: _box, CYLINDER: _cylinder, CONE: _cone, CAPSULE: _capsule, TORUS: _torus}[kind](o, d, size)


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    length = (x * x + y * y + z * z).sqrt().clamp_min(1e-12)
    return torch.stack([x / length, y / length, z / length])


def normal_at(kind: int, p: Tensor, size: Tensor) -> Tensor:
    """Outward unit normals (3, P) at surface points (3, P), in the solid's own frame."""
    x, y, z = p
    if kind == SPHERE:
        return _unit(x, y, z)
    if kind == BOX:
        depth = p.abs() - size  # zero on the face, negative inside
        first = (depth[0] >= depth[1]) & (depth[0] >= depth[2])
        second = ~first & (depth[1] >= depth[2])
        return torch.stack([first, second, ~first & ~second]) * p.sign()
    around = (x * x + z * z).sqrt()
    if kind == CYLINDER:
        cap = y.abs() - size[1] > around - size[0]
        zero = torch.zeros_like(y)
        return torch.where(cap, torch.stack([zero, y.sign(), zero]), _unit(x, zero, z))
    if kind == CONE:
        radius, height = size[0], 2 * size[1]
        base = y + size[1] < (radius * (size[1] - y) / height - around) * height / (height**2 + radius**2).sqrt()
        down = torch.stack([torch.zeros_like(y), -torch.ones_like(y), torch.zeros_like(y)])
        side = _unit(x * height, around * radius, z * height)
        return torch.where(base, down, side)
    if kind == CAPSULE:
        return _unit(x, y - torch.minimum(torch.maximum(y, -size[1]), size[1]), z)
    inner = 1 - size[0] / around.clamp_min(1e-12)
    return _unit(x * inner, y, z * inner)


def bounding_radius(kind: int, size: np.ndarray) -> float:
    """Radius of a sphere around the solid's centre that holds it."""
    if kind == SPHERE:
        return size[0]
    if kind == BOX:
        return float(np.sqrt((size**2).sum()))
    return size[0] + size[1] if kind in (CAPSULE, TORUS) else float(np.hypot(size[0], size[1]))


def reach(kind: int, size: np.ndarray, direction: np.ndarray) -> float:
    """How far the solid extends from its centre along a unit vector of its own frame."""
    x, y, z = direction
    if kind == SPHERE:
        return size[0]
    if kind == BOX:
        return float((np.abs(direction) * size).sum())
    across = float(np.hypot(x, z))
    if kind == CYLINDER:
        return size[0] * across + size[1] * abs(y)
    if kind == CONE:
        return max(size[1] * y, size[0] * across - size[1] * y)
    return size[0] + size[1] * abs(y) if kind == CAPSULE else size[0] * across + size[1]


# ------------------------------------------------------------------------------------------------------------- tracing


def _pairs(near: Tensor) -> tuple[Tensor, Tensor]:
    """Slots and rays of the true entries of (O, M)."""
    flat = near.flatten().nonzero().squeeze(1)
    slot = flat.div(near.shape[1], rounding_mode="floor")
    return slot, flat - slot * near.shape[1]


def _pair_hits(world: World, column: Tensor, origin: Tensor, direction: Tensor) -> Tensor:
    """Ray parameter (P,) at which each ray enters the solid in ``column``; the solids are worked through by kind."""
    t = torch.full((column.shape[0],), torch.inf, device=column.device)
    kind = world.kind.index_select(0, column)
    for k in range(len(KINDS)):
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


def trace(world: World, rays: Rays) -> Hits:
    """What each ray meets first. Solids are tried only by rays that pass their bounding spheres."""
    origin, d = rays.spread(world.camera_position), rays.direction
    t, surface = _background(world, rays, origin)
    centre = world.solids[:3].view(3, world.slots, world.views) - world.camera_position.unsqueeze(1)
    outside = dot(centre, centre) - world.radius.square()
    along = sum(rays.spread(centre[i]) * d[i] for i in range(3))
    slot, ray = _pairs((along > 0) & (along * along > rays.spread(outside) * dot(d, d)))
    column = slot * world.views + rays.view.index_select(0, ray)
    found = _pair_hits(world, column, origin.index_select(1, ray), d.index_select(1, ray))
    every = torch.full((world.slots, t.shape[0]), torch.inf, device=t.device)
    every.view(-1).index_copy_(0, slot * t.shape[0] + ray, found)
    for number in range(world.slots):
        closer = every[number] < t
        t = torch.where(closer, every[number], t)
        surface = torch.where(closer, number, surface)
    point = origin + torch.where(surface == world.slots + SKY, 0, t) * d  # the camera itself stands in for sky
    return _with_normals(world, rays, Hits(t, surface, point, torch.empty(0), point.clone(), torch.empty(0)))


def _with_normals(world: World, rays: Rays, hits: Hits) -> Hits:
    """Fill in what the solids and planes know about the points hit."""
    slots = world.slots
    normal = torch.stack([(hits.surface == slots + which).float() for which in (WALL_X, GROUND, WALL_Z)])
    local_normal = normal.clone()
    on_solid = (hits.surface < slots).nonzero().squeeze(1)
    column = hits.surface.index_select(0, on_solid) * world.views + rays.view.index_select(0, on_solid)
    kind = world.kind.index_select(0, column)
    for k in range(len(KINDS)):
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
    bright side). Candidates pass a test in the plane across the light, where shadows of bounding spheres are discs.
    """
    light = rays.spread(world.light)
    column_light = world.light.unsqueeze(1)
    centre = world.solids[:3].view(3, world.slots, world.views)
    flat = [dot(hits.point, light[i : i + 3]) for i in (3, 6)]
    flat_centre = [dot(centre, column_light[i : i + 3]) for i in (3, 6)]
    top = dot(centre, column_light[:3]) + world.radius
    across = [a - rays.spread(b) for a, b in zip(flat, flat_centre, strict=True)]
    near = across[0].square() + across[1].square() < rays.spread(world.radius.square())
    near &= dot(hits.point, light[:3]) < rays.spread(top)
    near &= hits.surface != torch.arange(world.slots, device=near.device).unsqueeze(1)
    near &= hits.surface != world.slots + SKY
    near &= dot(hits.normal, light[:3]) > 0
    slot, ray = _pairs(near)
    column = slot * world.views + rays.view.index_select(0, ray)
    found = _pair_hits(world, column, hits.point.index_select(1, ray), light[:3].index_select(1, ray))
    dark = torch.zeros_like(hits.surface, dtype=torch.bool)
    dark[ray[found.isfinite()]] = True
    return dark
