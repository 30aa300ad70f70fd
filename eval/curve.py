"""Draw a run's curves from its TensorBoard logs, and keep them as numbers.

python eval/curve.py runs/pretrain-small curve.png
python eval/curve.py runs/pretrain-small curve.png --json curve.json
python eval/curve.py runs/mine mine.png --reference docs/training-curve.json     # grey: a healthy run's
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import quantiles
from typing import Annotated, Any

import typer

from lavin.cli import run
from lavin.errors import InputError
from lavin.io import write_bytes

Curves = dict[str, list[tuple[int, float]]]
"""Tag -> (step, value) in order of steps."""
PANELS = {
    "loss": ("loss", "validation/loss", "validation_raw/loss"),
    "validation PSNR, dB": ("validation/psnr_photos", "validation/psnr_labels", "validation/psnr_clips"),
    "training loss by number of pairs": ("by_pairs/",),
    "training loss by timestep (0 noise, 1 data)": ("by_timestep/",),
    "training loss by task": ("by_task/",),
}
"""Title -> tags; those that end in ``/`` stand for all that begin so."""
KEPT = ("loss", "gradient_norm", "learning_rate", "validation", "by_")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def curve(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a training.")],
    out: Annotated[Path, typer.Argument(metavar="PNG", help="Picture to write.")],
    numbers: Annotated[Path | None, typer.Option("--json", help="JSON to write.", show_default=False)] = None,
    reference: Annotated[Path | None, typer.Option(help="JSON of another run, in grey.", show_default=False)] = None,
) -> None:
    """Draw losses; write them too if asked."""
    other = read_json(reference) if reference else {}
    curves = read_scalars(folder)
    write_bytes(out, draw(curves, folder.name, other), force=True)
    if numbers:
        kept = {tag: points for tag, points in sorted(curves.items()) if tag.startswith(KEPT)}
        rounded = {tag: [[step, float(f"{value:.5g}")] for step, value in points] for tag, points in kept.items()}
        lines = ",\n".join(f" {json.dumps(tag)}: {json.dumps(points)}" for tag, points in rounded.items())
        write_bytes(numbers, f"{{\n{lines}\n}}\n".encode(), force=True)


def read_scalars(run: Path) -> Curves:
    """All curves of a run; of steps that a resumed run repeated, the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(run.glob("logs/**/events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(f"{run}: no TensorBoard logs; give the output_dir of a run")
    values: dict[str, dict[int, float]] = {}
    for file in files:
        accumulator = EventAccumulator(str(file), size_guidance={"scalars": 0}).Reload()  # 0: all of them
        for tag in accumulator.Tags()["scalars"]:
            values.setdefault(tag, {}).update({event.step: event.value for event in accumulator.Scalars(tag)})
    return {tag: sorted(steps.items()) for tag, steps in values.items()}


def read_json(path: Path) -> Curves:
    """Curves as ``--json`` writes them."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {tag: [(int(step), float(value)) for step, value in points] for tag, points in values.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"--reference {path}: no curves that --json wrote ({error})") from error


def draw(curves: Curves, title: str, reference: Curves) -> bytes:
    """A PNG with one panel for each of ``PANELS`` that the run has: training as lines, validation as dots."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {panel: tags for panel, names in PANELS.items() if (tags := chosen(curves, names))}
    rows = max(1, math.ceil(len(shown) / 2))
    figure, grid = plt.subplots(rows, 2, figsize=(11, 4 * rows), squeeze=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, (panel, tags) in zip(grid.flat, shown.items(), strict=False):
        for tag in tags:
            style = "o-" if tag.startswith("validation") else "-"
            if tag in reference:
                axes.plot(*zip(*reference[tag], strict=True), style, ms=2, lw=1, color="0.75")
            axes.plot(*zip(*curves[tag], strict=True), style, ms=3, lw=1, label=tag)
        axes.set(xlabel="step", yscale="linear" if panel.endswith("dB") else "log", title=panel)
        values = [value for tag in tags for _, value in curves[tag]]
        if (top := top_of(values)) is not None:
            axes.set(ylim=(0.8 * min(values), top), title=f"{panel} (single steps beyond {top:.2g})")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.suptitle(title)
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=90)
    plt.close(figure)
    return picture.getvalue()


def top_of(values: Sequence[float]) -> float | None:
    """Where a panel ends that a few single steps would flatten: three times what 95 % of its values stay below."""
    usual = quantiles(values, n=20)[-1] if len(values) > 1 else math.inf
    return 3 * usual if max(values) > 100 * usual > 0 else None


def chosen(curves: Curves, names: tuple[str, ...]) -> list[str]:
    return [
        tag for tag in sorted(curves) for name in names if tag == name or (name.endswith("/") and tag.startswith(name))
    ]


if __name__ == "__main__":
    sys.exit(run(app, "curve.py"))
