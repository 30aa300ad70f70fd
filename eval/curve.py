"""Draw a run's loss curves from its TensorBoard logs: python eval/curve.py runs/pretrain-tiny docs/curve.png"""

import sys
from pathlib import Path

from lavin.errors import InputError, LavinError


def read_scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) in order of steps; of steps that a resumed run repeated, the last."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = sorted(run.glob("logs/**/events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(f"{run}: no TensorBoard logs; give the output_dir of a run")
    values: dict[str, dict[int, float]] = {}
    for file in files:
        accumulator = EventAccumulator(str(file)).Reload()
        for tag in accumulator.Tags()["scalars"]:
            values.setdefault(tag, {}).update({event.step: event.value for event in accumulator.Scalars(tag)})
    return {tag: sorted(steps.items()) for tag, steps in values.items()}


def draw(run: Path, out: Path, prefixes: tuple[str, ...] = ("loss", "validation/loss")) -> None:
    """One panel: training losses as lines, validation losses as dots."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    for tag, points in sorted(read_scalars(run).items()):
        if tag.startswith(prefixes):
            axes.plot(*zip(*points, strict=True), "o-" if tag.startswith("validation") else "-", ms=3, lw=1, label=tag)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=run.name)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, ncol=2)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python eval/curve.py RUN_FOLDER OUT.png")
    try:
        draw(Path(sys.argv[1]), Path(sys.argv[2]))
    except LavinError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
