"""Streams of fresh contexts: which worker draws what, and how a pool moves on."""

import itertools

import numpy as np
import pytest
import torch

from lavin.data.mixture import draw_context
from lavin.data.sample import Vocabulary
from lavin.data.scenes import Scenes
from lavin.data.stream import STARTING_SAMPLES, ContextStream, Drawer, RollingPool, Share, pictures, read_stream
from lavin.errors import InputError
from lavin.tasks import HeldOut

TASKS = ["depth", "foreground", "denoising"]


class Counter:
    """A source that records what was asked of it."""

    vocabulary = Vocabulary()

    def __init__(self):
        self.asked = []

    def samples(self, indices):
        self.asked += indices
        return list(indices)


def stream(**changes) -> ContextStream:
    share = Share(Scenes("train", size=32), 1.0, dict.fromkeys(TASKS, 1.0), per_context=3.0, capacity=200)
    return ContextStream(**{"shares": [share], "tasks": TASKS, "pairs": 3, "batch": 2, **changes})


def take(source: ContextStream, workers: int, count: int) -> list[torch.Tensor]:
    return [batch.targets for batch in itertools.islice(read_stream(source, workers), count)]


def test_pool_renders_its_own_samples_keeps_the_newest_and_skips_what_it_would_drop():
    source = Counter()
    pool = RollingPool(source, worker=3, capacity=20)
    pool.advance(25)
    first = 3 * 2**32
    assert source.asked == [first + n for n in range(5, 25)]
    pool.advance(30)
    assert list(pool) == [first + n for n in range(10, 30)]
    pool.advance(30)
    assert len(source.asked) == 25


def test_of_a_source_of_few_pictures_none_is_in_a_pool_twice():
    class Few(Counter):
        def __len__(self):
            return 12

    pool = RollingPool(Few(), worker=5, capacity=100)
    for rendered in (7, 12, 30, 41):
        pool.advance(rendered)
        assert len({index % 12 for index in pool}) == len(pool) == min(rendered, 12)


def test_batches_are_contexts_of_the_tasks_in_whole_levels():
    batch = next(read_stream(stream(), 0))
    assert batch.inputs.shape == batch.targets.shape == (2, 3, 3, 1, 32, 32)
    assert batch.inputs.dtype == torch.uint8
    assert set(batch.task_ids.tolist()) <= {0, 1, 2}


def test_a_context_is_drawn_from_its_workers_pool_by_its_number():
    source = stream()
    (task_id, episode), (_, again) = (Drawer(source, 1, 2).draw(3) for _ in range(2))
    assert TASKS[task_id] == episode.task.name
    assert torch.equal(episode.query.input, again.query.input)
    indices = [int(sample.id.split("/")[-1]) for sample in [episode.query_sample, *episode.pair_samples]]
    assert all(2**32 <= index < 2**32 + STARTING_SAMPLES + 3 * 3 for index in indices)


def test_two_workers_take_turns_and_a_stream_started_later_goes_on_where_the_first_stopped():
    whole = take(stream(), 2, 5)
    rest = take(stream(first=3), 2, 2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(whole[3:], rest, strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_ranks_draw_different_contexts():
    first, second = (take(stream(rank=rank, ranks=2), 1, 1)[0] for rank in range(2))
    assert not torch.equal(first, second)


def test_pictures_are_the_examples_rounded_to_levels():
    pool = RollingPool(Scenes("train", size=32), 0, 40)
    pool.advance(40)
    episode = draw_context(pool, "denoising", 2, np.random.default_rng(0))
    inputs, targets = pictures(episode)
    for example, input, target in zip([*episode.pairs, episode.query], inputs, targets, strict=True):
        assert (example.input - (input.float() / 127.5 - 1)).abs().max() <= 0.5 / 127.5 + 1e-6
        assert torch.equal(((example.target + 1) * 127.5).round().to(torch.uint8), target)


def test_several_sources_are_drawn_in_proportion_and_by_their_own_tasks():
    plain = Share(Scenes("train", size=32), 0.7, {"depth": 1.0}, capacity=150)
    people = Share(Scenes("train", size=32, people=True), 0.3, {"pose": 1.0}, per_context=0.1, capacity=150)
    drawer = Drawer(ContextStream([plain, people], ["depth", "pose"], 2), 0, 1)
    names = [drawer.draw(number)[1].task.name for number in range(60)]
    assert 6 <= names.count("pose") <= 32
    assert names.count("depth") + names.count("pose") == 60


def test_a_task_that_a_source_cannot_show_is_named():
    share = Share(Scenes("train", size=32), 1.0, {"pose": 1.0}, capacity=150)
    with pytest.raises(InputError, match="Scenes: task 'pose'"):
        Drawer(ContextStream([share], ["pose"], 2), 0, 1).draw(0)


def test_a_worker_that_cannot_draw_says_so_in_one_line():
    share = Share(Scenes("train", size=32), 1.0, {"pose": 1.0}, capacity=150)
    with pytest.raises(InputError, match=r"^Scenes: task 'pose'[^\n]*$"):
        next(read_stream(ContextStream([share], ["pose"], 2), 1))


def test_held_out_names_are_never_drawn():
    held_out = HeldOut(classes=tuple(name for name in Scenes("train").vocabulary.things if name != "cone"))
    share = Share(Scenes("train", size=32), 1.0, {"foreground": 1.0}, capacity=200)
    drawer = Drawer(ContextStream([share], ["foreground"], 2, held_out), 0, 1)
    drawn = {drawer.draw(number)[1].definition.class_name for number in range(20)}
    assert drawn <= {None, "cone"}
    assert "cone" in drawn
