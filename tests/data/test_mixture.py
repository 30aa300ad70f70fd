import numpy as np
import pytest
import torch

from lavin.data.mixture import Pool, draw_context, scenes_for
from lavin.data.scenes import Scenes
from lavin.tasks import REGISTRY, HeldOut


@pytest.fixture(scope="module")
def pool():
    return Pool(Scenes("train", size=32), range(150))


@pytest.fixture(scope="module")
def pools(pool):
    """Pools that suit a task: captions need pictures of 64 pixels, clips are few and short."""
    made = {(False, 1, 32): pool}

    def find(task):
        size = 64 if task.name == "referring_caption" else 32
        frames = {"frame_prediction": 21}.get(task.name, 5) if task.clips else 1
        kind = (task.people, frames, size)
        if kind not in made:
            made[kind] = Pool(scenes_for(task, "train", size, frames), range(12 if task.clips else 60))
        return made[kind]

    return find


@pytest.mark.parametrize("task", sorted(REGISTRY))
def test_pairs_and_query_share_a_definition_and_are_different_samples(pools, task):
    for seed in range(3):
        episode = draw_context(pools(REGISTRY[task]), task, 3, np.random.default_rng(seed))
        samples = [*episode.pair_samples, episode.query_sample]
        assert len({sample.id for sample in samples}) == 4
        assert all(episode.task.accepts(sample, episode.definition) for sample in samples)
        for example, sample in zip([*episode.pairs, episode.query], samples, strict=True):
            assert torch.equal(example.target, episode.task.target(sample, episode.definition))


@pytest.mark.parametrize("task", sorted(REGISTRY))
def test_equal_seeds_draw_equal_contexts(pools, task):
    first, second = (draw_context(pools(REGISTRY[task]), task, 2, np.random.default_rng(5)) for _ in range(2))
    assert first.definition == second.definition
    assert all(map(torch.equal, first.context.clips(), second.context.clips()))


def test_contexts_are_nested(pool):
    for task in ("depth", "foreground", "inpainting"):
        short, long = (draw_context(pool, task, pairs, np.random.default_rng(3)) for pairs in (2, 5))
        if short.definition != long.definition:  # the short one's class was too rare for five pairs
            continue
        assert torch.equal(short.query.input, long.query.input)
        assert all(
            torch.equal(a, b)
            for s, o in zip(short.pairs, long.pairs[:2], strict=True)
            for a, b in zip(s, o, strict=True)
        )


def test_held_out_names_are_never_drawn(pool):
    held_out = HeldOut(classes=("sphere", "box"), colours=("red",), palettes=((255, 0, 0),))
    for seed in range(40):
        definition = draw_context(pool, "foreground", 1, np.random.default_rng(seed), held_out=held_out).definition
        assert definition.class_name not in held_out.classes
        assert definition.colour not in held_out.colours
        assert not {definition.foreground_rgb, definition.background_rgb} & set(held_out.palettes)


def test_a_pool_too_small_is_an_error():
    pool = Pool(Scenes("train", size=32), range(3))
    with pytest.raises(ValueError, match="no definition fits 5 of the 3 samples"):
        draw_context(pool, "depth", 4, np.random.default_rng(0))


def test_training_and_validation_scenes_never_meet():
    train, validation = (Pool(Scenes(split, size=32), range(5)) for split in ("train", "validation"))
    assert not any(torch.equal(a.clip, b.clip) for a in train for b in validation)


def test_prefix_pairs_are_the_querys_own_past_drawn_as_one_clip():
    """Parts of the whole example in their order: one scale of depth, and the truth is the query's part alone."""
    pool = Pool(Scenes("train", size=16, frames=17), range(3))
    episode = draw_context(pool, "video_depth", 2, np.random.default_rng(0), evaluation=True, prefix_frames=5)
    (number,) = [n for n in range(3) if pool[n] is episode.query_sample]
    whole = episode.task.example(pool[number], episode.definition, np.random.default_rng(0))
    for part, example in enumerate([*episode.pairs, episode.query]):
        span = slice(5 * part, 5 * part + 5)
        assert torch.equal(example.input, whole.input[:, span]) and torch.equal(example.target, whole.target[:, span])
    label = episode.task.label(pool[number], episode.definition)
    torch.testing.assert_close(episode.truth, label[10:15], equal_nan=True)
    for task, message in (("frame_prediction", "has no prefix mode"), ("depth", "has no prefix mode")):
        with pytest.raises(ValueError, match=message):
            draw_context(pool, task, 1, np.random.default_rng(0), prefix_frames=5)
    with pytest.raises(ValueError, match="no definition fits"):
        draw_context(pool, "video_depth", 3, np.random.default_rng(0), prefix_frames=5)


def test_a_pool_without_the_labels_a_task_needs_is_refused_by_naming_both():
    pool = Pool(Scenes("train", size=16, frames=5), range(3))
    with pytest.raises(ValueError, match=r"'frame_prediction' needs a clip of 21 frames \(this one has 5\)"):
        draw_context(pool, "frame_prediction", 1, np.random.default_rng(0))
