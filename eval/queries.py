"""Many queries of one context, as `lavin infer --context x.ctx --query FOLDER` runs them: pictures a second, where the
time goes, and memory on the way.

    python eval/queries.py --queries 100
    python eval/queries.py --queries 1000 --speed fast     # is memory flat?

Pictures are held-out scenes, written to a folder that is removed at the end. Reading and writing run in threads of
their own beside the model, so parts may add up to more than all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from PIL import Image

from lavin import cli_queries
from lavin.bundled import find_model
from lavin.cli import run
from lavin.cli_infer import find_device
from lavin.data.scenes import Scenes
from lavin.errors import InputError
from lavin.io import check_free, write_bytes
from lavin.labels import find_task
from lavin.memory import keep_freed_memory
from lavin.pipeline import LavinPipeline
from lavin.speed import find_speed

LOOKS = 10
"""At memory, evenly spaced."""
SCENES = 16
"""Different ones; queries go round."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Timers:
    """Seconds spent in functions, and memory after every so many calls of one of them."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self.memory: list[float] = []

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args, **options):
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self.seconds[name] += time.perf_counter() - start

        return timed

    def look(self, function: Callable[..., Any], every: int) -> Callable[..., Any]:
        calls = 0

        def looking(*args, **options):
            nonlocal calls
            calls += 1
            if calls % every == 0:
                self.memory.append(psutil.Process().memory_info().rss / 2**20)
            return function(*args, **options)

        return looking


@app.command()
def queries(
    model: Annotated[str, typer.Option(help="A bundled model's name, or a model folder.")] = "lavin-tiny",
    queries: Annotated[int, typer.Option(help="Pictures to solve.", min=LOOKS)] = 100,
    pairs: Annotated[int, typer.Option(help="Pairs of the context.", min=1)] = 4,
    task: Annotated[str, typer.Option(help="What they show.")] = "depth",
    speed: Annotated[str, typer.Option(help="exact, default or fast.")] = "default",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...")] = "auto",
    out: Annotated[Path | None, typer.Option(help="JSON to write.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE if it exists.")] = False,
) -> None:
    """Print pictures a second, seconds of each part, and memory."""
    if out is not None:
        check_free(out, force)
    drawn = find_task(task)
    if drawn.clips or drawn.people:
        raise InputError(f"--task {task}: a task of pictures without people is needed")
    find_speed(speed)
    keep_freed_memory()
    pipeline = LavinPipeline.from_pretrained(find_model(model)).to(find_device(device))
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.config.sample_size
    samples, rng = Scenes("validation", size=side).samples(range(SCENES + pairs)), np.random.default_rng(0)
    definition = drawn.draw_definition(rng, Scenes.vocabulary, evaluation=True)
    examples = [tuple(drawn.example(sample, definition, rng)) for sample in samples[SCENES:]]
    context = pipeline.encode_context(examples, task)
    timers = Timers()
    pipeline.encode = timers.around("encode", pipeline.encode)
    pipeline.solve = timers.around("sample", pipeline.solve)
    pipeline.decode_members = timers.around("decode", pipeline.decode_members)
    read, write = cli_queries.read_media, cli_queries.write
    with tempfile.TemporaryDirectory() as folder:
        outputs = write_pictures(Path(folder), samples[:SCENES], queries)
        options = {"num_inference_steps": None, "guidance_scale": 1.5, "speed": speed, "task": None}
        start = time.perf_counter()
        try:
            cli_queries.read_media = timers.around("read", read)
            cli_queries.write = timers.look(timers.around("write", write), max(1, queries // LOOKS))
            with redirect_stdout(StringIO()):
                cli_queries.predict(pipeline, cli_queries.OneContext(context), outputs, None, 0, False, options)
        finally:
            cli_queries.read_media, cli_queries.write = read, write
        seconds = time.perf_counter() - start
    print(f"{queries} pictures of {side}x{side}, {pairs} pairs, {speed}: {queries / seconds:.2f} a second")
    parts = {name: timers.seconds[name] for name in ("read", "encode", "sample", "decode", "write")}
    print("seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in parts.items()) + f"; all {seconds:.2f}")
    print("memory, MiB: " + " ".join(f"{value:.0f}" for value in timers.memory))
    if out is not None:
        content = {
            "model": model,
            "queries": queries,
            "pairs": pairs,
            "speed": speed,
            "pictures_per_s": queries / seconds,
        }
        content |= {"seconds": seconds, "parts": parts, "memory_mib": timers.memory}
        typer.echo(write_bytes(out, (json.dumps(content, indent=1) + "\n").encode(), force))


def write_pictures(folder: Path, samples: list, count: int) -> list[tuple[Path, Path]]:
    """(query file, prediction file) of every query."""
    outputs = []
    for number in range(count):
        source = folder / f"{number:06}.png"
        Image.fromarray(samples[number % len(samples)].clip[0].numpy()).save(source)
        outputs.append((source, folder / "predictions" / source.name))
    return outputs


if __name__ == "__main__":
    sys.exit(run(app, "queries.py"))
