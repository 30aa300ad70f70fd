"""Referring expressions: read back by a parser that knows masks, names, colours and distances, and nothing else."""

import re

import pytest
import torch

from lavin.data import scene_expressions
from lavin.data.scene_expressions import Reader, Seen, expressions
from lavin.data.scenes import PEOPLE_VOCABULARY, Scenes

PATTERNS = ("striped", "checked", "speckled")

# --------------------------------------------------------------------------------------------------- an own reading


def columns(instance) -> torch.Tensor:
    return instance.mask[0].nonzero()[:, 1].float()


ORDER = {
    "leftmost": lambda one: float(columns(one).mean()),
    "rightmost": lambda one: -float(columns(one).mean()),
    "largest": lambda one: -int(one.mask[0].sum()),
    "smallest": lambda one: int(one.mask[0].sum()),
    "nearest": lambda one: one.distance_m,
    "farthest": lambda one: -one.distance_m,
}


def overlap(one, other) -> bool:
    """Whether some picture column shows both."""
    return bool((one.mask[0].any(0) & other.mask[0].any(0)).any() or _between(one, other) or _between(other, one))


def _between(one, other) -> bool:
    return bool(columns(other).min() <= columns(one).min() <= columns(other).max())


RELATED = {
    "left of": lambda one, other: columns(one).mean() < columns(other).mean(),
    "right of": lambda one, other: columns(one).mean() > columns(other).mean(),
    "behind": lambda one, other: one.distance_m > other.distance_m and overlap(one, other),
    "in front of": lambda one, other: one.distance_m < other.distance_m and overlap(one, other),
}
GRAMMAR = re.compile(
    r"the (?:(?P<ordinal>second|third|fourth) )?(?:(?P<order>\w+(?:most|est)) )?"
    r"(?P<adjectives>(?:\w+ )*?)(?P<noun>" + "|".join((*PEOPLE_VOCABULARY.things, "object")) + r")"
    r"(?: in the (?P<shirt>\w+)(?: (?P<motif>\w+))? shirt)?(?: in (?P<trousers>\w+) trousers)?"
    r"(?: from the (?P<side>left|right))?"
    r"(?: (?P<relation>left of|right of|behind|in front of|closest to) (?P<other>the .*))?"
)


def refers_to(text: str, instances, patterns, centres) -> list[int]:
    """Which instances a text describes; comparisons without a margin.

    Args:
        patterns: of each instance's surface or shirt, or None.
        centres: (n, 3) in the world.
    """
    words = GRAMMAR.fullmatch(text)
    assert words, text
    group = [i for i, one in enumerate(instances) if words["noun"] == one.class_name]
    if words["noun"] == "object":
        group = [i for i, one in enumerate(instances) if one.class_name != "person"]
    for word in words["adjectives"].split():
        group = [i for i in group if word == (patterns[i] if word in PATTERNS else instances[i].colour)]
    if words["shirt"]:
        group = [i for i in group if instances[i].clothes["shirt"] == words["shirt"]]
        group = [i for i in group if words["motif"] in (None, patterns[i])]
    if words["trousers"]:
        group = [i for i in group if instances[i].clothes["trousers"] == words["trousers"]]
    order = words["order"] or {"left": "leftmost", "right": "rightmost"}.get(words["side"])
    if order:
        place = ("second", "third", "fourth").index(words["ordinal"]) + 1 if words["ordinal"] else 0
        values = {i: ORDER[order](instances[i]) for i in group}
        group = [i for i in group if sum(values[j] < values[i] for j in group) == place]
    if words["relation"]:
        (anchor,) = refers_to(words["other"], instances, patterns, centres)
        group = [i for i in group if i != anchor]
        if words["relation"] == "closest to":
            apart = {i: float((centres[i] - centres[anchor]).norm()) for i in group}
            return [i for i in group if apart[i] == min(apart.values())]
        group = [i for i in group if RELATED[words["relation"]](instances[i], instances[anchor])]
    return group


def texture_name(layout, track_id: int) -> str | None:
    """Pattern of an object by its place in the list of textures; of a person by what they wear."""
    if track_id < len(layout.kind):
        return {1: "checked", 2: "striped", 3: "speckled"}.get(int(layout.surfaces[9, track_id]))
    return layout.clothes[track_id - 5].get("pattern")


def place_of(layout, track_id: int) -> torch.Tensor:
    place = layout.centre[0, track_id] if track_id < len(layout.kind) else layout.people[track_id - 5].pelvis[0]
    return torch.from_numpy(place)


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("people", [False, True])
def test_every_expression_is_true_of_one_object_alone(people):
    scenes, said = Scenes(size=64, seed=3, people=people), set()
    for index, sample in enumerate(scenes.samples(range(40))):
        layout, instances = scenes.layout(index), sample.instances
        patterns = [texture_name(layout, one.track_id) for one in instances]
        centres = [place_of(layout, one.track_id) for one in instances]
        for number, instance in enumerate(instances):
            assert len(set(instance.expressions)) == len(instance.expressions)
            for text in instance.expressions:
                assert refers_to(text, instances, patterns, centres) == [number], text
                words = GRAMMAR.fullmatch(text).groupdict()
                said |= {name for name, word in words.items() if word} | set(re.findall(r"\w+", text))
    assert said >= {"ordinal", "order", "adjectives", "side", "relation", "second", "closest", "behind", "front"}
    assert said >= set(ORDER) | set(PATTERNS[:2]) | set(scenes.vocabulary.things)
    assert ({"shirt", "trousers", "person", "motif"} <= said) == people


def test_most_objects_have_several_expressions_of_each_kind():
    """A referring task has something to ask of nearly every object, and most often a relation."""
    instances = [one for sample in Scenes(size=64, seed=4).samples(range(40)) for one in sample.instances]
    texts = [one.expressions for one in instances]
    assert sum(bool(found) for found in texts) > 0.95 * len(texts)
    assert sum(len(found) for found in texts) > 6 * len(texts)
    assert sum(any(" of the " in text for text in found) for found in texts) > 0.4 * len(texts)


def row(**changes) -> list[Seen]:
    """Two red boxes and a blue cone, left to right; the cone is far behind the second box."""
    boxes = [
        Seen(0, "box", "red", 100, 0.2, 3.0, (0.1, 0.3), (-1, 0, 0), "striped"),
        Seen(1, "box", "red", 400, 0.6, 3.1, (0.5, 0.7), (0.5, 0, 0)),
    ]
    cone = Seen(2, "cone", "blue", 90, 0.7, 6.0, (0.62, 0.78), (1, 0, -3))
    for name, value in changes.items():
        setattr(cone, name, value)
    return [*boxes, cone]


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        ("the cone", 2),
        ("the blue object", 2),
        ("the red box", None),
        ("the striped box", 0),
        ("the red striped box", 0),
        ("the checked box", None),
        ("the second box from the left", 1),
        ("the second box from the right", 0),
        ("the third box from the left", None),
        ("the third object from the left", 2),
        ("the second nearest box", None),  # 3.0 and 3.1 metres
        ("the largest red object", 1),
        ("the box left of the cone", None),
        ("the object right of the largest box", 2),
        ("the box in front of the cone", 1),
        ("the box behind the cone", None),
        ("the object behind the largest box", 2),
        ("the box closest to the cone", None),  # 3.4 and 3.0 metres
        ("the object closest to the striped box", 1),
        ("the box closest to the red box", None),  # closest to which?
    ],
)
def test_a_reader_finds_the_object_that_is_meant(text, slot):
    assert Reader(row()).meant(text) == slot


def test_what_is_too_close_to_call_is_said_to_be():
    assert Reader(row(x=0.63)).verdicts("the object right of the largest box") == {0: False, 1: False, 2: None}
    assert Reader(row(distance=3.3)).verdicts("the object behind the largest box") == {0: False, 1: False, 2: None}
    assert Reader(row(span=(0.69, 0.9))).verdicts("the object behind the largest box") == {0: False, 1: False, 2: None}
    assert Reader(row(span=(0.8, 0.9))).verdicts("the object behind the largest box") == {0: False, 1: False, 2: False}


def test_comparisons_need_a_margin_and_count_objects_too_small_to_be_instances():
    texts = expressions(
        [
            Seen(0, "box", "red", 100, 0.20, 3.0),
            Seen(1, "box", "red", 90, 0.25, 4.0),
            Seen(2, "cone", "red", 3, 0.9, 9),
        ],
        least_area=16,
    )
    assert texts[0][:2] == ["the nearest box", "the nearest object"]  # 100 and 90 pixels, 0.20 and 0.25: too close
    assert "the red cone" in texts[2] and "the smallest object" in texts[2] and "the rightmost object" in texts[2]
    assert not any(word in text for found in texts.values() for text in found for word in ("second", "cone left of"))


def test_people_are_persons_and_no_objects():
    people = [
        Seen(5, "person", None, 100, 0.2, 3.0, (0.1, 0.3), (0, 1, 0), None, "red", "blue"),
        Seen(6, "person", None, 100, 0.8, 3.0, (0.7, 0.9), (2, 1, 0), "striped", "red", "grey"),
    ]
    box = Seen(0, "box", "red", 100, 0.5, 3.0, (0.4, 0.6), (1, 0, 0))
    texts = expressions([box, *people])
    assert "the box" in texts[0] and not any("the leftmost object" in text for text in texts[5])
    assert "the person in blue trousers" in texts[5] and "the person in the red shirt" not in texts[5] + texts[6]
    assert "the person in the red striped shirt" in texts[6] and "the person left of the red box" in texts[5]


def test_expressions_are_worked_out_once_a_scene_and_only_if_asked_for(monkeypatch):
    asked = []

    def recording(seen, least_area):
        asked.append(len(seen))
        return expressions(seen, least_area)

    monkeypatch.setattr(scene_expressions, "expressions", recording)
    (sample,) = Scenes("train", size=64).samples([0])
    assert asked == []
    texts = [list(one.expressions) for one in sample.instances]
    assert len(asked) == 1 and all(texts)
    assert [one.expressions for one in sample.instances] == texts
    assert sample.instances[0].expressions != texts[1]
