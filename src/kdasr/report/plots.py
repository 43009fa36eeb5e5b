"""Plots of the results, one function per plot. Each returns a figure and the sentence that describes it.

Figures are sized in inches at 72 units, `WIDTH` being the width of the page's text column.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.evaluation.statistics import Interval
from kdasr.report.records import SystemRecord
from kdasr.report.results import ResultRow, part_names
from kdasr.report.style import INK, MUTED, PAPER, Styles, SystemStyle, figure_style, value_axis
from kdasr.report.wording import number, rate_name, resampled_units

WIDTH = 10.0

HISTOGRAM_BIN_MS = 40.0
"""One encoder frame: the finest step by which a token can move."""


@dataclass(frozen=True)
class Plot:
    """A figure with what a reader without eyes on it has to know."""

    name: str
    """File name without ending, and prefix of ids."""
    title: str
    caption: str
    alt: str
    figure: Figure


def wer_plot(rows: Sequence[ResultRow], styles: Styles) -> Plot:
    """Word error rate by system, a panel per part, with bootstrap intervals."""
    parts = part_names(rows)
    names = list(dict.fromkeys(row.system for row in rows))
    rate = rate_name(row.measure for row in rows)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.75 + 0.36 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        limit = highest_rate(rows)
        for axes, part in zip(panels, parts, strict=True):
            for row in (row for row in rows if row.part == part):
                _wer_bar(axes, row, names.index(row.system), styles[row.system], limit)
            axes.set(title=part, xlabel=f"{rate}, %", xlim=(0, limit * 1.16))
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.spines["left"].set_visible(False)
            value_axis(axes)
        _color_labels(panels[0], names, styles)
    alt = "; ".join(
        f"{row.system} on {row.part}: {number(row.error_rate.estimate, 1)} % "
        f"({number(row.error_rate.low, 1)} to {number(row.error_rate.high, 1)})"
        for row in rows
    )
    units = resampled_units(row.error_rate for row in rows)
    caption = f"Bars: {rate}. Lines: 95 % bootstrap interval over {units}. Lower is better."
    return Plot("wer", rate.capitalize(), caption, f"Bar chart, {rate}. {alt}.", figure)


def highest_rate(rows: Sequence[ResultRow]) -> float:
    """The end of an axis of error rates, percent: what the highest interval reaches, or an error rate that
    has none (see `bootstrap_interval`); 1 where there is nothing above 0.
    """
    return max((end for row in rows if math.isfinite(end := _end(row.error_rate))), default=0.0) or 1.0


def _end(rate: Interval) -> float:
    return rate.high if math.isfinite(rate.high) else rate.estimate


def _wer_bar(axes: Axes, row: ResultRow, place: int, style: SystemStyle, limit: float) -> None:
    wer, color = row.error_rate, style.color.light
    axes.barh(place, wer.estimate, height=0.56, color=color, alpha=0.3, linewidth=0)
    axes.plot([wer.low, wer.high], [place, place], color=color, linewidth=2.2, solid_capstyle="butt")
    axes.plot([wer.estimate], [place], marker="|", markersize=13, markeredgewidth=2.2, color=color)
    text = number(wer.estimate, 1)
    axes.text(_end(wer) + 0.015 * limit, place, text, va="center", color=INK.light)


def _color_labels(axes: Axes, names: Sequence[str], styles: Styles) -> None:
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set(color=styles[name].color.light, fontweight="bold")


def latency_plot(systems: Sequence[SystemRecord], rows: Sequence[ResultRow], styles: Styles) -> Plot | None:
    """Distribution of algorithmic first-word latency per system; None when no first word was right."""
    values = {
        (system.name, part.part): np.array(
            [u.first_word_ms for u in part.utterances.values() if u.first_word_ms is not None], dtype=float
        )
        for system in systems
        for part in system.parts.values()
    }
    values = {key: latencies for key, latencies in values.items() if len(latencies)}
    if not values:
        return None
    names = [system.name for system in systems if any(name == system.name for name, _ in values)]
    parts = part_names(rows)
    low, high = _latency_limits(rows, values)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.66 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            for place, name in enumerate(names):
                if (name, part) in values:
                    _ridge(axes, values[name, part], place, styles[name], (low, high))
            axes.set(title=part, xlabel="first-word latency, ms", xlim=(low, high))
            axes.set_yticks([place + 0.8 for place in range(len(names))], names)
            axes.set_ylim(len(names) - 0.1, -0.15)
            axes.spines["left"].set_visible(False)
            value_axis(axes)
        _color_labels(panels[0], names, styles)
    alt = "; ".join(
        f"{name} on {part}: median {number(float(np.median(v)))} ms, "
        f"90th percentile {number(float(np.percentile(v, 90)))} ms"
        for (name, part), v in values.items()
    )
    caption = (
        "Algorithmic latency of the first word, on the utterances where it was right: a histogram per system "
        "in steps of 40 ms. "
        "Full tick: median; dotted tick: 90th percentile. Further left is better. The "
        "outermost bars hold what lies beyond the axis; a whole distribution beyond it is given in words."
    )
    return Plot("first-word", "First-word latency", caption, f"Histograms of latency. {alt}.", figure)


def _latency_limits(
    rows: Sequence[ResultRow], values: dict[tuple[str, str], np.ndarray]
) -> tuple[float, float]:
    """Range of the systems that show text while one speaks; the others would squeeze them into a corner."""
    waiting = {row.system for row in rows if row.waits_for_end}
    shown = [v for (name, _), v in values.items() if name not in waiting] or list(values.values())
    low = min(0.0, *(float(np.percentile(v, 1)) for v in shown))
    high = max(400.0, *(float(np.percentile(v, 98)) + HISTOGRAM_BIN_MS for v in shown))
    step = HISTOGRAM_BIN_MS
    return step * math.floor(low / step), step * math.ceil(high / step)


def _ridge(
    axes: Axes, latencies: np.ndarray, place: int, style: SystemStyle, limits: tuple[float, float]
) -> None:
    """One histogram on a base line, with its quantiles; in words when it lies beyond the limits."""
    low, high = limits
    base, color = place + 0.8, style.color.light
    median, p90 = (float(value) for value in np.percentile(latencies, [50, 90]))
    axes.plot([low, high], [base, base], color=color, linewidth=0.7, alpha=0.6)
    if median > high:
        seconds = f"median {number(median / 1000, 1)} s, 90 % under {number(p90 / 1000, 1)} s"
        axes.text(high, base - 0.1, f"beyond this axis: {seconds} →", ha="right", va="bottom", color=color)
        return
    edges = np.arange(low, high + HISTOGRAM_BIN_MS, HISTOGRAM_BIN_MS)
    counts, _ = np.histogram(np.clip(latencies, low, high - 1e-6), edges)
    heights = 0.5 * counts / max(counts.max(), 1)
    axes.stairs(base - heights, edges, baseline=base, fill=True, color=color, alpha=0.3, linewidth=0)
    axes.stairs(base - heights, edges, baseline=base, color=color, linewidth=0.9)
    for value, line in ((median, "-"), (p90, (0, (1.0, 1.0)))):
        if value <= high:
            axes.plot([value, value], [base, base - 0.56], color=color, linewidth=1.6, linestyle=line)
    nudge = 0.006 * (high - low)
    axes.text(median + nudge, base - 0.58, number(median), ha="right", va="bottom", fontsize=7.5)
    if p90 <= high - 10 * nudge:
        axes.text(
            p90 - nudge, base - 0.58, number(p90), ha="left", va="bottom", fontsize=7.5, color=MUTED.light
        )


def trade_off_plot(rows: Sequence[ResultRow], styles: Styles) -> Plot | None:
    """Mean emission delay against word error rate: a point per system and part; None without delays."""
    measured = [row for row in rows if row.emission_delay_ms["mean"] is not None]
    if not measured:
        return None
    parts = part_names(measured)
    rate = rate_name(row.measure for row in measured)
    points = [row for row in measured if not row.waits_for_end] or measured
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        label = 14 + 6.2 * max(len(row.system) for row in points)
        panels[0].set_xlim(*_padded([_delay(row) for row in points], label * len(parts) / (72 * WIDTH - 60)))
        panels[0].set_ylim(0, 1.06 * highest_rate(measured))
        for axes, part in zip(panels, parts, strict=True):
            axes.set_title(part)
            axes.set_xlabel("mean emission delay, ms")
            _bound_lines(axes, [row for row in measured if row.part == part and row not in points], styles)
            _trade_off_points(axes, [row for row in points if row.part == part], styles)
        panels[0].set_ylabel(f"{rate}, %")
    alt = "; ".join(
        f"{row.system} on {row.part}: delay {number(_delay(row))} ms, {row.measure.upper()} "
        f"{number(row.error_rate.estimate, 1)} %"
        for row in measured
    )
    caption = (
        "Each point is a system: how long after a word’s end it is shown, against its error rate "
        "(vertical lines: 95 % intervals). Down and left is better. A system that waits for the end of the "
        "utterance is a line at its error rate."
    )
    return Plot("trade-off", f"Emission delay against {rate}", caption, f"Scatter plot. {alt}.", figure)


def _delay(row: ResultRow) -> float:
    mean = row.emission_delay_ms["mean"]
    assert mean is not None
    return float(mean)


def _padded(values: Sequence[float], share: float) -> tuple[float, float]:
    """Limits that leave `share` of the axis free on both sides, for labels."""
    share = min(share, 0.4)
    pad = max(max(values) - min(values), 40.0) * share / (1 - 2 * share)
    return min(values) - pad, max(values) + pad


def _bound_lines(axes: Axes, rows: Sequence[ResultRow], styles: Styles) -> None:
    """Lines for the systems whose delay is beyond any useful axis, named above the panel."""
    for row in rows:
        style = styles[row.system]
        axes.axhline(row.error_rate.estimate, color=style.color.light, linestyle=style.line, linewidth=1.3)
    if rows:
        names = ", ".join(f"{row.system} ({number(_delay(row) / 1000, 1)} s late)" for row in rows)
        axes.set_title(f"line: {names}", loc="right", fontsize=8, fontweight="normal", color=MUTED.light)


def _trade_off_points(axes: Axes, rows: Sequence[ResultRow], styles: Styles) -> None:
    """Points with their names beside them, on the outer side, moved apart where they would overlap."""
    center = float(np.mean(axes.get_xlim()))
    bottom, top = axes.get_ylim()
    points_per_percent = 185.0 / (top - bottom)
    last: dict[bool, float] = {}
    for row in sorted(rows, key=lambda row: row.error_rate.estimate):
        color, delay, wer = styles[row.system].color.light, _delay(row), row.error_rate
        axes.plot([delay, delay], [wer.low, wer.high], color=color, linewidth=1.4, alpha=0.7)
        axes.plot(
            [delay], [wer.estimate], styles[row.system].marker, color=color, markersize=8,
            markeredgecolor=PAPER.light, markeredgewidth=1,
        )  # fmt: skip
        right = delay >= center
        natural = wer.estimate * points_per_percent
        height = max(natural, last.get(right, -1e9) + 12.0)
        last[right] = height
        axes.annotate(
            row.system, (delay, wer.estimate), xytext=(8 if right else -8, height - natural),
            textcoords="offset points", ha="left" if right else "right", va="center", color=color,
            fontweight="bold",
            bbox={"facecolor": PAPER.light, "edgecolor": "none", "pad": 0.5, "alpha": 0.85},
        )  # fmt: skip
