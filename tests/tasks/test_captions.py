"""Captions: what is written can be read by a person, says which object, and is no part of the score."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import label as components

from lavin import assets_dir
from lavin.data.mixture import Pool, draw_context
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.tasks import HeldOut, captions, get_task
from lavin.tasks.captions import CaptionDefinition, draw_strip, has_glyph, lay_out, least_capital
from tests.tasks.conftest import make_sample, rectangle, thing

TASK = get_task("referring_caption")
SENTENCE = "the second woman from the left who holds a big blue umbrella above her head and looks at the camera"


def strip_of(text, side=256, share=8, lines=2):
    layout = lay_out(text, side, side // share, lines, least_capital(side))
    return layout, draw_strip(layout, side, side // share)


def letters(count=3, text="the {} box", seed=0):
    """A sample of boxes in a row, each with one expression."""
    names = ("left", "middle", "right")[:count]
    things = [
        thing(rectangle(16, 40, 4 + 20 * i, 18 + 20 * i), "box", expressions=[text.format(name)])
        for i, name in enumerate(names)
    ]
    return make_sample(things, seed)


# --- Text -------------------------------------------------------------------------------------------------------------


def test_the_font_has_the_glyphs_that_its_character_map_lists():
    """Reference: the file's own table, read by fontTools."""
    ttlib = pytest.importorskip("fontTools.ttLib")
    listed = ttlib.TTFont(assets_dir() / captions.FONT_FILE).getBestCmap()
    some = [*range(0x21, 0x7F), *range(0x370, 0x400, 3), *range(0x590, 0x700, 5), *range(0x900, 0x2000, 37), 0x4E2D]
    assert {code for code in some if has_glyph(chr(code))} == listed.keys() & set(some)


def test_the_font_may_be_shared():
    assert "free of charge" in (assets_dir() / "fonts" / "LICENSE_DEJAVU.txt").read_text()


@pytest.mark.parametrize(("side", "least"), [(64, 5), (128, 5), (256, 9), (512, 16), (1024, 32)])
def test_capitals_are_never_smaller_than_what_can_be_read(side, least):
    """Measured on the ink of the smallest letters that are ever drawn."""
    assert least_capital(side) == least
    strip = draw_strip(captions.TextLayout(("HIH",), least), side, side // 8)
    rows = (strip < 128).any(1).nonzero()[0]
    assert rows[-1] - rows[0] + 1 >= least
    for text in ("guy", SENTENCE):
        assert strip_of(text, side)[0].capital_px >= least


def test_short_texts_are_drawn_larger_and_long_ones_in_two_lines():
    short, long = strip_of("guy")[0], strip_of("the man in the red jacket beside the tall tree")[0]
    assert short.lines == ("guy",) and short.capital_px == 16
    assert len(long.lines) == 2 and " ".join(long.lines) == "the man in the red jacket beside the tall tree"
    assert not short.left_out and not long.left_out
    assert (
        len(strip_of(SENTENCE, share=4, lines=4)[0].lines) == 4 and not strip_of(SENTENCE, share=4, lines=4)[0].left_out
    )


@pytest.mark.parametrize("side", [64, 128, 256, 512])
@pytest.mark.parametrize("text", ["guy", "the big dog there", SENTENCE, "Ünïcödé Ÿ gypq", "W" * 200])
def test_no_ink_is_lost_at_the_edges(side, text):
    """The same lines on a strip with room all around have the same ink, up to a hook of an accent at the top."""
    layout, strip = strip_of(text, side)
    assert strip.shape == (side // 8, side) and strip.max() == 255 and strip.min() < 100
    roomy = draw_strip(layout, side + 64, side // 8 + 64)
    ink, all_ink = (255 - strip.astype(int)).sum(), (255 - roomy.astype(int)).sum()
    assert ink >= 0.98 * all_ink


def test_what_is_too_long_is_cut_at_a_word_and_counted():
    layout, _ = strip_of(SENTENCE)
    kept = " ".join(layout.lines).removesuffix("…")
    assert len(layout.lines) == 2 and layout.lines[-1].endswith("…")
    assert SENTENCE.startswith(kept) and SENTENCE[len(kept)] == " " and layout.left_out == len(SENTENCE) - len(kept)
    word = strip_of("W" * 200)[0]
    assert word.left_out == 200 - (len("".join(word.lines)) - 1) > 100


def test_a_missing_glyph_is_named():
    with pytest.raises(InputError, match=r"caption 'the 猫 here': DejaVu Sans has no glyph for '猫' \(U\+732B, CJK"):
        strip_of("the 猫 here")
    with pytest.raises(InputError, match=r"no glyph for '\?' \(U\+0007, no character\)"):
        strip_of("bell\a")
    with pytest.raises(InputError, match="the expression is empty"):
        strip_of(" \n ")
    with pytest.raises(InputError, match="no room for letters of 5 pixels"):
        strip_of("guy", side=32)


def test_white_space_and_composed_letters_are_one_however_they_are_typed():
    typed, plain = strip_of("the  \u0075\u0308ber\n dog"), strip_of("the über dog")
    assert typed[0] == plain[0] and np.array_equal(typed[1], plain[1])


def test_arabic_letters_join():
    """Seen, lam, meem and teh, drawn one by one, are four bodies and two dots; joined they have one body."""
    word = "سلمت"
    bodies = [components(strip_of(text)[1] < 160, np.ones((3, 3)))[1] for text in (word, *word)]
    assert sum(bodies[1:]) - bodies[0] == 3


def test_scripts_that_join_need_a_shaper(monkeypatch):
    lay_out.cache_clear()
    monkeypatch.setattr(captions.features, "check", lambda name: name != "raqm")
    with pytest.raises(InputError, match="needs Pillow with libraqm and fribidi"):
        strip_of("شمال")
    assert strip_of("слева")[0].lines == ("слева",)
    lay_out.cache_clear()


# --- Task -------------------------------------------------------------------------------------------------------------


def test_the_photo_fills_the_frame_above_the_strip():
    """Reference: Pillow's bicubic of the same picture, one level of rounding apart."""
    sample, definition = letters(), CaptionDefinition()
    clip = TASK.input(sample, definition, np.random.default_rng(0))
    levels = ((clip[:, 0] + 1) * 127.5).round().permute(1, 2, 0).numpy()
    resized = Image.fromarray(sample.clip[0].numpy()).resize((64, 56), Image.Resampling.BICUBIC)
    assert np.abs(levels[:56] - np.asarray(resized)).max() <= 1
    assert (levels[56:] == levels[56:, :, :1]).all() and levels[56:].max() == 255 and levels[56:].min() < 100


def test_the_target_is_the_mask_above_a_black_strip():
    sample, definition = letters(), CaptionDefinition()
    asked, text = TASK.asked(sample, definition)
    assert text in asked.expressions
    label = TASK.label(sample, definition)
    mask = Image.fromarray(asked.mask[0].numpy()).resize((64, 56), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(label[0, :56].numpy(), np.asarray(mask))
    assert not label[:, 56:].any()
    assert torch.equal(TASK.target(sample, definition)[:, :, 56:], torch.full((3, 1, 8, 64), -1.0))


@pytest.mark.parametrize("seed", range(4))
def test_labels_survive_painting_and_the_strip_is_not_scored(seed):
    sample, definition = letters(seed=seed), CaptionDefinition(choice=seed)
    truth = TASK.label(sample, definition)
    clip = TASK.paint(truth, definition)
    noise = torch.from_numpy(np.random.default_rng(seed).choice([-1, 1], clip.shape) * 126 / 127.5)
    clip[:, :, 56:] = 1  # a prediction that paints the strip white
    metric = TASK.metric()
    for prediction in (clip, clip + noise):
        assert torch.equal(TASK.read(prediction, definition), truth)
        metric.update(TASK.read(prediction, definition), truth)
    assert metric.compute() == 1


def test_scores_can_be_taken_on_the_photos_own_pixels():
    sample, definition = letters(), CaptionDefinition()
    native = TASK.photo_mask(TASK.label(sample, definition), definition, (64, 64))
    mask = TASK.asked(sample, definition)[0].mask
    assert (native & mask).sum() / (native | mask).sum() > 0.9  # rows went from 64 to 56 and back
    same = TASK.photo_mask(TASK.label(sample, definition), definition, (56, 64))
    assert torch.equal(same, TASK.label(sample, definition)[:, :56])


def test_the_caption_alone_tells_which_object_is_meant():
    """Another choice shows the same photo over another text; wiped out, the inputs are one and the targets are not."""
    sample, rng = letters(), np.random.default_rng(0)
    definitions = {TASK.asked(sample, d)[1]: d for d in (CaptionDefinition(choice=n) for n in range(20))}
    assert len(definitions) == 3
    pairs = [TASK.example(sample, definition, rng) for definition in definitions.values()]
    wiped = [TASK.blank(pair.input, CaptionDefinition()) for pair in pairs]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(pairs[a].input, pairs[b].input) and torch.equal(wiped[a], wiped[b])
        assert not torch.equal(pairs[a].target, pairs[b].target)
    assert (wiped[0][:, :, 56:] == 1).all()


def test_only_what_has_a_rival_is_asked_for():
    definition = CaptionDefinition()
    assert TASK.accepts(letters(2), definition)
    assert not TASK.accepts(letters(1), definition)  # the only box: the text would not matter
    silent = letters()
    for one in silent.instances:
        one.expressions = []
    assert not TASK.accepts(silent, definition)
    assert not TASK.accepts(replace(letters(), instances=None), definition)
    size = (1, 32, 32)
    boxes = [thing(rectangle(8, 16, x, x + 8, size), "box", expressions=["it"]) for x in (2, 20)]
    assert not TASK.accepts(make_sample(boxes, size=size), definition)  # no letters fit into 4 pixels
    with pytest.raises(InputError, match="sample '0' has no two objects of a class"):
        TASK.label(silent, definition)


def test_an_expression_that_fits_comes_first_and_a_missing_glyph_is_an_error():
    sample = letters()
    sample.instances[0].expressions, sample.instances[1].expressions = [SENTENCE], []
    assert {TASK.asked(sample, CaptionDefinition(choice=n))[1] for n in range(10)} == {"the right box"}
    sample.instances[2].expressions = []
    assert TASK.text(TASK.asked(sample, CaptionDefinition())[1], sample, CaptionDefinition()).left_out > 0
    sample.instances[2].expressions = ["右"]
    with pytest.raises(InputError, match="no glyph for '右'"):
        TASK.input(sample, CaptionDefinition(), np.random.default_rng(0))


def test_definitions_say_how_the_strip_looks(vocabulary):
    rng = np.random.default_rng(0)
    assert TASK.draw_definition(rng, vocabulary, evaluation=True) == CaptionDefinition()
    drawn = TASK.draw_definition(rng, vocabulary)
    assert CaptionDefinition.from_dict(json.loads(json.dumps(drawn.to_dict()))) == drawn
    assert drawn.to_dict() | {"choice": 0} == CaptionDefinition().to_dict()
    with pytest.raises(InputError, match="in DejaVu Sans at the bottom, not in Comic Sans"):
        CaptionDefinition(font="Comic Sans")
    with pytest.raises(InputError, match="strip is 1/1"):
        CaptionDefinition(strip=1)


def test_contexts_from_scenes_have_a_text_of_their_own_in_every_pair():
    pool = Pool(Scenes("train", size=64), range(60))
    episode = draw_context(pool, "referring_caption", 4, np.random.default_rng(0))
    samples = [*episode.pair_samples, episode.query_sample]
    asked = [TASK.asked(sample, episode.definition) for sample in samples]
    for (found, text), sample in zip(asked, samples, strict=True):
        assert [text in one.expressions for one in sample.instances].count(True) == 1 and text in found.expressions
    assert len({text for _, text in asked}) > 1


def test_clips_have_the_caption_in_every_frame():
    sample = make_sample(
        [thing(rectangle(16, 40, x, x + 14, (5, 64, 64)), "box", expressions=[f"at {x}"]) for x in (4, 30)],
        size=(5, 64, 64),
    )
    example = TASK.example(sample, CaptionDefinition(), np.random.default_rng(0))
    assert example.input.shape == example.target.shape == (3, 5, 64, 64)
    assert torch.equal(example.input[:, :1, 56:].expand(3, 5, 8, 64), example.input[:, :, 56:])


def test_three_in_ten_training_contexts_show_one_photo_with_two_expressions():
    pool = Pool(Scenes("train", size=64), range(60))
    twice, contexts = 0, 60
    for seed in range(contexts):
        episode = draw_context(pool, "referring_caption", 4, np.random.default_rng(seed))
        samples = [*episode.pair_samples, episode.query_sample]
        photos = ["/".join(sample.id.split("/")[:4]) for sample in samples]
        copies = [sample for sample, photo in zip(samples, photos, strict=True) if photos.count(photo) == 2]
        if copies:
            twice += 1
            (one, text), (other, another) = (TASK.asked(sample, episode.definition) for sample in copies)
            assert one.track_id != other.track_id and text != another
        assert len(set(photos)) >= 4
    assert 8 <= twice <= 28  # 18 expected of 60; four standard deviations are 14
    fixed = draw_context(pool, "referring_caption", 4, np.random.default_rng(1), evaluation=True)
    assert len({sample.id for sample in fixed.pair_samples}) == 4


def test_held_out_words_are_in_no_caption_and_can_be_asked_for_alone():
    pool = Pool(Scenes("train", size=64), range(60))
    rng, held_out = np.random.default_rng(0), HeldOut(words=("Left", "red"))

    def texts(**options):
        episode = draw_context(pool, "referring_caption", 3, rng, **options)
        samples = [*episode.pair_samples, episode.query_sample]
        return [set(TASK.asked(sample, episode.definition)[1].split()) for sample in samples]

    for evaluation in (False, True, False):
        assert not set().union(*texts(held_out=held_out, evaluation=evaluation)) & {"left", "red"}
    for words in texts(definition=CaptionDefinition(only=("left", "red"))):
        assert words & {"left", "red"}
    assert not CaptionDefinition(without=("left",)).allows("the box on the Left") and CaptionDefinition().allows("left")
