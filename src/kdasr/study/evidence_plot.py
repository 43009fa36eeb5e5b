"""Word error rate against first-word latency: a point per method and seed, and their mean."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdasr.report.plots import WIDTH, Plot
from kdasr.report.style import COLORS, INK, MUTED, PAPER, figure_style
from kdasr.report.wording import number
from kdasr.study.evidence import Evidence, MeanResult
from kdasr.study.trained_run import TEACHER, PartResult

_PALETTE = [color.light for color in COLORS if color.name.startswith("system-")]
_MARKERS = ("D", "v", "P", "X", "*", "<", ">", "p", "h", "d")
_BASELINE_MARKERS = ("s", "o", "^", "D")
LEGEND_ROW = 0.21
"""Inches of one line of the legend."""
PANEL_HEIGHT = 3.3
_LABEL_PLACES = (
    *((9.0, 7.0), (-9.0, 7.0), (9.0, -7.0), (-9.0, -7.0)),
    *((0.0, 12.0), (0.0, -12.0), (14.0, 0.0), (-14.0, 0.0)),
)
"""Offsets of a number from its mean, in points, the preferred ones first."""


@dataclass(frozen=True)
class _Look:
    """How one row is drawn; number and marker tell it apart without its color."""

    number: int
    color: str
    marker: str
    hollow: bool
    """Baselines: outlined in the text's color."""


def evidence_plot(evidence: Evidence) -> Plot | None:
    """A panel per test part, and below it the rows that start from the teacher's weights, at a larger scale.

    None when no row has a latency.
    """
    parts = evidence.reported
    means = [mean for mean in evidence.means if mean.part in parts]
    streamed = [mean for mean in means if mean.first_word_ms is not None]
    if not streamed:
        return None
    looks = _looks([row for row in evidence.rows if any(mean.row == row for mean in streamed)], evidence)
    warm = {mean.row for mean in streamed if mean.init == TEACHER}
    groups = [set(looks)]
    if len(warm) > 1 and len(warm) < len(looks):
        groups.append(warm)
    height = max(0.5 + PANEL_HEIGHT * len(groups), 0.9 + LEGEND_ROW * (len(looks) + 3))
    with figure_style():
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        panels = figure.subplots(len(groups), len(parts), squeeze=False)
        for place, rows in enumerate(groups):
            for axes, part in zip(panels[place], parts, strict=True):
                shown = {row: looks[row] for row in looks if row in rows}
                axes.set(title=part if place == 0 else f"{part}, from the teacher’s weights")
                axes.margins(0.12)
                _topline(axes, [m for m in means if (m.part, m.row) == (part, evidence.topline)])
                _points(axes, [r for r in evidence.results if r.part == part], shown)
                # Rows that have a panel of their own below would only be a heap of numbers here.
                labeled = rows if rows == groups[-1] else rows - warm
                drawn = [m for m in streamed if m.part == part and m.row in rows]
                _lines(axes, drawn, shown, evidence.lines)
                _means(axes, drawn, shown, labeled)
            panels[place][0].set_ylabel("word error rate, %")
        for axes in panels[-1]:
            axes.set_xlabel("mean first-word latency, ms")
        _legend(figure, looks, evidence)
    caption = (
        "Small points: one training seed each; large, numbered: the mean over seeds. Hollow: the baselines. "
        f"Dashed line: {evidence.topline}, the topline, which shows nothing before the end of the utterance. "
        + ("Lines: the same method with more and more steps. " if evidence.lines else "")
        + "Down and left is better."
    )
    alt = "; ".join(
        f"{mean.row} on {mean.part}: WER {number(mean.wer.estimate, 1)} %"
        + (f", first word {number(mean.first_word_ms)} ms" if mean.first_word_ms is not None else "")
        for mean in means
    )
    title = "Word error rate against first-word latency"
    return Plot("wer-latency", title, caption, f"Scatter plot. {alt}.", figure)


def _looks(rows: Sequence[str], evidence: Evidence) -> dict[str, _Look]:
    looks: dict[str, _Look] = {}
    others = 0
    for place, row in enumerate(rows, start=1):
        if row in evidence.baselines:
            marker = _BASELINE_MARKERS[evidence.baselines.index(row) % len(_BASELINE_MARKERS)]
            looks[row] = _Look(place, INK.light, marker, hollow=True)
        else:
            # Their lengths have no common factor but 2, so that 40 rows get 40 combinations.
            color, marker = (
                _PALETTE[(others + others // 40) % len(_PALETTE)],
                _MARKERS[others % len(_MARKERS)],
            )
            looks[row] = _Look(place, color, marker, hollow=False)
            others += 1
    return looks


def _topline(axes: Axes, means: Sequence[MeanResult]) -> None:
    for mean in means:
        axes.axhline(mean.wer.estimate, color=INK.light, linewidth=1.2, linestyle=(0, (6.0, 3.0)))
        axes.annotate(
            f"{mean.row} {number(mean.wer.estimate, 1)} %", (0.99, mean.wer.estimate),
            xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            ha="right", color=INK.light, fontsize=7.5,
        )  # fmt: skip


def _points(axes: Axes, results: Sequence[PartResult], looks: Mapping[str, _Look]) -> None:
    for result in results:
        look = looks.get(result.info.row)
        if look is None or result.first_word_ms is None or result.wer is None:
            continue
        axes.plot(
            [result.first_word_ms], [result.wer], look.marker, color=look.color, markersize=4.2, alpha=0.65,
            markerfacecolor="none" if look.hollow else look.color, markeredgewidth=0.9,
        )  # fmt: skip


def _lines(
    axes: Axes, means: Sequence[MeanResult], looks: Mapping[str, _Look], lines: Mapping[str, str]
) -> None:
    """From a method with few steps to the same one with more."""
    for name in dict.fromkeys(lines.values()):
        along = sorted((m for m in means if lines.get(m.row) == name), key=lambda mean: mean.steps)
        if len(along) > 1:
            axes.plot(
                [mean.first_word_ms or 0.0 for mean in along], [mean.wer.estimate for mean in along],
                color=looks[along[0].row].color, linewidth=1.2, alpha=0.6, zorder=2,
            )  # fmt: skip


def _means(
    axes: Axes, means: Sequence[MeanResult], looks: Mapping[str, _Look], labeled: Collection[str]
) -> None:
    where = [(mean.first_word_ms or 0.0, mean.wer.estimate) for mean in means]
    for mean, (latency, wer) in zip(means, where, strict=True):
        look = looks[mean.row]
        axes.plot(
            [latency], [wer], look.marker, color=look.color, markersize=10.5, zorder=4 if look.hollow else 3,
            markerfacecolor="none" if look.hollow else look.color,
            markeredgecolor=look.color if look.hollow else PAPER.light,
            markeredgewidth=2.0 if look.hollow else 0.9,
        )  # fmt: skip
    axes.autoscale_view()
    chosen = [(mean, point) for mean, point in zip(means, where, strict=True) if mean.row in labeled]
    offsets = _label_offsets(axes, where, [point for _, point in chosen])
    for (mean, point), offset in zip(chosen, offsets, strict=True):
        look = looks[mean.row]
        axes.annotate(
            str(look.number), point, xytext=offset, textcoords="offset points", ha="center", va="center",
            color=look.color, fontweight="bold", fontsize=8.5, zorder=5,
            bbox={"facecolor": PAPER.light, "edgecolor": "none", "pad": 0.2, "alpha": 0.7},
        )  # fmt: skip


def _label_offsets(
    axes: Axes, markers: Sequence[tuple[float, float]], labeled: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """For each label, one after another, the place that is farthest from markers and earlier labels."""
    points_per_pixel = 72 / axes.figure.dpi
    taken = [points_per_pixel * point for point in axes.transData.transform(np.array(markers).reshape(-1, 2))]
    offsets: list[tuple[float, float]] = []
    for point in labeled:
        center = points_per_pixel * axes.transData.transform(point)
        others = [other for other in taken if np.hypot(*(other - center)) > 1e-6]
        # Beyond 12 points any distance will do, so that the preferred place wins.
        room = [
            min((np.hypot(*(center + place - other)) for other in others), default=np.inf)
            for place in _LABEL_PLACES
        ]
        best = int(np.argmax(np.minimum(room, 12.0)))
        offsets.append(_LABEL_PLACES[best])
        taken.append(center + _LABEL_PLACES[best])
    return offsets


def _legend(figure: Figure, looks: Mapping[str, _Look], evidence: Evidence) -> None:
    handles = [
        Line2D(
            [], [], linestyle="none", marker=look.marker, color=look.color, markersize=7,
            markerfacecolor=PAPER.light if look.hollow else look.color,
            markeredgewidth=1.6 if look.hollow else 0.0,
            label=f"{look.number}  {row}" + (" (baseline)" if look.hollow else ""),
        )
        for row, look in looks.items()
    ]  # fmt: skip
    handles.append(
        Line2D([], [], color=INK.light, linestyle=(0, (6.0, 3.0)), label=f"{evidence.topline} (topline)")
    )
    handles.append(
        Line2D([], [], linestyle="none", marker=".", color=MUTED.light, label="small: one seed; large: mean")
    )
    figure.legend(handles=handles, loc="outside right upper", frameon=False, labelcolor=INK.light)
