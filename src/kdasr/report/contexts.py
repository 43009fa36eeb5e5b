"""One system under several contexts: how much waiting buys how many words."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.common.files import write_json
from kdasr.report.plots import WIDTH, Plot, highest_rate
from kdasr.report.records import SystemRecord
from kdasr.report.results import ResultRow, part_names, result_rows
from kdasr.report.style import INK, Styles, SystemStyle, figure_style, legend_entries
from kdasr.report.wording import number, rate_name


@dataclass(frozen=True)
class ContextLine:
    """One context of one system; a row per part, None where it was not decoded."""

    system: str
    left_ms: float
    chunk_ms: float
    """Infinite under the full context."""
    right_ms: float
    rows: list[ResultRow | None]

    @property
    def is_full(self) -> bool:
        """Whether the whole utterance is waited for."""
        return math.isinf(self.chunk_ms)


@dataclass(frozen=True)
class ContextTable:
    """Lines by system and waiting time."""

    parts: list[str]
    lines: list[ContextLine]


def context_rows(systems: Sequence[SystemRecord]) -> list[ResultRow]:
    """A row per system, context and part, of those that were decoded under more than their own context."""
    return [
        row
        for system in systems
        for parts in system.contexts
        for row in result_rows([replace(system, parts=parts)])
        if row.context  # an older version did not name it
    ]


def write_contexts_json(rows: Sequence[ResultRow], path: Path) -> None:
    """Write one object per system, context and part."""
    write_json(path, [row.as_json() for row in rows])


def waiting_ms(row: ResultRow) -> tuple[float, float]:
    """Chunk of a row under `left=32 chunk=8 right=0`, and all that is waited for after it, in ms.

    The chunk is infinite under `full`. What is waited for is the right context, and more where that grows
    with the layers.
    """
    if row.waits_for_end:
        return math.inf, 0.0
    chunk, right = _part_ms(row, "chunk"), _part_ms(row, "right")
    return chunk, right if row.wait_frames is None else row.frame_ms * row.wait_frames - chunk


def _part_ms(row: ResultRow, name: str) -> float:
    frames = dict(re.findall(r"(\w+)=(\d+)", row.context))
    return row.frame_ms * int(frames.get(name, 0))


def context_table(rows: Sequence[ResultRow]) -> ContextTable | None:
    """The page's table; None when no system has several contexts."""
    if not rows:
        return None
    parts = part_names(rows)
    keys = {(row.system, row.context): (_part_ms(row, "left"), *waiting_ms(row)) for row in rows}
    found = {(row.system, row.context, row.part): row for row in rows}
    lines = [
        ContextLine(system, *sizes, [found.get((system, context, part)) for part in parts])
        for (system, context), sizes in keys.items()
    ]

    def place(line: ContextLine) -> tuple[str, float, float]:
        return line.system, line.chunk_ms + line.right_ms, line.left_ms

    return ContextTable(parts, sorted(lines, key=place))


def contexts_plot(rows: Sequence[ResultRow], styles: Styles) -> Plot | None:
    """Word error rate against first-word latency, a line per system, a point per context."""
    measured = [row for row in rows if row.first_word_ms["mean"] is not None]
    if not measured:
        return None
    parts, names = part_names(measured), list(dict.fromkeys(row.system for row in measured))
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.4), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            for name in names:
                points = [row for row in measured if (row.part, row.system) == (part, name)]
                _line(axes, sorted(points, key=lambda row: sum(waiting_ms(row))), styles[name])
            axes.set(title=part, xlabel="mean first-word latency, ms")
        panels[0].set_ylabel(f"{rate_name(row.measure for row in measured)}, %")
        panels[0].set_ylim(0, 1.08 * highest_rate(measured))
        panels[0].margins(x=0.08)
        if len(names) > 1:
            figure.legend(*legend_entries(panels), loc="outside upper left", ncols=len(names), frameon=False)
    alt = "; ".join(
        f"{row.system} on {row.part}, {row.context}: {row.measure.upper()} "
        f"{number(row.error_rate.estimate, 1)} %, first word {number(row.first_word_ms['mean'])} ms"
        for row in measured
    )
    caption = (
        "The same weights under several chunk sizes, which the points name, and after a + the look-ahead "
        "(vertical lines: 95 % intervals). "
        "Down and left is better: what a longer wait buys."
    )
    return Plot("contexts", "Chunk size against words and latency", caption, f"Line plot. {alt}.", figure)


def _line(axes: Axes, points: Sequence[ResultRow], style: SystemStyle) -> None:
    latencies = [float(row.first_word_ms["mean"] or 0.0) for row in points]
    color = style.color.light
    axes.plot(
        latencies,
        [row.error_rate.estimate for row in points],
        color=color,
        marker=style.marker,
        linewidth=1.2,
        label=points[0].system if points else None,
    )
    for latency, row in zip(latencies, points, strict=True):
        axes.plot(
            [latency, latency],
            [row.error_rate.low, row.error_rate.high],
            color=color,
            linewidth=1.4,
            alpha=0.6,
        )
        axes.annotate(
            _wait(row),
            (latency, row.error_rate.estimate),
            xytext=(6, 6),
            textcoords="offset points",
            color=INK.light,
            fontsize=7.5,
        )


def _wait(row: ResultRow) -> str:
    """What is waited for."""
    if row.waits_for_end:
        return "full"
    return f"{' + '.join(number(part) for part in waiting_ms(row) if part)} ms"
