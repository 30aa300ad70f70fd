"""Colour codes: how a label becomes colours, and how colours become the label again.

Every code is a pair of functions on tensors. ``encode_*`` returns a clip float32 (3, frames, height, width) in
[-1, 1] whose values are whole 8-bit levels (value = level / 127.5 - 1); ``decode_*`` takes any clip in that range.
How much error a code forgives is said in *levels* of 0 ... 255 per channel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from lavin.errors import InputError
from lavin.suggest import unknown

Colour = tuple[int, int, int]

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)


def clip_from_levels(levels: Tensor) -> Tensor:
    """8-bit levels 0 ... 255, of any number type -> values in [-1, 1], rounded to whole levels first."""
    if levels.is_floating_point():
        levels = levels.round().clamp(0, 255)
    return levels.to(torch.float32) / 127.5 - 1


def levels_from_clip(clip: Tensor) -> Tensor:
    """Values in [-1, 1] -> levels in [0, 255], float32 and not rounded."""
    return ((clip.float() + 1) * 127.5).clamp(0, 255)


def _paint_table(ids: Tensor, table: Tensor) -> Tensor:
    """Look colours up: ids (frames, height, width), table (n, 3) of levels -> clip."""
    return clip_from_levels(table.to(ids.device)[ids.long()].permute(3, 0, 1, 2))


# --- BIN: two classes -------------------------------------------------------------------------------------------------


def encode_binary(mask: Tensor, foreground: Colour = WHITE, background: Colour = BLACK) -> Tensor:
    """BIN: bool (frames, height, width) -> foreground white, rest black, or two other colours."""
    return _paint_table(mask, torch.tensor([background, foreground]))


def decode_binary(clip: Tensor, foreground: Colour = WHITE, background: Colour = BLACK) -> Tensor:
    """Foreground where its colour is the nearer of the two; with white on black this is mean(R, G, B) >= 127.5.

    Exact for errors below 127 levels (white on black), below 63 for two colours 170 apart in some channel.
    """
    # |x - f|² <= |x - b|² says on which side of the middle plane x lies: (f - b)·x >= (|f|² - |b|²) / 2
    fore, back = torch.tensor([foreground, background], dtype=torch.float32, device=clip.device)
    side = torch.einsum("c,cfhw->fhw", fore - back, levels_from_clip(clip))
    return side >= (fore.square().sum() - back.square().sum()) / 2


# --- P63 and the codes made of it: CELL, RAND -------------------------------------------------------------------------

P63: tuple[Colour, ...] = tuple(
    (red, green, blue) for red in (0, 85, 170, 255) for green in (0, 85, 170, 255) for blue in (0, 85, 170, 255)
)[1:]
"""63 colours 85 apart, in lexicographic order; black is left for background."""


def encode_p63(numbers: Tensor) -> Tensor:
    """P63: int (frames, height, width), 0 = background, k = colour ``P63[k - 1]`` -> clip."""
    return _paint_table(numbers, torch.tensor([BLACK, *P63]))


def decode_p63(clip: Tensor) -> Tensor:
    """Numbers 0 ... 63, int64 (frames, height, width): each channel goes to the nearest of its four levels.

    Exact while every channel is off by at most 42 levels.
    """
    red, green, blue = (levels_from_clip(clip) / 85).round().long()
    return 16 * red + 4 * green + blue


CELL_ROWS, CELL_COLUMNS = 7, 9
SMALLEST_INSTANCE = 0.0005
"""Share of the frame below which a colour that was read is taken for noise."""


def encode_cells(instances: Tensor, offset: int = 0) -> Tensor:
    """CELL: an instance's colour says where it is, so that any picture's colours can be told without being shown.

    The frame is a grid of 7 x 9 cells; an instance takes the cell of its centroid, larger instances first, and goes
    on to the next free cell in raster order where it is taken. Its colour is ``P63[(23 * cell + offset) % 63]``. In a
    clip the centroid is that of the first frame where the instance shows. Beyond 63 the smallest stay black.

    Args:
        instances: int (frames, height, width): 0 = none, k = an instance; negative = ignore, painted black.
        offset: 0 ... 62, shared by the context.
    """
    instances = instances.long().clamp(min=0)
    numbers = torch.zeros(int(instances.max()) + 1, dtype=torch.long, device=instances.device)
    taken: set[int] = set()
    for instance, cell in cells_by_size(instances)[: len(P63)]:
        while cell in taken:
            cell = (cell + 1) % len(P63)
        taken.add(cell)
        numbers[instance] = (23 * cell + offset) % len(P63) + 1
    return encode_p63(numbers[instances])


def cells_by_size(instances: Tensor, rows: int = CELL_ROWS, columns: int = CELL_COLUMNS) -> list[tuple[int, int]]:
    """(instance, cell of its centroid) for every instance, the largest first.

    Args:
        instances: int64 (frames, height, width), 0 = none.
        rows, columns: grid of cells over the frame, numbered in raster order.
    """
    frames, height, width = instances.shape
    n = int(instances.max()) + 1
    frame = torch.arange(frames, device=instances.device).view(-1, 1, 1)
    slot = (instances + n * frame).flatten()  # one bin per (frame, instance)
    y = torch.arange(height, device=slot.device).view(-1, 1).expand(instances.shape).flatten()
    x = torch.arange(width, device=slot.device).expand(instances.shape).flatten()
    area = slot.bincount(minlength=frames * n).view(frames, n)
    first = (area > 0).to(torch.uint8).argmax(0, keepdim=True)

    def centroid(position: Tensor) -> Tensor:
        total = slot.bincount(position.double(), minlength=frames * n).view(frames, n)
        return (total / area).gather(0, first)[0] + 0.5  # a pixel's centre

    row = (centroid(y) * rows / height).nan_to_num(0).long()
    column = (centroid(x) * columns / width).nan_to_num(0).long()
    sizes, cells = area.sum(0).tolist(), (row * columns + column).tolist()
    present = [k for k in range(1, n) if sizes[k]]
    return [(k, cells[k]) for k in sorted(present, key=lambda k: -sizes[k])]


def decode_cells(clip: Tensor) -> Tensor:
    """Instances 1 ... n, 0 = none, int64 (frames, height, width): one per colour; specks below 0.05 % are dropped.

    The numbers follow the colours, so only the partition is that of the painted label. Exact up to 42 levels.
    """
    numbers = decode_p63(clip)
    frames, height, width = numbers.shape
    slot = numbers + 64 * torch.arange(frames, device=numbers.device).view(-1, 1, 1)
    largest = slot.flatten().bincount(minlength=64 * frames).view(frames, 64).amax(0)  # area in its best frame
    kept = (largest > 0) & (largest >= SMALLEST_INSTANCE * height * width)
    kept[0] = False
    return (kept.cumsum(0) * kept)[numbers]


IGNORE = 255
"""Class id of pixels without a class: painted black."""


def encode_classes(classes: Tensor, ids: tuple[int, ...], colours: tuple[Colour, ...]) -> Tensor:
    """RAND and GRID: class ids (frames, height, width) -> ``colours[i]`` where the id is ``ids[i]``, else black."""
    table = torch.zeros(256, 3)
    table[list(ids)] = torch.tensor(colours, dtype=torch.float32)
    return _paint_table(classes, table)


def decode_classes(clip: Tensor, ids: tuple[int, ...], colours: tuple[Colour, ...]) -> Tensor:
    """Class ids, int64 (frames, height, width): nearest colour in L1; black is 255 = ignore.

    Exact up to 42 levels with colours of P63 (RAND), up to just under half the step with GRID.
    """
    table = torch.tensor([*colours, BLACK], dtype=torch.float32, device=clip.device)
    distance = torch.cdist(levels_from_clip(clip).flatten(1).T.contiguous(), table, p=1)
    nearest = distance.argmin(1).view(clip.shape[1:])
    return torch.tensor([*ids, IGNORE], device=clip.device)[nearest]


def grid_palette(num_classes: int) -> tuple[Colour, ...]:
    """GRID, Painter's palette: k = floor(n^(1/3)) + 1 levels per channel, step = floor(256 / k).

    Class c has base-k digits (R, G, B), most significant first; channel = 255 - step * digit.
    """
    k = math.floor(num_classes ** (1 / 3) + 1e-9) + 1
    step = 256 // k
    return tuple(
        (255 - step * (c // k**2), 255 - step * (c // k % k), 255 - step * (c % k)) for c in range(num_classes)
    )


# --- DISP: depth ------------------------------------------------------------------------------------------------------

COLOUR_MAPS: dict[str, tuple[Colour, ...]] = {
    "grey": (BLACK, WHITE),
    "grey_inverted": (WHITE, BLACK),
    "heat": (BLACK, (255, 0, 0), (255, 255, 0), WHITE),
    "ice": (BLACK, (0, 0, 255), (0, 255, 255), WHITE),
    "moss": (BLACK, (0, 255, 0), (255, 255, 0), WHITE),
    "rainbow": ((0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
}
"""Corners of each map's path through the colour cube, from far to near; no path meets itself."""


def check_colour_map(colour_map: str) -> None:
    """Refuse a name that is none of ``COLOUR_MAPS``.

    Raises:
        InputError: the message suggests the nearest name and lists all.
    """
    if colour_map not in COLOUR_MAPS:
        raise InputError(unknown("colour map", colour_map, COLOUR_MAPS))


@lru_cache
def colour_table(colour_map: str) -> Tensor:
    """256 colours of a map, float32 (256, 3) in whole levels, first = far.

    Raises:
        InputError: there is no such map.
    """
    check_colour_map(colour_map)
    corners = torch.tensor(COLOUR_MAPS[colour_map], dtype=torch.float32)
    place = torch.linspace(0, len(corners) - 1, 256)
    segment = place.long().clamp(max=len(corners) - 2)
    return torch.lerp(corners[segment], corners[segment + 1], (place - segment).unsqueeze(1)).round()


def normalise_disparity(depth_m: Tensor) -> Tensor:
    """Disparity 1 / depth between its quantiles 0.5 % and 99.5 % over the whole clip, in [0, 1]; NaN stays NaN."""
    disparity = 1 / depth_m
    valid = disparity[disparity.isfinite()]
    if not len(valid):
        return torch.full_like(depth_m, torch.nan)
    low, high = valid.quantile(torch.tensor([0.005, 0.995], dtype=valid.dtype, device=valid.device))
    return ((disparity - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)


def encode_disparity(depth_m: Tensor, colour_map: str = "grey") -> Tensor:
    """DISP: metres (frames, height, width), NaN = invalid -> near is bright; invalid is drawn like the farthest."""
    number = (255 * normalise_disparity(depth_m)).round().nan_to_num(0)
    return _paint_table(number, colour_table(colour_map))


def decode_disparity(clip: Tensor, colour_map: str = "grey") -> Tensor:
    """Disparity in [0, 1] up to an unknown scale and shift, (frames, height, width). Off by 1 / 510 at most."""
    levels = levels_from_clip(clip)
    if colour_map == "grey":
        return levels.mean(0) / 255
    if colour_map == "grey_inverted":
        return 1 - levels.mean(0) / 255
    table = colour_table(colour_map).to(clip.device)
    pixels = levels.flatten(1).T.split(65536)  # a 512 x 512 clip against 256 colours at once would take gigabytes
    return torch.cat([torch.cdist(part, table).argmin(1) for part in pixels]).view(clip.shape[1:]) / 255


# --- NRM: surface normals ---------------------------------------------------------------------------------------------


def encode_normals(normals: Tensor, axes: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1)) -> Tensor:
    """NRM: (3, frames, height, width) unit vectors, x right, y up, z towards the viewer -> round(127.5 * (n + 1)).

    Args:
        normals: zeros where invalid, drawn (128, 128, 128).
        axes: which component each of R, G, B shows.
        signs: +1 or -1 for each of R, G, B.
    """
    sign = torch.tensor(signs, device=normals.device).view(3, 1, 1, 1)
    return clip_from_levels(127.5 * (normals[list(axes)] * sign + 1))


def decode_normals(clip: Tensor, axes: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1)) -> Tensor:
    """Unit normals, zeros where the vector is shorter than 0.5. Off by 0.4° at most on whole levels."""
    shown = clip.float() * torch.tensor(signs, device=clip.device).view(3, 1, 1, 1)
    normals = torch.empty_like(shown)
    normals[list(axes)] = shown
    length = normals.norm(dim=0, keepdim=True)
    return torch.where(length < 0.5, 0, normals / length.clamp(min=0.5))


# --- LINE: edges ------------------------------------------------------------------------------------------------------


def encode_lines(edges: Tensor) -> Tensor:
    """LINE: bool (frames, height, width), lines one pixel wide -> BIN."""
    return encode_binary(edges)


def decode_lines(clip: Tensor) -> Tensor:
    """As BIN."""
    return decode_binary(clip)
