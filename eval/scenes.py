"""Speed and looks of the procedural scenes, and of the contexts that tasks make of them.

    python eval/scenes.py --size 128 --count 256                      # prints scenes per second
    python eval/scenes.py --size 128 --frames 9 --people --count 8 --out sheet.png
    python eval/scenes.py --size 128 --contexts --threads 1           # prints contexts per second of each task
    python eval/scenes.py --size 128 --stream 100 --workers 2         # the same by two processes, all scenes new
    python eval/scenes.py --size 128 --stream 100 --per-context 2     # as they feed a training by default
    python eval/scenes.py --size 128 --memory 10000 --workers 2       # prints what the workers hold meanwhile

Rates are per second of one processor's time, so that other programs on the machine disturb them little; wall time is
printed beside. The sheet shows, for each scene (and every second frame of a clip): picture with keypoints, disparity,
normals, instances, and for clips flow.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lavin.data.mixture import Pool, draw_context
from lavin.data.sample import Sample
from lavin.data.scenes import Scenes
from lavin.data.stream import BATCHES_AHEAD, ContextStream, Share, read_stream
from lavin.evaluation.memory import worker_memory
from lavin.tasks import REGISTRY, Task

PAIRS, BATCH = 4, 4
"""Pairs of a context, and scenes rendered together for contexts."""


def disparity_picture(depth: Tensor) -> Tensor:
    """Near is bright, sky is black: (height, width) metres -> (height, width, 3) in [0, 1]."""
    disparity = (1 / depth).nan_to_num(0)
    return (disparity / disparity.max()).unsqueeze(-1).expand(-1, -1, 3)


def flow_picture(flow: Tensor) -> Tensor:
    """Red grows to the right, green downwards, grey is still: (2, height, width) pixels -> (height, width, 3)."""
    scaled = flow.nan_to_num(0) / flow.nan_to_num(0).abs().max().clamp_min(1e-6)
    return torch.cat([scaled, -scaled.mean(0, keepdim=True)]).permute(1, 2, 0) / 2 + 0.5


def with_keypoints(sample: Sample, frame: int) -> Tensor:
    """The picture with a dot on every joint, green where it is visible and red where it is hidden, in [0, 1]."""
    picture = sample.clip[frame] / 255
    for instance in sample.instances:
        if instance.keypoints is not None:
            joints = instance.keypoints.view(-1, 17, 3)[frame]
            x, y, v = joints[joints[:, 2] > 0].long().T
            picture[y, x] = torch.where((v == 2)[:, None], torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 0, 0]))
    return picture


def panels(sample: Sample, frame: int) -> Tensor:
    """Labels of a frame side by side: (height, panels * width, 3) in [0, 1]."""
    colours = torch.rand(256, 3, generator=torch.Generator().manual_seed(1))
    colours[0] = 0
    parts = [
        with_keypoints(sample, frame),
        disparity_picture(sample.depth[frame]),
        sample.normals[:, frame].permute(1, 2, 0) / 2 + 0.5,
        colours[sample.panoptic[frame].long()],
    ]
    if sample.flow is not None:
        parts.append(flow_picture(sample.flow[:, frame]))
    return torch.cat(parts, dim=1)


def contact_sheet(samples: list[Sample], columns: int) -> Image.Image:
    """One cell per frame shown, filled row by row."""
    cells = [panels(sample, frame) for sample in samples for frame in range(0, sample.size[0], 2)]
    blank = torch.zeros_like(cells[0])
    cells += [blank] * (-len(cells) % columns)
    rows = [torch.cat(cells[start : start + columns], dim=1) for start in range(0, len(cells), columns)]
    return Image.fromarray((torch.cat(rows).clamp(0, 1) * 255).byte().numpy())


def seconds(work: Callable[[int], object], count: int) -> tuple[float, float]:
    """Processor and wall time of one call of ``work``, the mean of ``count``."""
    cpu, wall = time.process_time(), time.perf_counter()
    for number in range(count):
        work(number)
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count


def peak_mib() -> float:
    """Most memory that this process has held so far (Linux counts it in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def render(scenes: Scenes, batch: int, number: int) -> None:
    """The batch of that number."""
    scenes.samples(range(number * batch, (number + 1) * batch))


def benchmark(scenes: Scenes, count: int, batch: int) -> None:
    """Print scenes per second, all labels included, and how memory grew."""

    for number in range(2):  # warm the allocator and the textures
        render(scenes, batch, number)
    before = peak_mib()
    cpu, wall = (value / batch for value in seconds(partial(render, scenes, batch), max(1, count // batch)))
    height, width = scenes.size
    print(
        f"{'people' if scenes.people else 'solids'}, {scenes.frames} x {height} x {width}, batch {batch}, "
        f"{torch.get_num_threads()} thread(s): {1 / cpu:.1f} scenes per processor second ({1e3 * cpu:.1f} ms each), "
        f"{1 / wall:.1f} per second here; memory grew by {peak_mib() - before:.0f} MiB"
    )


def sources_of(task: Task, arguments: argparse.Namespace) -> list[Scenes]:
    """The scenes that a task's contexts come from, without and with people; clips for clip tasks."""
    frames = arguments.clip_frames if getattr(task, "clips", False) else 1
    return [Scenes(arguments.split, arguments.size, frames, arguments.seed, people=people) for people in (False, True)]


def draw(pool: Pool, task: Task, rng: np.random.Generator, _: int) -> None:
    """One context, whatever its number."""
    draw_context(pool, task, PAIRS, rng)


def benchmark_contexts(arguments: argparse.Namespace) -> None:
    """Print for each task how many contexts of PAIRS pairs and a query a second of processor time makes: of scenes that
    are kept in a pool, and of scenes that are rendered for the context and used once."""
    tasks = [REGISTRY[name] for name in arguments.tasks or sorted(REGISTRY)]
    pools: dict[tuple, tuple[Pool, float]] = {}
    print(f"contexts of {PAIRS} pairs and a query at {arguments.size} x {arguments.size}, per processor second")
    print(f"{'task':24}{'frames':>8}{'scenes':>8}{'pooled':>10}{'fresh':>10}   memory")
    for task in tasks:
        for scenes in sources_of(task, arguments):
            key = scenes.frames, scenes.people
            if key not in pools:
                render(scenes, BATCH, 0)
                cpu, _ = seconds(partial(render, scenes, BATCH), 4)
                pools[key] = Pool(scenes, range(arguments.pool)), cpu / BATCH
            pool, rendering = pools[key]
            rng = np.random.default_rng(0)
            row = f"{task.name:24}{scenes.frames:>8}{'people' if scenes.people else 'solids':>8}"
            try:
                draw(pool, task, rng, 0)
            except ValueError as error:
                print(f"{row}   {error}")
                continue
            before = peak_mib()
            drawing, _ = seconds(partial(draw, pool, task, rng), arguments.draws)
            fresh = 1 / (drawing + (PAIRS + 1) * rendering)
            print(f"{row}{1 / drawing:>10.1f}{fresh:>10.1f}   +{peak_mib() - before:.0f} MiB", flush=True)


def benchmark_stream(arguments: argparse.Namespace) -> None:
    """Print for each task how many contexts a second of wall time ``--workers`` processes make, each of scenes that are
    rendered for it alone, or of a pool to which every context adds ``--per-context`` scenes."""
    tasks = [REGISTRY[name] for name in arguments.tasks or sorted(REGISTRY)]
    new = arguments.per_context or PAIRS + 1
    print(
        f"contexts of {PAIRS} pairs and a query at {arguments.size} x {arguments.size}, {arguments.workers} workers, "
        f"{new:g} new scenes each"
    )
    print(f"{'task':24}{'frames':>8}{'scenes':>8}{'a second':>10}", flush=True)
    for task in tasks:
        for people in (True,) if task.people else (False, True):
            frames = (task.source_frames if task.own_length else arguments.clip_frames) if task.clips else 1
            scenes = Scenes("train", arguments.size, frames, arguments.seed, people=people)
            share = Share(scenes, 1.0, {task.name: 1.0}, per_context=new, capacity=arguments.pool)
            stream = ContextStream([share], [task.name], PAIRS + 1, seed=arguments.seed, batch=1)
            batches = read_stream(stream, arguments.workers)
            # The workers fill their pools first, and hold what they drew ahead of the first measured one.
            for _ in range(2 * BATCHES_AHEAD * max(1, arguments.workers)):
                next(batches)
            start = time.perf_counter()
            for _ in range(arguments.stream):
                next(batches)
            rate = arguments.stream / (time.perf_counter() - start)
            print(f"{task.name:24}{frames:>8}{'people' if people else 'solids':>8}{rate:>10.1f}", flush=True)


def benchmark_memory(arguments: argparse.Namespace) -> None:
    """Print how much memory the workers of a stream hold as they go on drawing, over all tasks of its kind."""
    clips = arguments.frames > 1
    scenes = Scenes("train", arguments.size, arguments.frames, arguments.seed, people=arguments.people)
    names = arguments.tasks or sorted(
        name
        for name, task in REGISTRY.items()
        if task.clips == clips and not task.own_length and (arguments.people or not task.people)
    )
    share = Share(scenes, 1.0, dict.fromkeys(names, 1.0), capacity=arguments.pool)
    stream = ContextStream([share], names, PAIRS + 1, seed=arguments.seed)
    print(f"{len(names)} tasks, {PAIRS} pairs and a query at {arguments.size}, {arguments.workers} workers")
    print(f"{'contexts':>10}{'MiB':>10}", flush=True)
    for drawn, mib in worker_memory(stream, arguments.workers, arguments.memory):
        print(f"{drawn:>10}{mib:>10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--people", action="store_true", help="scenes with people")
    parser.add_argument("--count", type=int, default=256, help="scenes in the benchmark")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None, help="torch threads; its own choice by default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--contexts", action="store_true", help="time contexts of every task instead")
    parser.add_argument("--stream", type=int, default=0, help="time so many contexts of every task, made by --workers")
    parser.add_argument("--memory", type=int, default=0, help="watch the workers' memory over so many contexts instead")
    parser.add_argument("--workers", type=int, default=2, help="processes that draw, for --stream and --memory")
    parser.add_argument(
        "--per-context",
        type=float,
        default=None,
        help="new scenes of a context, for --stream; a training's stream.scenes_per_context is 2; five if not given",
    )
    parser.add_argument("--tasks", nargs="*", default=None, help="of these tasks only")
    parser.add_argument("--pool", type=int, default=48, help="scenes that contexts are drawn from")
    parser.add_argument("--draws", type=int, default=10, help="contexts drawn of each task")
    parser.add_argument("--clip-frames", type=int, default=9, help="frames of clip tasks, 1 + 4k at least")
    parser.add_argument("--out", default=None, help="PNG of a contact sheet")
    parser.add_argument("--shown", type=int, default=32, help="scenes on the sheet")
    parser.add_argument("--columns", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.stream:
        benchmark_stream(arguments)
        return
    if arguments.memory:
        benchmark_memory(arguments)
        return
    if arguments.contexts:
        benchmark_contexts(arguments)
        return
    chosen = arguments.split, arguments.size, arguments.frames, arguments.seed
    benchmark(Scenes(*chosen, arguments.device, arguments.people), arguments.count, arguments.batch)
    if arguments.out:
        shown = Scenes(*chosen, people=arguments.people)
        contact_sheet(shown.samples(range(arguments.shown)), arguments.columns).save(arguments.out)
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
