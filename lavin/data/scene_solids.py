"""Solids of the procedural scenes, each in its own frame: where rays enter, how surfaces face, how far they reach.

Points and directions are tables ``(3, P)``; sizes too, in metres, read as ``KINDS`` says. Sums over x, y, z are
written out, as in scene_geometry and for its reason.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

KINDS = ("sphere", "box", "cylinder", "cone", "capsule", "torus")
"""Solids that are objects. ``size`` is (radius, -, -); (half extents); (radius, half height, -) for cylinder and cone
(apex up); (radius, half length of the straight part, -); (major radius, minor radius, -). The axis is the local y."""
SOLIDS = (*KINDS, "ellipsoid")
"""All solids; the ellipsoid, of which people have some parts, has size (semi-axes)."""
SPHERE, BOX, CYLINDER, CONE, CAPSULE, TORUS, ELLIPSOID = range(len(SOLIDS))

NEAR_M = 1e-3
"""Entries nearer than this do not count: a ray starts on the surface that it leaves."""
TORUS_STEP = 0.03
"""Least step of the torus' sphere tracing in tube radii."""


def dot(a: Tensor, b: Tensor) -> Tensor:
    """(3, ...) . (3, ...) -> (...)"""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def indices(mask: Tensor) -> Tensor:
    """Where a flat mask is true; numpy finds that ten times faster than torch does on a CPU."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.nonzero().squeeze(1)


# ------------------------------------------------------------------------------------------------------------- entries


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


def _ellipsoid(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Space is stretched until it is the unit ball; ray parameters survive that."""
    return _sphere(o / size, d / size, torch.ones_like(size[0]))


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


def _root(values: np.ndarray) -> np.ndarray:
    """Square root as torch takes it: numpy's differs in the last bit, and so would scenes."""
    return torch.from_numpy(values).sqrt().numpy()


def _torus_distance(o: np.ndarray, d: np.ndarray, size: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Signed distance of o + t d to the torus, exact: from the ring's circle, less the tube's radius."""
    square = o + t * d
    square *= square
    around = _root(square[0] + square[2])
    around -= size[0]
    around *= around
    around += square[1]
    return _root(around) - size[1]


def _torus_march(
    o: np.ndarray, d: np.ndarray, size: np.ndarray, start: np.ndarray, leave: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Last point outside and first point inside the torus along each ray: t (P,) and t (P,), NaN for a miss.

    Steps are the distance to the surface, but at least TORUS_STEP tube radii: rays that graze the tube would crawl,
    and a chord that short is far thinner than a pixel. Rays that are done leave the loop.

    Args:
        start, leave: (P,) between which the ray may meet the torus.
    """
    outside, inside = np.full_like(start, np.nan), np.full_like(start, np.nan)
    live, last, t = np.arange(len(start)), start.copy(), start.copy()
    speed = _root(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    while live.size:
        least = TORUS_STEP * size[1]
        for _ in range(4):
            away = _torus_distance(o, d, size, t)
            out = away > 0
            np.copyto(last, t, where=out)
            np.add(t, np.maximum(away, least) / speed, out=t, where=out)
        entered = np.flatnonzero(~out)
        outside[live[entered]], inside[live[entered]] = last[entered], t[entered]
        keep = np.flatnonzero(out & (t < leave))
        live, last, t, speed, leave = (values[keep] for values in (live, last, t, speed, leave))
        o, d, size = (table[:, keep] for table in (o, d, size))
    return outside, inside


def _torus(o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Sphere tracing to a bracket around the entry, then bisection and Newton's method inside the bracket. Most steps
    have few rays left, so they are numpy's, whose calls cost a fraction of torch's."""
    found = torch.full_like(o[0], torch.inf)
    start, leave = _drum(o, d, size[0] + size[1], size[1])  # a torus fits its drum tightly
    start = _entry(start, leave)
    live = indices(start < torch.inf)
    tables = (table.index_select(-1, live).cpu().numpy() for table in (o, d, size, start, leave))
    with np.errstate(divide="ignore", invalid="ignore"):
        hit, t = _torus_entry(*tables)
    return found.index_copy_(0, live[torch.from_numpy(hit).to(live.device)], torch.from_numpy(t).to(found.device))


def _torus_entry(
    o: np.ndarray, d: np.ndarray, size: np.ndarray, start: np.ndarray, leave: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which rays enter the torus (H,), and where, t (H,)."""
    low, high = _torus_march(o, d, size, start, leave)
    hit = np.flatnonzero(high > NEAR_M)
    o, d, size = (table[:, hit] for table in (o, d, size))
    low, high = low[hit], high[hit]
    for _ in range(4):
        middle = (low + high) / 2
        out = _torus_distance(o, d, size, middle) > 0
        np.copyto(low, middle, where=out)
        np.copyto(high, middle, where=~out)
    t = (low + high) / 2
    for _ in range(2):
        x, y, z = o + t * d
        around = _root(x * x + z * z)
        off = around - size[0]
        tube = _root(off * off + y * y)
        slope = (off * (x * d[0] + z * d[2]) / around + y * d[1]) / tube
        t = np.nan_to_num(np.minimum(np.maximum(t - (tube - size[1]) / slope, low), high), nan=0)
    return hit, t


def intersect(kind: int, o: Tensor, d: Tensor, size: Tensor) -> Tensor:
    """Where rays first enter solids.

    Args:
        kind: index into SOLIDS.
        o, d: (3, P) origins and directions in each solid's own frame.
        size: (3, P) as SOLIDS says, metres.

    Returns:
        (P,) ray parameters, infinite for a miss.
    """
    if kind == SPHERE:
        return _sphere(o, d, size[0])
    entries = {BOX: _box, CYLINDER: _cylinder, CONE: _cone, CAPSULE: _capsule, TORUS: _torus, ELLIPSOID: _ellipsoid}
    return entries[kind](o, d, size)


def _unit(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    length = (x * x + y * y + z * z).sqrt().clamp_min(1e-12)
    return torch.stack([x / length, y / length, z / length])


# ----------------------------------------------------------------------------------------------- surfaces and extents


def normal_at(kind: int, p: Tensor, size: Tensor) -> Tensor:
    """Outward unit normals (3, P) at surface points (3, P), in the solid's own frame."""
    x, y, z = p
    if kind == SPHERE:
        return _unit(x, y, z)
    if kind == ELLIPSOID:
        return _unit(x / size[0].square(), y / size[1].square(), z / size[2].square())
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
    if kind == ELLIPSOID:
        return float(size.max())
    return size[0] + size[1] if kind in (CAPSULE, TORUS) else float(np.hypot(size[0], size[1]))


def reach(kind: int, size: np.ndarray, direction: np.ndarray) -> float:
    """How far the solid extends from its centre along a unit vector of its own frame."""
    x, y, z = direction
    if kind == SPHERE:
        return size[0]
    if kind == BOX:
        return float((np.abs(direction) * size).sum())
    if kind == ELLIPSOID:
        return float(np.linalg.norm(direction * size))
    across = float(np.hypot(x, z))
    if kind == CYLINDER:
        return size[0] * across + size[1] * abs(y)
    if kind == CONE:
        return max(size[1] * y, size[0] * across - size[1] * y)
    return size[0] + size[1] * abs(y) if kind == CAPSULE else size[0] * across + size[1]
