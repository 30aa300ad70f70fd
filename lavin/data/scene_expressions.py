"""Referring expressions of the procedural scenes: what to call an object so that it, and no other, is meant.

Two halves that know nothing of each other. ``expressions`` proposes texts from what it knows of the objects;
``Reader`` reads a text's words and says of which objects it holds, of which it does not, and where it is too close
to call. A richer text is kept if it clearly holds of one object and clearly not of all others.

    expression := description [relation description]
    description := "the" [place] [colour] [pattern] noun [clothes] ["from the left" | "from the right"]
    place := ordinal | [ordinal] superlative
    noun := a class name, or "object" (any class but person)
    clothes := "in the" colour [pattern] "shirt" | "in" colour "trousers"
    relation := "left of" | "right of" | "behind" | "in front of" | "closest to"
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

PERSON = "person"


@dataclass
class Seen:
    """An object or person with at least one visible pixel in the first frame, as far as expressions speak of it."""

    slot: int
    name: str
    colour: str | None
    """None for people, who have ``clothes``."""
    area: float
    """Pixels."""
    x: float
    """Mean column of its pixels, as a share of the width."""
    distance: float
    """Metres from the camera to its centre."""
    span: tuple[float, float] = (0.0, 0.0)
    """First and last column of its pixels, as shares of the width."""
    centre: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """In the world, metres."""
    pattern: str | None = None
    """"striped", "checked" or "speckled"; of people, their shirt's."""
    shirt: str | None = None
    trousers: str | None = None


Verdict = bool | None
"""Whether a text holds; None where it is too close to call."""

# ------------------------------------------------------------------------------------------------------ what words mean

X_MARGIN = 0.07
"""Shares of the picture's width that left and right need."""
FARTHER, LARGER, CLOSER = 1.15, 1.3, 1.3
"""Factors that comparisons of distances from the camera, of areas, and of distances between objects need."""

SUPERLATIVES = {
    "leftmost": ("x", -1, X_MARGIN, False),
    "rightmost": ("x", 1, X_MARGIN, False),
    "largest": ("area", 1, LARGER, True),
    "smallest": ("area", -1, LARGER, True),
    "nearest": ("distance", -1, FARTHER, True),
    "farthest": ("distance", 1, FARTHER, True),
}
"""Adjective: the quantity it compares, its sense, the margin, and whether the margin is a factor."""
ORDINALS = {"second": 1, "third": 2, "fourth": 3}
"""How many come before."""
SIDES = {"from the left": "leftmost", "from the right": "rightmost"}
PATTERNS = ("striped", "checked", "speckled")


def _beyond(value: float, nothing: float, enough: float) -> Verdict:
    return True if value >= enough else False if value <= nothing else None


def _left_of(one: Seen, other: Seen) -> Verdict:
    return _beyond(other.x - one.x, 0, X_MARGIN)


def _behind(one: Seen, other: Seen) -> Verdict:
    """Farther away, in columns that the other one takes up too."""
    overlap = min(one.span[1], other.span[1]) - max(one.span[0], other.span[0])
    narrower = min(one.span[1] - one.span[0], other.span[1] - other.span[0])
    farther, aligned = _beyond(one.distance / other.distance, 1, FARTHER), _beyond(overlap, 0, 0.3 * narrower)
    return False if False in (farther, aligned) else farther and aligned


RELATIONS: dict[str, Callable[[Seen, Seen], Verdict] | None] = {
    "left of": _left_of,
    "right of": lambda one, other: _left_of(other, one),
    "behind": _behind,
    "in front of": lambda one, other: _behind(other, one),
    "closest to": None,
}
"""Whether one object stands so to another; what is closest depends on the rest of the objects too."""


def _apart(one: Seen, other: Seen) -> float:
    return sum((a - b) ** 2 for a, b in zip(one.centre, other.centre, strict=True)) ** 0.5


def _ranked(group: Sequence[Seen], superlative: str, before: int) -> dict[int, Verdict]:
    """By slot, who comes after ``before`` others in the superlative's order."""
    key, sign, margin, ratio = SUPERLATIVES[superlative]
    order = sorted(group, key=lambda one: -sign * getattr(one, key))

    def clear(place: int) -> bool:
        """Whether what stands at ``place`` in the order is clearly apart from the next."""
        if not 0 <= place < len(order) - 1:
            return True
        a, b = getattr(order[place], key), getattr(order[place + 1], key)
        return max(a, b) >= margin * min(a, b) if ratio else abs(a - b) >= margin

    if before >= len(order):
        return dict.fromkeys((one.slot for one in order), False)
    sure = clear(before - 1) and clear(before)
    return {one.slot: (place == before if sure else None) for place, one in enumerate(order)}


class Reader:
    """Says what texts mean among these objects; remembers the parts of texts that it has read."""

    def __init__(self, seen: Sequence[Seen]):
        self.seen = {one.slot: one for one in seen}
        self._described: dict[str, dict[int, Verdict]] = {}

    def meant(self, text: str) -> int | None:
        """Slot of the only object that the text clearly means, None if there is none."""
        found = list(self.verdicts(text).items())
        slots = [slot for slot, holds in found if holds is not False]
        return slots[0] if len(slots) == 1 and (slots[0], True) in found else None

    def verdicts(self, text: str) -> dict[int, Verdict]:
        """For each object's slot whether the text holds of it, None where that is too close to call."""
        for relation in RELATIONS:
            one, found, other = text.partition(f" {relation} the ")
            if found:
                return self._related(self.described(one), relation, self._anchor(f"the {other}"))
        return self.described(text)

    def _anchor(self, text: str) -> Seen | None:
        found = [slot for slot, holds in self.described(text).items() if holds is not False]
        return self.seen[found[0]] if len(found) == 1 and self.described(text)[found[0]] else None

    def _related(self, described: dict[int, Verdict], relation: str, other: Seen | None) -> dict[int, Verdict]:
        if other is None:
            return dict.fromkeys(described)
        group = [self.seen[slot] for slot, holds in described.items() if holds is not False and slot != other.slot]
        if holds := RELATIONS[relation]:
            found = {one.slot: holds(one, other) for one in group}
        else:
            near = sorted(group, key=lambda one: _apart(one, other))
            clear = len(near) < 2 or _apart(near[1], other) >= CLOSER * _apart(near[0], other)
            found = {one.slot: (place == 0 if clear else None) for place, one in enumerate(near)}
        unsure = [slot for slot, holds in described.items() if holds is None and found.get(slot) is not False]
        return dict.fromkeys(described, False) | found | dict.fromkeys(unsure)

    def described(self, text: str) -> dict[int, Verdict]:
        """Verdicts on a description."""
        if text not in self._described:
            self._described[text] = self._read(text)
        return self._described[text]

    def _read(self, text: str) -> dict[int, Verdict]:
        side = next((words for words in SIDES if text.endswith(words)), None)
        text, _, worn = text.removesuffix(side or "").strip().partition(" in ")
        *words, noun = text.split()[1:]
        group = [one for one in self.seen.values() if (one.name == noun if noun != "object" else one.name != PERSON)]
        before = ORDINALS[words.pop(0)] if words and words[0] in ORDINALS else 0
        superlative = words.pop(0) if words and words[0] in SUPERLATIVES else SIDES.get(side)
        for word in words:
            group = [one for one in group if word == (one.pattern if word in PATTERNS else one.colour)]
        *worn, garment = worn.split() or [""]
        for word in worn:
            if word != "the":
                quality = "pattern" if word in PATTERNS else garment
                group = [one for one in group if getattr(one, quality) == word]
        found = _ranked(group, superlative, before) if superlative else {one.slot: True for one in group}
        return dict.fromkeys(self.seen, False) | found


# ------------------------------------------------------------------------------------------------------------ proposals


def _groups(seen: Sequence[Seen]) -> dict[str, list[Seen]]:
    """Who a noun speaks of."""
    groups = {name: [one for one in seen if one.name == name] for name in dict.fromkeys(one.name for one in seen)}
    return groups | {"object": [one for one in seen if one.name != PERSON]}


def _plain(seen: Sequence[Seen]) -> dict[int, list[str]]:
    """Colour, class, colour and class, one superlative."""
    texts: dict[int, list[str]] = {one.slot: [] for one in seen}
    things = [one for one in seen if one.name != PERSON]
    both, colours = Counter((one.name, one.colour) for one in things), Counter(one.colour for one in things)
    names = Counter(one.name for one in seen)
    for one in seen:
        if both[one.name, one.colour] == 1:
            texts[one.slot].append(f"the {one.colour} {one.name}")
        if colours[one.colour] == 1:
            texts[one.slot].append(f"the {one.colour} object")
        if names[one.name] == 1:
            texts[one.slot].append(f"the {one.name}")
    for name, group in _groups(seen).items():
        for superlative in SUPERLATIVES if len(group) > 1 else ():
            winners = [slot for slot, first in _ranked(group, superlative, 0).items() if first]
            for slot in winners:
                texts[slot].append(f"the {superlative} {name}")
    return texts


def _attributes(one: Seen) -> Iterator[str]:
    if one.name == PERSON:
        yield f"the person in the {one.shirt} shirt"
        yield f"the person in {one.trousers} trousers"
        if one.pattern:
            yield f"the person in the {one.shirt} {one.pattern} shirt"
    elif one.pattern:
        yield f"the {one.pattern} {one.name}"
        yield f"the {one.colour} {one.pattern} {one.name}"


def _places(seen: Sequence[Seen]) -> Iterator[tuple[int, str]]:
    """Ordinals within a class or all objects, superlatives within a colour: (slot, text)."""
    for noun, group in _groups(seen).items():
        for superlative, (key, sign, _, _) in SUPERLATIVES.items():
            order = sorted(group, key=lambda one, key=key, sign=sign: -sign * getattr(one, key))
            side = next((words for words, adjective in SIDES.items() if adjective == superlative), None)
            for ordinal, before in ORDINALS.items():
                if before < len(order) and (side or len(order) > 2):
                    place = f"{noun} {side}" if side else f"{superlative} {noun}"
                    yield order[before].slot, f"the {ordinal} {place}"
            for colour, number in Counter(one.colour for one in group).items():
                if 1 < number < len(group) and colour:
                    first = next(one for one in order if one.colour == colour)
                    yield first.slot, f"the {superlative} {colour} {noun}"


def _relations(seen: Sequence[Seen], names: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Where one stands from another that has a name of its own: (slot, text)."""
    several = Counter(one.name for one in seen)
    for one in seen:
        noun = one.name if several[one.name] > 1 or one.name == PERSON else "object"
        for other in seen:
            if other is one or other.slot not in names:
                continue
            for relation, holds in RELATIONS.items():
                if holds and holds(one, other):
                    yield one.slot, f"the {noun} {relation} {names[other.slot]}"
    groups = _groups(seen)
    for other in seen:
        for noun, group in groups.items():
            rest = [one for one in group if one is not other]
            if len(rest) > 1 and other.slot in names:
                first = min(rest, key=lambda one: _apart(one, other))
                yield first.slot, f"the {noun} closest to {names[other.slot]}"


def expressions(seen: Sequence[Seen], least_area: float = 0) -> dict[int, list[str]]:
    """Texts that refer to exactly one of the visible objects, by slot; plain ones first, then richer ones.

    Args:
        seen: all that is visible, also what is too small to be an instance: no text is ambiguous because of it.
        least_area: pixels below which a thing gets no richer text and cannot be counted.
    """
    texts = _plain(seen)
    if len(seen) < 2:
        return texts
    reader, large = Reader(seen), {one.slot for one in seen if one.area >= least_area}
    for one in seen:
        texts[one.slot] += [text for text in _attributes(one) if one.slot in large and reader.meant(text) == one.slot]
    simple = {slot: [text for text in found if text.split()[1] not in SUPERLATIVES] for slot, found in texts.items()}
    names = {slot: found[0] for slot, found in simple.items() if slot in large and found}
    proposals = list(_relations(seen, names))
    if len(large) == len(seen):
        proposals = [*_places(seen), *proposals]
    for slot, text in proposals:
        if slot in large and reader.meant(text) == slot:
            texts[slot].append(text)
    return texts


@dataclass
class Naming:
    """What ``expressions`` would say of a scene, worked out when it is first asked for: that takes a sixth of the time
    of a scene with people, and few tasks ask."""

    seen: Sequence[Seen]
    least_area: float = 0

    @cached_property
    def texts(self) -> dict[int, list[str]]:
        return expressions(self.seen, self.least_area)

    def of(self, slot: int) -> Texts:
        """One thing's texts."""
        return Texts(self, slot)


class Texts(Sequence[str]):
    """The texts of one thing; a list in all that readers do with it."""

    def __init__(self, naming: Naming, slot: int):
        self.naming, self.slot = naming, slot

    @property
    def _list(self) -> list[str]:
        return self.naming.texts.get(self.slot, [])

    def __getitem__(self, index):
        return self._list[index]

    def __len__(self) -> int:
        return len(self._list)

    def __eq__(self, other: object) -> bool:
        return self._list == list(other) if isinstance(other, (list, Texts)) else NotImplemented

    def __repr__(self) -> str:
        return repr(self._list)
