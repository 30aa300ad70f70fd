"""`lavin infer`: a context and queries in, predictions out. What is checked before any work; see ``cli_queries``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lavin.errors import InputError
from lavin.suggest import unknown

if TYPE_CHECKING:
    from lavin.encoded import EncodedContext
    from lavin.memory import keep_freed_memory
    from lavin.pipeline import LavinPipeline

    keep_freed_memory()
    from lavin.select import Selector
    from lavin.tasks import Task

DTYPES = ("float32", "bfloat16")
"""float16 is left out: it overflows in the ST-VAE, and pictures come out black."""


def infer(
    context: Annotated[Path, typer.Option(help="Folder of <name>_input.*, <name>_target.* pairs, or a .ctx file.")],
    query: Annotated[list[Path], typer.Option(help="Picture or mp4 clip, or a folder of them; repeat for several.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, prediction.png or .mp4 if not given; for several queries a folder.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Also write the label read from the prediction, e.g. depth; see 'lavin tasks'.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A bundled model's name, or a folder: a model's or the release's.")
    ] = "lavin-tiny",
    steps: Annotated[
        int | None,
        typer.Option(
            help="Points of the time grid, one more than solver steps; the model's own or, by --speed exact, default, "
            "fast: 20, 14, 6.",
            show_default=False,
        ),
    ] = None,
    guidance: Annotated[float, typer.Option(help="Weight of the pairs; 1 is no guidance and twice as fast.")] = 1.5,
    speed: Annotated[
        str, typer.Option(help="exact, default or fast: how many steps, and how much is computed anew at each.")
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
    composite: Annotated[
        bool,
        typer.Option(
            "--composite",
            help="With --task inpainting: keep the query's own pixels outside its black hole.",
        ),
    ] = False,
    grid: Annotated[Path | None, typer.Option(help="Also write context, queries and predictions as one PNG.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps ...; auto takes a CUDA GPU if there is one.")] = (
        "auto"
    ),
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    resume: Annotated[bool, typer.Option("--resume", help="Leave out queries whose prediction exists.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite outputs that exist.")] = False,
) -> int:
    """Predict the target of every query from the pairs in CONTEXT."""
    from lavin.bundled import find_model, find_released, trained_on_clips
    from lavin.cli_outputs import check_outputs, plan_outputs
    from lavin.clips import is_clip
    from lavin.speed import find_speed

    # Everything that can be wrong with the call is found before torch is imported and weights are read.
    if dtype not in DTYPES:
        raise InputError(unknown("dtype", dtype, DTYPES))
    if resume and force:
        raise InputError("--resume leaves existing outputs and --force overwrites them; give one of the two")
    find_speed(speed)
    if composite and task != "inpainting":
        raise InputError("--composite pastes back what inpainting was shown; give --task inpainting with it")
    released = find_released(model)
    model_folder = released or find_model(model)
    check_select(select, encoder)
    encoded = is_encoded(context, pairs, select)
    pool = None if encoded else open_pool(context, pairs, select)
    outputs = plan_outputs(query, out)
    if not resume:
        check_outputs(outputs, task, grid, force)

    from lavin.labels import find_task

    task_name = find_task(task).name if task else None
    check_kinds([source for source, _ in outputs], pool, find_task(task) if task else None)
    if resume:  # labels are written before predictions: where there is a prediction, there is all
        outputs = [(source, target) for source, target in outputs if not target.is_file()]
    check_outputs(outputs, task_name, grid, force or resume)  # an alias writes under the task's own name
    place = find_device(device)

    from lavin.cli_queries import ChosenContexts, OneContext, paste_known, predict
    from lavin.encoded import EncodedContext
    from lavin.pipeline import LavinPipeline

    if encoded:
        pool = EncodedContext.load(context)
        check_kinds([source for source, _ in outputs], pool)
    if trained_on_clips(model_folder) is False and any(is_clip(source) for source, _ in outputs):
        typer.echo(f"note: {model} was trained on pictures only: it takes clips, but knows nothing of motion", err=True)
    load = LavinPipeline.from_released if released else LavinPipeline.from_pretrained
    pipeline = load(model_folder, torch_dtype=find_dtype(dtype)).to(place)
    pipeline.check_inputs(steps, guidance, "pil", task_name, ensemble_size=1)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "speed": speed, "task": task_name}
    finish = paste_known if composite else None
    if encoded:
        contexts = OneContext(pipeline.own(pool))
    else:
        pairs = pairs or default_pairs(pool, pipeline.config.max_pairs, model, select)
        contexts = ChosenContexts(pipeline, make_selector(pool, select, encoder, pipeline, seed), pairs)
    return predict(pipeline, contexts, outputs, grid, seed, force or resume, options, finish)


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


def check_kinds(queries: Sequence[Path], pool: Sequence | EncodedContext | None, task: Task | None = None) -> None:
    """Refuse queries that are pictures where clips are needed, or the other way round.

    Args:
        pool: pairs, or encoded ones; None where they are not read yet.
        task: as which predictions shall be read.
    """
    from lavin.clips import is_clip

    needs_clips = pool is not None and not all(map(is_clip, queries)) and shows_clips(pool)
    for query in queries:
        if needs_clips and not is_clip(query):
            raise InputError(f"query {query} is a picture, but the context's pairs are clips; give an mp4")
        if task is not None and task.clips and not is_clip(query):
            raise InputError(f"--task {task.name} reads clips, but query {query} is a picture; give an mp4")
        if task is not None and task.people and is_clip(query):
            raise InputError(f"--task {task.name} reads pictures, but query {query} is a clip; leave --task out")


def shows_clips(pool: Sequence | EncodedContext) -> bool:
    """Whether pairs are clips."""
    from lavin.clips import Clip

    frames = getattr(pool, "pair_frames", None)
    return isinstance(pool[0][0], Clip) if frames is None else max(frames) > 1


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

    check_strategy(select, "--select: ")
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
