"""Captions: an expression written into the picture, for a model that reads no text. Referring segmentation by caption.

The picture is squashed into the upper part of the frame; below it is a white strip with the expression in black. The
font, DejaVu Sans (free, see ``assets/fonts``), has Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic and
some smaller scripts; a character that it lacks is an error and never a box.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from lavin import assets_dir
from lavin.data.sample import Instance, Sample
from lavin.errors import InputError
from lavin.tasks import codes
from lavin.tasks.base import Definition, Draw, Task, register
from lavin.tasks.regions import SHARE
from lavin.tasks.selection import Selection

FONT = "DejaVu Sans"
FONT_FILE = "fonts/DejaVuSans.ttf"
CAPITAL = 1493 / 2048
"""Height of DejaVu Sans' capitals, in ems."""
SMALLEST_CAPITAL = 5
"""Pixels of a capital letter below which strokes of neighbouring letters run together."""
ELLIPSIS = "…"
CONTRAST = 0.3
"""Share of training contexts that show one photo twice."""


# --- Text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextLayout:
    """How a text is set in a strip."""

    lines: tuple[str, ...]
    capital_px: int
    """Height of a capital letter."""
    left_out: int = 0
    """Characters that found no place: the text was cut, which its last line shows by an ellipsis."""


def least_capital(side: int) -> int:
    """Least height of capitals in a frame of ``side`` pixels: 9 at 256, 16 at 512, never below 5."""
    return max(SMALLEST_CAPITAL, min(9, -(-9 * side // 256)), side // 32)


@lru_cache(maxsize=4096)
def lay_out(text: str, width: int, height: int, max_lines: int, capital_px: int) -> TextLayout:
    """Set a text as large as it fits, wrapped by words; at the least size the rest is cut and counted.

    Args:
        text: any white space counts as one space.
        width, height: of the strip in pixels.
        max_lines: at most so many lines; fewer where the strip is too low for them.
        capital_px: least height of a capital letter. The largest is half the strip.

    Raises:
        InputError: the text is empty, the font lacks one of its characters, its script needs a shaping library that
            is not installed, or the strip is too small for a single line.
    """
    text = " ".join(unicodedata.normalize("NFC", text).split())
    check_text(text)
    for capital in range(max(height // 2, capital_px), capital_px - 1, -1):
        rows = min(max_lines, int(height / line_height(capital)))
        lines = wrap(text.split(), find_font(capital, needs_shaping(text)), inner_width(width, capital))
        if rows and lines and len(lines) <= rows:
            return TextLayout(tuple(lines), capital)
    if not rows:
        raise InputError(
            f"a strip of {width}x{height} pixels has no room for letters of {capital_px} pixels; take larger pictures"
        )
    return cut(text, find_font(capital_px, needs_shaping(text)), inner_width(width, capital_px), rows, capital_px)


def cut(text: str, font: ImageFont.FreeTypeFont, width: float, rows: int, capital_px: int) -> TextLayout:
    """The longest beginning that fits with an ellipsis; whole words as long as there is one."""
    ends = [index for index, letter in enumerate(text) if letter == " "]
    for end in [*reversed(ends), *range(text.find(" ") if ends else len(text) - 1, 0, -1)]:
        lines = wrap((text[:end] + ELLIPSIS).split(), font, width)
        if lines and len(lines) <= rows:
            return TextLayout(tuple(lines), capital_px, len(text) - end)
    raise InputError(f"caption '{text}': not even its first letter fits the picture's width; take larger pictures")


def wrap(words: Sequence[str], font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """Fill lines of ``width`` pixels word by word; empty where a single word is wider."""
    lines: list[str] = []
    for word in words:
        longer = f"{lines[-1]} {word}" if lines else word
        if font.getlength(longer) <= width:
            lines[-1:] = [longer]
        elif font.getlength(word) <= width:
            lines.append(word)
        else:
            return []
    return lines


def check_text(text: str) -> None:
    """Refuse what cannot be drawn, by name."""
    if not text:
        raise InputError("the expression is empty; a caption needs a text")
    for letter in text:
        if not has_glyph(letter):
            name = unicodedata.name(letter, "no character")
            shown = letter if letter.isprintable() else "?"
            raise InputError(f"caption '{text}': {FONT} has no glyph for '{shown}' (U+{ord(letter):04X}, {name})")
    if needs_shaping(text) and not (features.check("raqm") and features.check("fribidi")):
        raise InputError(f"caption '{text}': its script needs Pillow with libraqm and fribidi, which are not installed")


@lru_cache(maxsize=4096)
def has_glyph(letter: str) -> bool:
    """Whether the font draws a character as something else than the box that stands for all it lacks."""
    font = find_font(32, shaping=False)
    missing, found = (font.getmask(text) for text in ("\uffff", letter))  # U+FFFF is in no font: not a character
    return letter == " " or (found.size, bytes(found)) != (missing.size, bytes(missing))


def needs_shaping(text: str) -> bool:
    """Whether the script runs from right to left, or letters join or carry marks: not one glyph after another."""
    return any(unicodedata.bidirectional(c) in ("R", "AL", "AN", "NSM") or unicodedata.combining(c) for c in text)


@lru_cache(maxsize=256)
def find_font(capital_px: int, shaping: bool) -> ImageFont.FreeTypeFont:
    """The font with capitals so high. Plain layout where it is enough: shapers of two machines may differ."""
    engine = ImageFont.Layout.RAQM if shaping else ImageFont.Layout.BASIC
    return ImageFont.truetype(str(assets_dir() / FONT_FILE), capital_px / CAPITAL, layout_engine=engine)


def line_height(capital_px: int) -> float:
    """From one baseline to the next: DejaVu Sans' ascent (1901) and descent (483) of 2048."""
    return capital_px / CAPITAL * (1901 + 483) / 2048


def inner_width(width: int, capital_px: int) -> float:
    """What a strip's margins of a quarter of a capital leave."""
    return width - capital_px / 2


def inner_left(capital_px: int) -> int:
    """Where lines begin, pixels from the strip's left edge."""
    return max(1, capital_px // 4)


def draw_strip(layout: TextLayout, width: int, height: int) -> np.ndarray:
    """The strip: black sans-serif on white, uint8 (height, width)."""
    strip = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(strip)
    font = find_font(layout.capital_px, needs_shaping("".join(layout.lines)))
    pitch = line_height(layout.capital_px)
    top = (height - pitch * len(layout.lines)) / 2
    for number, line in enumerate(layout.lines):
        baseline = round(top + pitch * number + pitch * 1901 / (1901 + 483))
        draw.text((inner_left(layout.capital_px), baseline), line, fill=0, font=font, anchor="ls")
    return np.asarray(strip)


# --- Task -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaptionDefinition(Definition):
    """How the strip looks; the expressions differ from pair to pair and are no part of it."""

    strip: int = 8
    """The strip's height is the frame's divided by this."""
    lines: int = 2
    """Most lines of text; long expressions (G-Ref's tail) want ``strip=4, lines=4``."""
    font: str = FONT
    position: str = "bottom"
    choice: int = 0
    """Which of a picture's expressions is asked for: any number, and another one asks for another."""
    without: tuple[str, ...] = ()
    """Words, in lower case: expressions that have one of them are never asked for."""
    only: tuple[str, ...] = ()
    """Words, in lower case: if there are any, only expressions that have one of them are asked for."""

    def __post_init__(self):
        if self.strip < 2 or self.lines < 1:
            raise InputError(f"strip is 1/{self.strip} with {self.lines} lines; 1/2 or lower, and 1 line, is needed")
        if (self.font, self.position) != (FONT, "bottom"):
            raise InputError(f"captions are drawn in {FONT} at the bottom, not in {self.font} at the {self.position}")

    def allows(self, expression: str) -> bool:
        """Whether an expression may be asked for, by its words."""
        words = set(re.findall(r"\w+", expression.lower()))
        return words.isdisjoint(self.without) and (not self.only or not words.isdisjoint(self.only))

    def strip_height(self, height: int) -> int:
        """Pixels, of a frame that is ``height`` high."""
        return height // self.strip


@register("referring_caption")
class ReferringCaptionTask(Task):
    """The one object that the caption under the photo means, white on black (BIN); the strip is black, not scored.

    Every pair is another photo with its own expression, so the pairs only tell what is to be done with a caption.
    Only objects that have another one of their class beside them are asked for: the text must matter.
    """

    description = "the object that the caption under the photo means"
    needs = ("instances",)
    metric_name = "mIoU"
    definition_type = CaptionDefinition

    def define(self, draw: Draw) -> CaptionDefinition:
        """One strip for all; what varies is which expression of a picture is asked for. None has a held-out word."""
        choice = 0 if draw.evaluation else int(draw.rng.integers(2**31))
        return CaptionDefinition(choice=choice, without=tuple(word.lower() for word in draw.held_out.words))

    def accepts(self, sample: Sample, definition: CaptionDefinition) -> bool:
        """Two objects of a class, one of them with an expression and 1 ... 60 % of the picture."""
        return (
            super().accepts(sample, definition)
            and self.roomy(sample, definition)
            and bool(candidates(sample, definition))
        )

    @staticmethod
    def roomy(sample: Sample, definition: CaptionDefinition) -> bool:
        """Whether the strip is high enough for a line of the smallest letters: 64 pixels for the standard one."""
        height = sample.size[1]
        return definition.strip_height(height) >= line_height(least_capital(height))

    def vary(self, samples: list[Sample], definition: CaptionDefinition, rng: np.random.Generator) -> list[Sample]:
        """In 30 % of contexts one photo takes the place of another too, with an expression of another object: then
        nothing but the text tells the two apart."""
        if len(samples) < 2 or rng.random() >= CONTRAST:
            return samples
        for index in rng.permutation(len(samples)):
            meant = list({id(thing): thing for thing, _ in candidates(samples[index], definition)}.values())
            if len(meant) > 1:
                one, other = rng.choice(len(meant), 2, replace=False)
                place = (index + rng.integers(1, len(samples))) % len(samples)
                varied = list(samples)
                varied[index], varied[place] = (speaking_of(samples[index], meant[i]) for i in (one, other))
                return varied
        return samples

    def asked(self, sample: Sample, definition: CaptionDefinition) -> tuple[Instance, str]:
        """The object, and the expression that is written. One that fits comes before one that must be cut.

        Raises:
            InputError: no object of the sample can be asked for, or its expression cannot be drawn.
        """
        found = candidates(sample, definition)
        if not found:
            raise InputError(f"sample '{sample.id}' has no two objects of a class of which one has an expression")
        fitting = [one for one in found if not self.text(one[1], sample, definition).left_out]
        found = fitting or found
        return found[crc32(f"{sample.id} {definition.choice}".encode()) % len(found)]

    def text(self, expression: str, sample: Sample, definition: CaptionDefinition) -> TextLayout:
        """How an expression is set under a sample's picture; ``left_out`` counts what is cut."""
        _, height, width = sample.size
        return lay_out(expression, width, definition.strip_height(height), definition.lines, least_capital(height))

    def input(self, sample: Sample, definition: CaptionDefinition, rng: np.random.Generator) -> Tensor:
        """The whole photo in the upper part, bicubic with antialias, and the caption below."""
        frames, height, width = sample.size
        strip = definition.strip_height(height)
        layout = self.text(self.asked(sample, definition)[1], sample, definition)
        photo = F.interpolate(
            sample.clip.permute(0, 3, 1, 2), (height - strip, width), mode="bicubic", antialias=True
        ).transpose(0, 1)
        caption = torch.from_numpy(draw_strip(layout, width, strip).copy())
        return codes.clip_from_levels(torch.cat([photo, caption.expand(3, frames, strip, width)], dim=2))

    def label(self, sample: Sample, definition: CaptionDefinition) -> Tensor:
        """Bool (frames, height, width) of the frame: the squashed mask above, nothing in the strip."""
        _, height, width = sample.size
        strip = definition.strip_height(height)
        mask = self.asked(sample, definition)[0].mask
        return F.pad(resize_mask(mask, (height - strip, width)), (0, 0, 0, strip))

    def paint(self, label: Tensor, definition: CaptionDefinition) -> Tensor:
        return codes.encode_binary(label)

    def read(self, clip: Tensor, definition: CaptionDefinition) -> Tensor:
        """Bool (frames, height, width); false in the strip whatever was predicted there, so that it is not scored."""
        mask = codes.decode_binary(clip)
        mask[:, mask.shape[1] - definition.strip_height(mask.shape[1]) :] = False
        return mask

    def photo_mask(self, label: Tensor, definition: CaptionDefinition, size: tuple[int, int]) -> Tensor:
        """A label without its strip, at the photo's own (height, width): where benchmarks score."""
        return resize_mask(label[:, : label.shape[1] - definition.strip_height(label.shape[1])], size)

    def blank(self, clip: Tensor, definition: CaptionDefinition) -> Tensor:
        """An input with its caption wiped out: a model that reads captions must score lower on it."""
        wiped = clip.clone()
        wiped[:, :, clip.shape[2] - definition.strip_height(clip.shape[2]) :] = 1
        return wiped

    def metric(self):
        from lavin.metrics.regions import MaskIoU

        return MaskIoU()


def candidates(sample: Sample, definition: CaptionDefinition) -> list[tuple[Instance, str]]:
    """(object, expression) of a sample's objects that are large enough and not the only one of their class."""
    things = Selection().single(sample)
    of_class = Counter(thing.class_name for thing in things)
    wanted = [
        thing
        for thing in things
        if of_class[thing.class_name] >= 2 and SHARE[0] <= thing.mask.float().mean() <= SHARE[1]
    ]
    return [(thing, text) for thing in wanted for text in thing.expressions if definition.allows(text)]


def speaking_of(sample: Sample, meant: Instance) -> Sample:
    """The sample with expressions of one object only."""
    things = [replace(thing, expressions=thing.expressions if thing is meant else []) for thing in sample.instances]
    return replace(sample, id=f"{sample.id}/{meant.track_id}", instances=things)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Bool (frames, height, width) at another (height, width): the pixel under each new pixel's centre."""
    return F.interpolate(mask[None].float(), size, mode="nearest-exact")[0].bool()
