"""Training curves: dev WER, dev CER and every term of the objective, a panel each, with the stages marked."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdasr.distillation.terms import known_terms
from kdasr.report.metrics_log import MetricsRow
from kdasr.report.plots import WIDTH, Plot
from kdasr.report.records import SystemRecord
from kdasr.report.style import Styles, SystemStyle, figure_style
from kdasr.report.wording import number

MAX_POINTS = 300
"""Points of one curve; longer logs are averaged in blocks."""

MAX_PANELS = 12

MEASURE_TITLES = {
    "wer": "dev WER, %",
    "cer": "dev CER, %",
    "total": "weighted total",
}


def training_plot(systems: Sequence[SystemRecord], styles: Styles) -> Plot | None:
    """Small multiples over optimizer steps; None when no system has a log."""
    logged = [system for system in systems if system.metrics]
    measures = _measures(logged)
    if not measures:
        return None
    titles = MEASURE_TITLES | {name: term.title for name, term in known_terms().items()}
    columns = min(3, len(measures))
    lines = math.ceil(len(measures) / columns)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.5 + 2.1 * lines), layout=ConstrainedLayoutEngine(hspace=0.06))
        panels = figure.subplots(lines, columns, squeeze=False, sharex=True).ravel()
        for axes, measure in zip(panels, measures, strict=False):
            for system in logged:
                _curve(axes, system, measure, styles[system.name])
            _limits(axes, logged, measure)
            axes.set_title(titles.get(measure, measure))
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            axes.tick_params(labelbottom=True)
        for axes in panels[len(measures) :]:
            axes.set_visible(False)
        for axes in panels[max(0, len(measures) - columns) : len(measures)]:
            axes.set_xlabel("optimizer step")
        figure.legend(
            handles=[_handle(system.name, styles[system.name]) for system in logged],
            loc="outside upper left",
            ncols=len(logged),
            frameon=False,
            labelcolor="linecolor",
        )
    caption = (
        "Lines with dots: the dev part; thin lines: training batches (averaged). "
        "Dotted vertical lines mark where a stage ends and the next one, named there, begins. "
        "During its warm-up the transducer loss changes its composition, and with it its scale."
    )
    return Plot("training", "Training", caption, _alt(logged), figure)


def _handle(name: str, style: SystemStyle) -> Line2D:
    return Line2D([], [], color=style.color.light, linestyle=style.line, label=name)


def _measures(systems: Sequence[SystemRecord]) -> list[str]:
    """Dev WER and CER, the known terms, then whatever else was logged."""
    seen = {name for system in systems for row in system.metrics for name in row.values}
    known = [name for name in ("wer", "cer", *known_terms(), "total") if name in seen]
    return (known + sorted(seen - set(known)))[:MAX_PANELS]


def _curve(axes: Axes, system: SystemRecord, measure: str, style: SystemStyle) -> None:
    color = style.color.light
    train = _points(system.metrics, "train", measure)
    valid = _points(system.metrics, "valid", measure)
    if len(train):
        axes.plot(*_thin(train).T, color=color, linewidth=0.8, alpha=0.55)
    if len(valid):
        axes.plot(*valid.T, color=color, linestyle=style.line, marker="o", markersize=2.4, linewidth=1.5)
    if len(train) or len(valid):
        _mark_stages(axes, system, color)


def _points(metrics: Sequence[MetricsRow], split: str, measure: str) -> np.ndarray:
    """(points, 2): step and value, finite ones only."""
    rows = [
        (row.step, row.values[measure]) for row in metrics if row.split == split and measure in row.values
    ]
    points = np.array(rows, dtype=float).reshape(-1, 2)
    return points[np.isfinite(points[:, 1])]


def _thin(points: np.ndarray) -> np.ndarray:
    block = math.ceil(len(points) / MAX_POINTS)
    if block <= 1:
        return points
    return np.array([points[i : i + block].mean(axis=0) for i in range(0, len(points), block)])


def _mark_stages(axes: Axes, system: SystemRecord, color: str) -> None:
    previous = None
    for row in system.metrics:
        if row.split != "train":
            continue
        if previous is not None and row.stage != previous.stage:
            where = row.stage_start
            axes.axvline(where, ymax=0.9, color=color, linewidth=0.9, linestyle=(0, (2.0, 2.0)))
            axes.text(
                where,
                0.98,
                f"{row.stage} ",
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
                fontsize=7,
                color=color,
            )
        previous = row


def _limits(axes: Axes, systems: Sequence[SystemRecord], measure: str) -> None:
    """From zero up to what the curves reach after their first tenth, since the start is always high; of error
    rates over 100 % no more than every curve's end.
    """
    curves = [_points(system.metrics, split, measure) for system in systems for split in ("train", "valid")]
    late = [curve[len(curve) // 10 :, 1] for curve in curves if len(curve)]
    values = np.concatenate(late) if late else np.zeros(0)
    if not len(values) or values.min() < 0 or values.max() <= 0:
        return
    top = values.max()
    if measure in ("wer", "cer"):
        top = max(min(top, 100.0), *(curve[-1] for curve in late))
    axes.set_ylim(0, 1.18 * top)


def _alt(systems: Sequence[SystemRecord]) -> str:
    ends = []
    for system in systems:
        points = _points(system.metrics, "valid", "wer")
        if len(points):
            ends.append(
                f"{system.name} ends at {number(points[-1, 1], 1)} % dev WER after "
                f"{number(int(points[-1, 0]))} steps (best {number(points[:, 1].min(), 1)} %)"
            )
    return "Curves of dev WER and of every loss term over optimizer steps. " + "; ".join(ends) + "."
