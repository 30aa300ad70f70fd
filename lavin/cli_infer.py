"""`lavin infer`: a context and queries in, pictures out; queries stream through, so that memory does not grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lavin.errors import InputError
from lavin.suggest import unknown

if TYPE_CHECKING:
    from lavin.encoded import EncodedContext
    from lavin.pipeline import LavinPipeline
    from lavin.select import Selector

DTYPES = ("float32", "bfloat16")
"""float16 is left out: it overflows in the ST-VAE, and pictures come out black."""
BATCH = 8
"""Queries that run together."""
GRID_QUERIES = 8
"""Queries that fit into one grid picture."""
ENCODED_CONTEXTS = 16
"""Contexts kept encoded where every query may be shown other pairs."""
LISTED = 5
"""Failed queries that the last line names."""


def infer(
    context: Annotated[Path, typer.Option(help="Folder of <name>_input.*, <name>_target.* pairs, or a .ctx file.")],
    query: Annotated[list[Path], typer.Option(help="Picture to solve, or a folder of them; repeat for several.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="PNG to write, prediction.png if not given; for several queries a folder.", show_default=False
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Also write the label read from the prediction, e.g. depth; see 'lavin tasks'.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled model's name, or a folder: a model's or the release's.")
    ] = "lavin-tiny",
    steps: Annotated[int, typer.Option(help="Points of the time grid; one more than solver steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    speed: Annotated[
        str, typer.Option(help="exact, default or fast: how much of the context is computed anew at every step.")
    ] = "default",
    seed: Annotated[int, typer.Option(help="The same seed gives the same pixels.")] = 0,
    pairs: Annotated[int | None, typer.Option(help="Use only so many pairs, see --select.", show_default=False)] = None,
    select: Annotated[
        str,
        typer.Option(help="Which pairs a query is shown: first, random, similar to it, or diverse; most alike first."),
    ] = "first",
    encoder: Annotated[
        str | None,
        typer.Option(
            help="A transformers image encoder (hub name or folder) for --select similar or diverse; the model's own "
            "ST-VAE if not given.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Also write context, queries and predictions as one PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    resume: Annotated[bool, typer.Option("--resume", help="Leave out queries whose prediction exists.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs that exist.")] = False,
) -> int:
    """Predict the target of every query from the pairs in CONTEXT."""
    from lavin.bundled import find_model, find_released
    from lavin.speed import find_speed

    # Everything that can be wrong with the call is found before torch is imported and weights are read.
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if resume and force:
        raise InputError("--resume leaves existing outputs and --force overwrites them; give one of the two")
    find_speed(speed)
    released = find_released(model)
    model_folder = released or find_model(model)
    check_select(select, encoder)
    pool = None if is_encoded(context, pairs, select) else open_pool(context, pairs, select)
    outputs = plan_outputs(query, out)
    if not resume:
        check_outputs(outputs, task, grid, force)

    from lavin.labels import find_task

    task_name = find_task(task).name if task else None
    if resume:  # labels are written before predictions: where there is a prediction, there is all
        outputs = [(source, target) for source, target in outputs if not target.is_file()]
    check_outputs(outputs, task_name, grid, force or resume)  # an alias writes under the task's own name
    place = find_device(device)

    from lavin.encoded import EncodedContext
    from lavin.pipeline import LavinPipeline

    load = LavinPipeline.from_released if released else LavinPipeline.from_pretrained
    pipeline = load(model_folder, torch_dtype=find_dtype(dtype)).to(place)
    pipeline.check_inputs(steps, guidance, "pil", task_name, ensemble_size=1)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "speed": speed, "task": task_name}
    if pool is None:
        contexts = OneContext(pipeline.own(EncodedContext.load(context)))
    else:
        pairs = pairs or default_pairs(pool, pipeline.config.max_pairs, model, select)
        contexts = ChosenContexts(pipeline, make_selector(pool, select, encoder, pipeline, seed), pairs)
    return predict(pipeline, contexts, outputs, grid, seed, force or resume, options)


def is_encoded(context: Path, pairs: int | None, select: str) -> bool:
    """Whether the context is a file made by ``lavin context save``, of which no pairs can be left out."""
    from lavin.encoded import SUFFIX

    if context.suffix != SUFFIX or context.is_dir():
        return False
    if pairs is not None or select != "first":
        raise InputError(
            f"--context {context} holds encoded pairs, all of which are used; leave out --pairs and --select"
        )
    return True


def open_pool(context: Path, pairs: int | None, select: str) -> Sequence:
    """The pairs to choose from; in a folder of many no more is read than the strategy needs."""
    from lavin.data.folders import load_pairs
    from lavin.select import PairFolder

    pool = load_pairs(context, limit=pairs) if select == "first" else PairFolder(context)
    if pairs is not None and not 1 <= pairs <= len(pool):
        raise InputError(f"--pairs {pairs}: context folder {context} has {len(pool)} pairs; give 1 to {len(pool)}")
    return pool


def default_pairs(pool: Sequence, max_pairs: int | None, model: str, select: str) -> int:
    """All pairs, or as many as the model was trained with."""
    if not max_pairs or len(pool) <= max_pairs:
        return len(pool)
    if select == "first":
        typer.echo(
            f"note: {model} was trained with up to {max_pairs} pairs; using the first of "
            f"{len(pool)} (--pairs {len(pool)} uses all)",
            err=True,
        )
    return max_pairs


def check_select(select: str, encoder: str | None) -> None:
    """Refuse an unknown strategy, and an encoder that would not be used."""
    from lavin.select import BY_FEATURES, check_strategy

    check_strategy(select, "--select")
    if encoder is not None and select not in BY_FEATURES:
        raise InputError(f"--encoder {encoder} is of no use to --select {select}; take {' or '.join(BY_FEATURES)}")


def make_selector(pool: Sequence, select: str, encoder: str | None, pipeline: LavinPipeline, seed: int) -> Selector:
    """Chooses among the pool's pairs, by the model's own latents or by an encoder's features."""
    from lavin.select import BY_FEATURES, EncoderFeatures, LatentFeatures, Selector

    features = None
    if encoder is not None:
        features = EncoderFeatures(encoder, pipeline.device)
    elif select in BY_FEATURES:
        features = LatentFeatures(pipeline.stvae, pipeline.config.sample_size)
    return Selector(pool, select, features, seed)


# --- Outputs ----------------------------------------------------------------------------------------------------------


def plan_outputs(queries: Sequence[Path], out: Path | None) -> list[tuple[Path, Path]]:
    """(query file, prediction file) of every query; no two write one file, and a query on its own can be read."""
    from lavin.io import image_files, read_image

    files: list[Path] = []
    for query in queries:
        if not query.is_dir():
            files.append(query)
            continue
        # <name>_target.* beside a query is its known answer.
        found = [path for path in image_files(query) if not path.stem.endswith("_target")]
        if not found:
            raise InputError(f"query folder {query} has no pictures")
        files += found
    several = len(files) > 1 or queries[0].is_dir()
    if several and out is not None and out.suffix.lower() == ".png" and not out.is_dir():
        raise InputError(f"--out {out}: {len(files)} queries need a folder, not a file")
    if several or (out is not None and out.is_dir()):
        folder = out or Path("predictions")
        outputs = [(path, folder / f"{path.stem}.png") for path in files]
    else:
        outputs = [(files[0], out or Path("prediction.png"))]
    sources: dict[Path, Path] = {}
    for source, target in outputs:
        if target in sources:
            raise InputError(f"queries {sources[target]} and {source} would both be written to {target}")
        sources[target] = source
    if len(files) == 1:
        read_image(files[0])
    return outputs


def check_outputs(outputs: Sequence[tuple[Path, Path]], task: str | None, grid: Path | None, force: bool) -> None:
    """Refuse outputs that exist or are no PNG, before any work."""
    from lavin.io import LABEL_SUFFIXES, check_free, check_png

    for _, target in outputs:
        check_png(target)
        check_free(target, force)
        for suffix in LABEL_SUFFIXES if task else ():
            check_free(f"{label_stem(target, task)}{suffix}", force)
    if grid is not None:
        check_png(grid)
        check_free(grid, force, "--grid")
        if grid in [target for _, target in outputs]:
            raise InputError(f"--grid {grid} is the prediction's own file; give another name")


def label_stem(prediction: Path, task: str) -> str:
    return str(prediction.with_name(f"{prediction.stem}_{task}"))


# --- Contexts ---------------------------------------------------------------------------------------------------------


@dataclass
class OneContext:
    """A context file: every query is shown the same pairs."""

    encoded: EncodedContext

    def choose(self, picture: Any) -> tuple[int, ...]:
        return tuple(range(len(self.encoded)))

    def note(self, chosen: tuple[int, ...]) -> str | None:
        return None

    def encode(self, chosen: tuple[int, ...]) -> EncodedContext:
        return self.encoded

    def pictures(self, chosen: tuple[int, ...]) -> list[tuple]:
        from PIL import Image

        return [
            tuple(Image.fromarray(half.permute(1, 2, 0).numpy()) for half in pair) for pair in self.encoded.thumbnails
        ]


class ChosenContexts:
    """Pairs of a pool, chosen query by query; what was chosen lately stays encoded."""

    def __init__(self, pipeline: LavinPipeline, selector: Selector, pairs: int):
        self.selector, self.pairs = selector, pairs
        self.encode = lru_cache(ENCODED_CONTEXTS)(lambda chosen: pipeline.encode_context(self.pictures(chosen)))

    def choose(self, picture: Any) -> tuple[int, ...]:
        return tuple(self.selector(picture, self.pairs))

    def note(self, chosen: tuple[int, ...]) -> str | None:
        if self.selector.strategy == "first":
            return None
        return "context " + ", ".join(self.selector.pool.names[number] for number in chosen)

    def pictures(self, chosen: tuple[int, ...]) -> list[tuple]:
        return [self.selector.pool[number] for number in chosen]


# --- Queries ----------------------------------------------------------------------------------------------------------


def predict(
    pipeline: LavinPipeline,
    contexts: OneContext | ChosenContexts,
    outputs: Sequence[tuple[Path, Path]],
    grid: Path | None,
    seed: int,
    force: bool,
    options: dict[str, Any],
) -> int:
    """Run the queries batch by batch; files are read ahead and written behind, in threads of their own.

    Returns:
        Exit code: 2 if a query failed; the others are written all the same.
    """
    from lavin.io import write_image

    failures: list[str] = []
    shown: list[tuple] = []  # chosen pairs, query and prediction of those that the grid has room for
    with ThreadPoolExecutor(1) as readers, ThreadPoolExecutor(1) as writers:
        writing: list[Future] = []
        for batch in read_ahead(readers, outputs, failures):
            writing = finish(writing, failures)
            chosen = [contexts.choose(picture) for _, _, picture in batch]
            for (source, _, _), numbers in zip(batch, chosen, strict=True):
                if note := contexts.note(numbers):
                    typer.echo(f"note: {source}: {note}", err=True)
            for numbers in dict.fromkeys(chosen):  # those that are shown the same pairs run together
                members = [member for member, own in zip(batch, chosen, strict=True) if own == numbers]
                images, labels = solve(pipeline, contexts.encode(numbers), members, seed, options)
                for (_, target, picture), image, label in zip(members, images, labels, strict=True):
                    writing.append(writers.submit(write, target, image, label, options["task"], force))
                    if len(shown) < GRID_QUERIES:
                        shown.append((numbers, picture, image))
        finish(writing, failures)
    if grid is not None and shown:
        typer.echo(write_image(grid, draw_predictions(contexts, shown), force))
    if failures:
        rest = f" and {len(failures) - LISTED} more" if len(failures) > LISTED else ""
        raise InputError(f"{len(failures)} of {len(outputs)} queries failed: {'; '.join(failures[:LISTED])}{rest}")
    return 0


def read_ahead(
    readers: ThreadPoolExecutor, outputs: Sequence[tuple[Path, Path]], failures: list[str]
) -> Iterator[list[tuple[Path, Path, Any]]]:
    """Batches of (query file, prediction file, picture), the next one read while one is solved."""

    def read(batch: Sequence[tuple[Path, Path]]) -> list[tuple[Path, Path, Any]]:
        from lavin.io import read_image

        found = []
        for source, target in batch:
            try:
                found.append((source, target, read_image(source)))
            except InputError as error:
                failures.append(str(error))
        return found

    coming: Future | None = None
    for start in range(0, len(outputs), BATCH):
        ready, coming = coming, readers.submit(read, outputs[start : start + BATCH])
        if ready is not None and ready.result():
            yield ready.result()
    if coming is not None and coming.result():
        yield coming.result()


def finish(writing: list[Future], failures: list[str]) -> list[Future]:
    """Wait for files that are being written and print their names; a new, empty list."""
    for future in writing:
        try:
            for path in future.result():
                typer.echo(path)
        except InputError as error:
            failures.append(str(error))
    return []


def solve(
    pipeline: LavinPipeline, context: EncodedContext, members: list[tuple], seed: int, options: dict[str, Any]
) -> tuple[list, list]:
    """Predictions and labels of queries that share a context."""
    import torch

    # One generator a query: a picture's prediction does not depend on which others are in the folder.
    generators = [torch.Generator().manual_seed(seed) for _ in members]
    result = pipeline(context, [picture for _, _, picture in members], generator=generators, **options)
    return result.images, result.labels or [None] * len(members)


def write(target: Path, image: Any, label: Any, task: str | None, force: bool) -> list[Path]:
    """Write a prediction and its label; the label first, since a prediction that exists is taken as finished."""
    from lavin.io import write_image, write_label
    from lavin.labels import reads_picture

    written = []
    if task and not reads_picture(task):
        written.append(write_label(label_stem(target, task), label, task, force))
    return [write_image(target, image, force), *written]


def draw_predictions(contexts: OneContext | ChosenContexts, shown: list[tuple]):
    """Contexts, queries and predictions as one picture: a row for every context."""
    from lavin.io import draw_grid, stack

    rows = []
    for numbers in dict.fromkeys(chosen for chosen, _, _ in shown):
        context = contexts.pictures(numbers)
        queries = [(query, prediction) for chosen, query, prediction in shown if chosen == numbers]
        rows.append(draw_grid([*context, *queries], len(context)))
    return stack(rows)


# --- Devices ----------------------------------------------------------------------------------------------------------


def find_dtype(name: str):
    import torch

    return getattr(torch, name)


def find_device(name: str):
    """A device that is there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"--device {name} cannot be used here; cpu always can") from error
    return device
