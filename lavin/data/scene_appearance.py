"""Colours, textures and light of the procedural scenes.

Colours are display values in [0, 1] and are shaded as such: a toy world needs no radiometry, and the named
colours stay what they are called. Textures are square tiles with a mip pyramid, so that what is far or small is
smooth instead of aliased.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lavin.data.scene_geometry import SKY, Hits, Rays, World, dot
from lavin.data.scene_solids import indices

COLOURS = {
    "red": (0.82, 0.13, 0.14),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.95, 0.86, 0.18),
    "green": (0.16, 0.62, 0.22),
    "cyan": (0.20, 0.80, 0.82),
    "blue": (0.16, 0.30, 0.82),
    "purple": (0.52, 0.20, 0.68),
    "pink": (0.96, 0.55, 0.74),
    "white": (0.94, 0.94, 0.93),
}
"""Base colours of objects, chosen to stay apart under shading."""

MUTED = np.array(
    [
        (0.55, 0.50, 0.42), (0.46, 0.44, 0.42), (0.62, 0.56, 0.47), (0.42, 0.36, 0.30), (0.50, 0.52, 0.45),
        (0.40, 0.44, 0.38), (0.56, 0.56, 0.58), (0.38, 0.40, 0.46), (0.64, 0.60, 0.58), (0.50, 0.42, 0.40),
        (0.70, 0.68, 0.62), (0.66, 0.68, 0.70), (0.62, 0.64, 0.56),
    ]
)  # fmt: skip
"""Tones of ground and walls: low saturation, darker than white, so that they are no object's colour."""

TEXTURES = ("plain", "checks", "stripes", "speckle", "planks", "clouds", "bricks")
TILE = 128
"""Texels along a tile's side; a power of two."""
LEVELS = TILE.bit_length()


@dataclass
class Look:
    """Appearance of V views; columns as in the geometry's tables, float32."""

    surfaces: Tensor
    """(10, (O + 3) * V), column surface * V + view: two albedos (6), tile size in metres, offset of the tile in
    tiles, gloss, texture number."""
    light: Tensor
    """(2, V): ambient and direct light."""
    sky: Tensor
    """(6, V): colour at the horizon and overhead."""


# ------------------------------------------------------------------------------------------------------------ textures


def _smooth_noise(rng: np.random.Generator, octaves: tuple[int, ...]) -> np.ndarray:
    """Tileable noise in [0, 1] that has most of its energy in the coarse octaves, as photographs do."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(TILE) * TILE, np.fft.fftfreq(TILE) * TILE))
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE)))
    keep = (frequency >= octaves[0]) & (frequency <= octaves[1])
    noise = np.fft.ifft2(spectrum * keep / np.maximum(frequency, 1) ** 1.2).real
    return np.clip(0.5 + noise / (4 * noise.std()), 0, 1)


def _planks(rng: np.random.Generator) -> np.ndarray:
    """Four boards along u, each with its own tone and grain, dark joints between them."""
    v, u = np.divmod(np.arange(TILE * TILE).reshape(TILE, TILE), TILE)
    board = v // (TILE // 4)
    grain = _smooth_noise(rng, (1, 40)).repeat(1, axis=0)
    tone = np.array([0.25, 0.65, 0.40, 0.85])[board] + 0.5 * (grain[v, u // 8] - 0.5)
    joint = (v % (TILE // 4) < 3) | ((u + board * 37) % TILE < 2)
    return np.clip(np.where(joint, 0, tone), 0, 1)


def _bricks() -> np.ndarray:
    """Running bond: four courses of two bricks, light joints."""
    v, u = np.divmod(np.arange(TILE * TILE).reshape(TILE, TILE), TILE)
    course = v // (TILE // 4)
    shifted = (u + (course % 2) * TILE // 4) % TILE
    joint = (v % (TILE // 4) < 4) | (shifted % (TILE // 2) < 4)
    tone = np.array([0.15, 0.45, 0.3, 0.6, 0.2, 0.5, 0.35, 0.1])[course * 2 + shifted // (TILE // 2)]
    return np.where(joint, 1.0, tone)


def _tiles() -> list[np.ndarray]:
    """Base levels in the order of TEXTURES: 0 shows the first albedo, 1 the second."""
    rng = np.random.default_rng(0)
    v, u = np.divmod(np.arange(TILE * TILE).reshape(TILE, TILE), TILE)
    checks = ((u // (TILE // 2)) + (v // (TILE // 2))) % 2
    stripes = (v // (TILE // 2)) % 2
    speckle = _smooth_noise(rng, (6, 14))
    speckle = np.clip((speckle - 0.62) * 12, 0, 1)
    tiles = [np.zeros((TILE, TILE)), checks, stripes, speckle, _planks(rng), _smooth_noise(rng, (1, 24)), _bricks()]
    return [tile.astype(np.float64) for tile in tiles]


@lru_cache(maxsize=4)
def _atlas(device: torch.device) -> Tensor:
    """All tiles with all mip levels, flat: level l of a tile starts at (4/3) (TILE^2 - (TILE >> l)^2)."""
    rows = []
    for tile in _tiles():
        while True:
            rows.append(tile.ravel())
            if len(tile) == 1:
                break
            tile = (tile[::2, ::2] + tile[1::2, ::2] + tile[::2, 1::2] + tile[1::2, 1::2]) / 4
    return torch.from_numpy(np.concatenate(rows)).float().to(device)


TEXELS = (4 * TILE * TILE - 1) // 3


def sample_texture(texture: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
    """Texture values (M,) in [0, 1], bilinear in the mip level whose texel is about a pixel.

    Args:
        texture: (M,) index into TEXTURES.
        u, v: (M,) in tiles; every tile repeats.
        footprint: (M,) side of a pixel in tiles.
    """
    texels = (footprint * (TILE * 1.25)).clamp(1, TILE)
    level = (texels.view(torch.int32) >> 23) - 127  # floor of the base-2 logarithm, from the float's exponent
    side = torch.bitwise_right_shift(torch.full_like(level, TILE), level)
    base = texture.int() * TEXELS + (TILE * TILE - side * side) * 4 // 3
    mask = side - 1
    x, y = u * side - 0.5, v * side - 0.5
    left, top = x.floor(), y.floor()
    x, y = x - left, y - top
    left, top = left.int(), top.int()
    right, bottom = (left + 1) & mask, ((top + 1) & mask) * side + base
    left, top = left & mask, (top & mask) * side + base
    atlas = _atlas(texture.device)
    upper = torch.lerp(atlas[top + left], atlas[top + right], x)
    lower = torch.lerp(atlas[bottom + left], atlas[bottom + right], x)
    return torch.lerp(upper, lower, y)


def _tile_coordinates(local: Tensor, local_normal: Tensor) -> tuple[Tensor, Tensor]:
    """Project along the dominant axis of the local normal: (M,) metres each; v is height on whatever stands."""
    x, y, z = local
    nx, ny, nz = local_normal.abs()
    from_side = (nx > ny) & (nx >= nz)
    from_above = (ny >= nx) & (ny >= nz)
    return torch.where(from_side, z, x), torch.where(from_above, z, y)


# ------------------------------------------------------------------------------------------------------------- shading


def shade(world: World, look: Look, rays: Rays, hits: Hits, dark: Tensor) -> Tensor:
    """Colours (3, M) in [0, 1] of what the rays met; ``dark`` says where the light does not reach. Textures, gloss and
    sky are worked out only for the rays that meet them."""
    sky = hits.surface == world.slots + SKY
    column = torch.where(sky, 0, hits.surface) * world.views + rays.view
    albedo = look.surfaces[:3].index_select(1, column)
    patterned = indices((look.surfaces[9].index_select(0, column) > 0) & ~sky)
    albedo.index_copy_(1, patterned, _textured(world, look, rays, hits, column, patterned))
    ambient, direct = rays.spread(look.light)
    direct = torch.where(dark, 0, hits.facing.clamp_min(0) * direct)
    colour = albedo * (ambient * (0.8 + 0.2 * hits.normal[1]) + direct)
    glossy = indices((look.surfaces[8].index_select(0, column) > 0) & (hits.facing > 0) & ~dark & ~sky)
    colour.index_add_(1, glossy, _highlight(world, look, rays, hits, column, glossy).expand(3, -1))
    above = indices(sky)
    return colour.index_copy_(1, above, _sky(look, rays, above)).clamp_(0, 1)


def _textured(world: World, look: Look, rays: Rays, hits: Hits, column: Tensor, chosen: Tensor) -> Tensor:
    """Albedo (3, P) of the chosen rays (P,) whose surfaces, in ``column`` (M,) of the table, have a pattern."""
    surface = look.surfaces.index_select(1, column.index_select(0, chosen))
    direction, normal, local, local_normal = (
        table.index_select(1, chosen) for table in (rays.direction, hits.normal, hits.local, hits.local_normal)
    )
    u, v = _tile_coordinates(local, local_normal)
    towards_eye = -dot(normal, direction) * dot(direction, direction).rsqrt()
    focal = world.focal.index_select(0, rays.view.index_select(0, chosen))
    footprint = hits.t.index_select(0, chosen) / focal * towards_eye.clamp(0.1, 1).rsqrt() / surface[6]
    mix = sample_texture(surface[9], u / surface[6] + surface[7], v / surface[6] + surface[7], footprint)
    return torch.lerp(surface[:3], surface[3:6], mix)


def _highlight(world: World, look: Look, rays: Rays, hits: Hits, column: Tensor, chosen: Tensor) -> Tensor:
    """What gloss adds to the chosen rays, (P,); arguments as for ``_textured``."""
    direction, normal = (table.index_select(1, chosen) for table in (rays.direction, hits.normal))
    light = world.light[:3].index_select(1, rays.view.index_select(0, chosen))
    inverse = dot(direction, direction).rsqrt()
    towards_eye, along = -dot(normal, direction) * inverse, -dot(direction, light) * inverse
    facing = hits.facing.index_select(0, chosen)
    half = ((facing + towards_eye) / (2 + 2 * along).clamp_min(1e-3).sqrt()).clamp(0, 1)
    gloss = look.surfaces[8].index_select(0, column.index_select(0, chosen))
    return half.square().square().square().square().square() * gloss  # to the 32nd power


def _sky(look: Look, rays: Rays, chosen: Tensor) -> Tensor:
    """Colours (3, P) where the chosen rays (P,) meet nothing."""
    direction = rays.direction.index_select(1, chosen)
    up = (direction[1] * dot(direction, direction).rsqrt()).clamp(0, 1)
    horizon = look.sky.index_select(1, rays.view.index_select(0, chosen))
    return torch.lerp(horizon[:3], horizon[3:], up * (2 - up))
