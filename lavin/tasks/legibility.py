"""Legibility of captions: whether glyph templates still read a strip, e.g. after a trip through the ST-VAE.

A caption that its own templates cannot read says nothing to a model either (spec 4: at least 95 % of the characters
at 256 pixels and 98 % at 512, or the text must be larger before anything is trained).
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np

from lavin.tasks.captions import TextLayout, draw_strip, find_font, inner_left, needs_shaping

ALPHABET = string.ascii_letters + string.digits
"""What a character of Latin script is told from."""


def read_strip(strip: np.ndarray, layout: TextLayout, alphabet: str = ALPHABET) -> tuple[str, ...]:
    """Read each line of a strip, character by character, by the nearest template.

    Where characters stand is taken from the layout; which they are from the picture alone: the candidate whose drawing
    has the least squared difference to the strip over the character's own cell.

    Args:
        strip: grey levels (height, width), 0 ... 255.
        layout: what was written there, in a script that runs from left to right, one glyph after another.
        alphabet: candidates; those of the text are added.

    Raises:
        ValueError: the script needs shaping, so that characters have no cells of their own.
    """
    text = "".join(layout.lines)
    if needs_shaping(text):
        raise ValueError(f"'{text}' is of a script whose letters join; its characters cannot be read one by one")
    candidates = sorted({*alphabet, *text} - {" "})
    return tuple(_read_line(strip, layout, number, candidates) for number in range(len(layout.lines)))


def _read_line(strip: np.ndarray, layout: TextLayout, number: int, candidates: Sequence[str]) -> str:
    font, line = find_font(layout.capital_px, shaping=False), layout.lines[number]
    left, (height, width) = inner_left(layout.capital_px), strip.shape
    read = ""
    for place, letter in enumerate(line):
        if letter == " ":
            read += letter
            continue
        first, last = (left + font.getlength(line[:end]) for end in (place, place + 1))
        cell = slice(max(0, int(first)), min(width, int(np.ceil(last))))

        def difference(candidate: str, place=place, cell=cell) -> float:
            lines = tuple(
                line[:place] + candidate if row == number else "" for row in range(len(layout.lines))
            )  # what follows is not known to a reader
            drawn = draw_strip(TextLayout(lines, layout.capital_px), width, height)
            return float(np.square(strip[:, cell].astype(float) - drawn[:, cell]).mean())

        read += min(candidates, key=difference)
    return read


def share_read(strip: np.ndarray, layout: TextLayout, alphabet: str = ALPHABET) -> tuple[int, int]:
    """(characters read right, characters) of a strip, spaces left out; see ``read_strip``."""
    pairs = [
        pair
        for line, read in zip(layout.lines, read_strip(strip, layout, alphabet), strict=True)
        for pair in zip(line, read, strict=True)
        if pair[0] != " "
    ]
    return sum(letter == found for letter, found in pairs), len(pairs)
