"""Figures of studies, as a paper prints them: units, error bands, colours that the colour-blind can tell apart."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lavin.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from lavin.evaluation.curves import Curve
    from lavin.evaluation.uncertainty import Uncertainty

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
"""Of Okabe and Ito (2008)."""
CONTROLS = {"other_task": (VERMILION, "s", "targets of another task"), "shuffled": (GREEN, "^", "targets shuffled")}
UNITS = {"mean angle": "°", "EPE": "px"}
"""Metric -> unit; the others are shares or squared errors on the scale [0, 1]."""
COLUMNS = 5
STYLE = {
    "font.size": 7,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "lavin",  # the same numbers make the same file
}
DPI = 110


def check_matplotlib() -> None:
    """Refuse to begin what could not be drawn in the end.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError("figures need matplotlib: pip install 'lavin[study]'") from error


@contextmanager
def drawing(style: dict[str, Any] = STYLE):
    """pyplot without a screen, in the style of all figures, closed again."""
    check_matplotlib()
    import matplotlib

    with matplotlib.rc_context(style):
        matplotlib.rcParams["backend"] = "agg"
        import matplotlib.pyplot as plt

        try:
            yield plt
        finally:
            plt.close("all")


def save(figure: Any) -> dict[str, bytes]:
    """``svg`` and ``png`` of a figure."""
    found = {}
    for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": DPI})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **options)
        found[kind] = buffer.getvalue()
    return found


def draw_context_length(curves: Sequence[Curve], title: str) -> dict[str, bytes]:
    """One panel a task: the metric over the number of pairs with its 95 % band, lengths beyond training shaded and
    hollow, controls as marks.

    Returns:
        ``svg`` and ``png``.
    """
    with drawing() as plt:
        columns = min(COLUMNS, len(curves))
        lines = math.ceil(len(curves) / columns)
        figure, panels = plt.subplots(
            lines, columns, figsize=(1.75 * columns + 0.4, 1.55 * lines + 0.75), squeeze=False, layout="constrained"
        )
        for panel, curve in zip(panels.flat, curves):
            draw_panel(panel, curve)
        for panel in panels.flat[len(curves) :]:
            panel.set_axis_off()
        figure.suptitle(title, fontsize=9)
        for panel in panels[-1]:
            panel.set_xlabel("pairs in the context")
        handles = dict(zip(*reversed(panels[0, 0].get_legend_handles_labels())))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncol=len(handles), frameon=False)
        return save(figure)


def draw_panel(panel: Any, curve: Curve) -> None:
    """One task. Lengths stand at equal distances, as they double."""
    place = {point.pairs: number for number, point in enumerate(curve.points)}
    x = list(place.values())
    mean, low, high = zip(*(point.value for point in curve.points))
    panel.fill_between(x, low, high, color=BLUE, alpha=0.2, lw=0, label="95 % interval over queries")
    panel.plot(x, mean, "-", color=BLUE, lw=1.2)
    for beyond, face, label in (
        (False, BLUE, "pairs as in training"),
        (True, "white", "more pairs than in training"),
    ):
        chosen = [number for number, point in enumerate(curve.points) if point.beyond_training == beyond]
        if chosen:
            panel.plot(chosen, [mean[i] for i in chosen], "o", ms=3.5, color=BLUE, mfc=face, label=label)
        if chosen and beyond:
            panel.axvspan(chosen[0] - 0.5, chosen[-1] + 0.3, color=GREY, alpha=0.12, lw=0)
    for control in curve.controls:
        colour, marker, label = CONTROLS[control.name]
        error = [[control.value.mean - control.value.low], [control.value.high - control.value.mean]]
        at = place[control.pairs]
        panel.errorbar([at], [control.value.mean], error, fmt=marker, ms=3.5, color=colour, lw=0.8, label=label)
    panel.set_xticks(x, [str(length) for length in place])
    unit = f" [{UNITS[curve.metric]}]" if curve.metric in UNITS else ""
    panel.set_ylabel(f"{curve.metric}{unit} {'↑' if curve.higher_is_better else '↓'}")
    panel.set_title(curve.task)
    panel.grid(axis="y", lw=0.4, alpha=0.4)
    panel.tick_params(width=0.6, length=2)
    show_training_range(panel, curve, place)


def show_training_range(panel: Any, curve: Curve, place: dict[int, int]) -> None:
    """Scale the axis to the lengths of training, and write at its edge the values of marks that lie outside: a context
    that misleads, or is too long, can be a hundred times worse and would make all else a flat line."""
    inside = [point.value for point in curve.points if point.pairs and not point.beyond_training]
    low, high = min(value.low for value in inside), max(value.high for value in inside)
    low, high = low - 0.6 * (high - low), high + 0.6 * (high - low)
    if not (math.isfinite(high) and low < high):
        return
    panel.set_ylim(low, high)
    for point in (*curve.points, *curve.controls):
        value = point.value.mean
        if not low <= value <= high:  # also NaN, which has no place
            above = value > high
            colour = CONTROLS[point.name][0] if point in curve.controls else BLUE
            text = f"{value:.2g}{'↑' if above else '↓'}"
            if point in curve.controls:  # a line further in, so that neighbours do not overlap
                text = f"\n{text}" if above else f"{text}\n"
            where = {"ha": "center", "va": "top" if above else "bottom", "fontsize": 6, "color": colour}
            panel.text(place[point.pairs], high if above else low, text, **where)


def draw_uncertainty(found: Sequence[tuple[Uncertainty, Sequence[Tensor]]]) -> dict[str, bytes]:
    """One line a task: a query, its target, the ensemble's mean, its predicted and its true error; calibration and
    sparsification over all queries.

    Args:
        found: with each task's numbers the five of one query: three clips (3, frames, height, width) in [-1, 1] and two
            maps (frames, height, width) on the scale [0, 1]. The first frame is shown.

    Returns:
        ``svg`` and ``png``.
    """
    titles = ("query", "target", "mean of ensemble", "predicted error", "error", "calibration", "sparsification")
    with drawing() as plt:
        size = (1.25 * 5 + 1.7 * 2, 1.35 * len(found) + 0.45)
        figure, panels = plt.subplots(
            len(found), 7, figsize=size, squeeze=False, layout="constrained", width_ratios=[1] * 5 + [1.2] * 2
        )
        for line, (task, maps) in zip(panels, found):
            draw_maps(line[:5], maps)
            line[0].set_ylabel(f"{task.task}\n{task.queries} queries")
            draw_calibration(line[5], task)
            draw_sparsification(line[6], task)
        for panel, title in zip(panels[0], titles, strict=True):
            panel.set_title(title)
        return save(figure)


def draw_maps(panels: Sequence[Any], maps: Sequence[Tensor]) -> None:
    """Three pictures, and two maps of one scale, which the first map's label tells."""
    largest = max(float(values[0].max()) for values in maps[3:])
    for panel, values in zip(panels, maps, strict=True):
        if values.ndim == 4:
            panel.imshow(values[:, 0].permute(1, 2, 0).add(1).div(2).numpy())
        else:
            panel.imshow(values[0].numpy(), cmap="cividis", vmin=0, vmax=largest)
        panel.set_xticks([])
        panel.set_yticks([])
    panels[3].set_xlabel(f"0 to {largest:.2f}")


def draw_calibration(panel: Any, task: Uncertainty) -> None:
    predicted, observed = ([getattr(one, name) for one in task.bins] for name in ("predicted", "observed"))
    end = max(*predicted, *observed) * 1.05
    panel.plot([0, end], [0, end], "--", color=GREY, lw=0.8, label="calibrated")
    panel.plot(predicted, observed, "o-", color=BLUE, ms=3, lw=1)
    panel.set(xlabel="predicted RMSE", ylabel="observed RMSE", xlim=(0, end), ylim=(0, end))
    panel.legend(frameon=False, fontsize=6, loc="lower right")


def draw_sparsification(panel: Any, task: Uncertainty) -> None:
    from lavin.evaluation.uncertainty import FRACTIONS

    panel.axhline(1, ls=":", color=GREY, lw=0.8, label="at random")
    panel.plot(FRACTIONS, task.curve, "-", color=BLUE, lw=1.2, label="by spread")
    panel.plot(FRACTIONS, task.oracle, "--", color=VERMILION, lw=1.2, label="by error")
    panel.set(xlabel="share left out", ylabel="mean error left", xlim=(0, 1), ylim=(0, None))
    panel.legend(frameon=False, fontsize=6, loc="lower left")
