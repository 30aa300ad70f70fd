"""LATTICE: class and instance in one colour, for panoptic segmentation.

A panoptic label is int64 (frames, height, width), ``1000 * class + number``: stuff has number 0, things have 1, 2, ...,
which mean nothing but "same" and "different" within a class. -1 is void, -2 - class a crowd of that class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lavin.tasks.codes import SMALLEST_INSTANCE, cells_by_size, clip_from_levels, levels_from_clip

VOID = -1
SEGMENTS = 1000
"""Room for numbers between two classes of a label."""
ROWS, COLUMNS = 3, 9
DIGITS = 27
"""Instance numbers that colours can tell apart: three base-3 digits, one per channel."""


def digits_and_step(num_classes: int) -> tuple[int, int]:
    """Base m of the class digits, the least with m³ >= num_classes, and the step s = floor(255 / (3 m)) of levels."""
    m = next(m for m in range(1, num_classes + 1) if m**3 >= num_classes)
    return m, 255 // (3 * m)


def lattice_colours(codes: Tensor, numbers: Tensor, num_classes: int) -> Tensor:
    """Levels of class codes 0 ... num_classes - 1 with instance digits 0 ... 26: float32 (n, 3).

    With base-m digits d of the class and base-3 digits o of the instance, most significant first, one for each of
    R, G, B: channel = 255 - s * (3 d + o).
    """
    m, step = digits_and_step(num_classes)
    d = torch.stack([codes // m**2, codes // m % m, codes % m], 1)
    o = torch.stack([numbers // 9, numbers // 3 % 3, numbers % 3], 1)
    return (255 - step * (3 * d + o)).float()


def encode_lattice(
    panoptic: Tensor, class_ids: Sequence[int], things: Sequence[bool], codes: Sequence[int], num_classes: int
) -> Tensor:
    """LATTICE: a panoptic label -> clip.

    A thing's instance digits are the cell of its centroid in a grid of 3 x 9, larger things first; where another thing
    of its class has them, the next free ones. The 28th thing of a class and those after it take their own cell's again.

    Args:
        panoptic: int64 (frames, height, width); void, crowds, and classes that are not listed are black.
        class_ids: the classes that are drawn.
        things: which of them are countable.
        codes: their places among the code's classes.
        num_classes: how many classes the code has room for.
    """
    segments, place = panoptic.unique(return_inverse=True)
    known = {label: (code, thing) for label, code, thing in zip(class_ids, codes, things, strict=True)}
    code = torch.zeros(len(segments), dtype=torch.long)
    number = torch.zeros(len(segments), dtype=torch.long)
    drawn = torch.zeros(len(segments), dtype=torch.bool)
    taken: dict[int, set[int]] = {}
    for slot, cell in cells_by_size(place + 1, ROWS, COLUMNS):
        class_id = int(segments[slot - 1]) // SEGMENTS  # negative for void and crowds
        if class_id not in known:
            continue
        code[slot - 1], thing = known[class_id]
        drawn[slot - 1] = True
        if thing:
            number[slot - 1] = _free_number(cell, taken.setdefault(class_id, set()))
    colours = lattice_colours(code, number, num_classes) * drawn.unsqueeze(1)
    return clip_from_levels(colours.to(panoptic.device)[place].permute(3, 0, 1, 2))


def _free_number(cell: int, taken: set[int]) -> int:
    """The cell, or the next number that no other thing has taken; the cell again where all are taken."""
    number = next((n % DIGITS for n in range(cell, cell + DIGITS) if n % DIGITS not in taken), cell)
    taken.add(number)
    return number


def decode_lattice(
    clip: Tensor, class_ids: Sequence[int], things: Sequence[bool], codes: Sequence[int], num_classes: int
) -> Tensor:
    """A panoptic label, int64 (frames, height, width), from a clip; arguments as in ``encode_lattice``.

    Void is black (all channels more than half a step below the lowest level), what no listed class is drawn in, and
    segments below 0.05 % of the frame in every frame. Pixels of one colour are one segment; only where all 27 numbers
    of a class are in use, so that some may be shared, are the parts of a colour taken for different things. Exact while
    every channel is off by less than half a step: up to 6 levels with 133 or 150 classes, 13 with 19.
    """
    m, step = digits_and_step(num_classes)
    levels = levels_from_clip(clip)
    lowest = 255 - step * (3 * m - 1)
    level = ((255 - levels) / step).round().long().clamp(0, 3 * m - 1)
    d, o = level // 3, level % 3
    code, number = (d[0] * m + d[1]) * m + d[2], (o[0] * 3 + o[1]) * 3 + o[2]

    class_of_code = torch.full((m**3,), VOID, device=clip.device)
    class_of_code[list(codes)] = torch.tensor(class_ids, device=clip.device)
    countable = torch.zeros(m**3, dtype=torch.bool, device=clip.device)
    countable[list(codes)] = torch.tensor(things, device=clip.device)

    classes = class_of_code[code]
    void = (levels < lowest - step / 2).all(0) | (classes == VOID)
    panoptic = (SEGMENTS * classes + torch.where(countable[code], number + 1, 0)).masked_fill(void, VOID)
    return _drop_specks(_split_shared_numbers(panoptic))


def _split_shared_numbers(panoptic: Tensor) -> Tensor:
    """Give the 8-connected parts of every segment numbers of their own, in classes that use all 27."""
    from scipy.ndimage import label as components

    present = panoptic.unique()
    present = present[(present >= 0) & (present % SEGMENTS > 0)]
    classes, counts = (present // SEGMENTS).unique(return_counts=True)
    for full in classes[counts == DIGITS].tolist():
        last = DIGITS
        for segment in present[present // SEGMENTS == full].tolist():
            numbers, parts = components((panoptic == segment).cpu().numpy(), [[[1] * 3] * 3] * 3)
            for part in range(2, min(parts, SEGMENTS - last) + 1):  # a noisy picture may have more parts than room
                last += 1
                panoptic[torch.from_numpy(numbers == part).to(panoptic.device)] = SEGMENTS * full + last
    return panoptic


def _drop_specks(panoptic: Tensor) -> Tensor:
    """Void in place of segments that cover less than 0.05 % of every frame."""
    segments, place = panoptic.unique(return_inverse=True)
    frames, height, width = panoptic.shape
    slot = place + len(segments) * torch.arange(frames, device=place.device).view(-1, 1, 1)
    area = slot.flatten().bincount(minlength=len(segments) * frames).view(frames, -1).amax(0)
    return segments.masked_fill(area < SMALLEST_INSTANCE * height * width, VOID)[place]
