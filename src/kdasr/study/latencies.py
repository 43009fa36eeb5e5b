"""Every run under every context that it was decoded under: what a longer wait buys, system by system."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kdasr.nn.context import Context
from kdasr.report.plots import WIDTH, Plot
from kdasr.report.style import figure_style, legend_entries, system_styles
from kdasr.report.wording import number
from kdasr.study.driver import chosen_rates, finished_jobs
from kdasr.study.jobs import STAGES, Study, mode_under
from kdasr.study.plan import UNDER_CONTEXTS, Run
from kdasr.study.trained_run import Decoding as HowDecoded
from kdasr.study.trained_run import TrainedRun, part_result, read_run


@dataclass(frozen=True)
class Decoding:
    """One run under one context."""

    run: Run
    line: str
    """The row, or what its rows have in common (`RowConfig.line`)."""
    context: Context
    folder: Path
    parts: list[str]
    how: HowDecoded

    @property
    def wait_ms(self) -> float | None:
        """What is waited for: the chunk and its look-ahead, as far as it grows. None: the whole utterance."""
        geometry = self.run.config.model.geometry
        if self.context.is_full:
            return None
        return round(1000.0 * geometry.frame_seconds * geometry.wait_frames(self.context), 6)

    def read(self) -> TrainedRun:
        """The run with what was decoded.

        Raises:
            UserError: a file is not as `kdasr decode` writes it, or not of this study: see `check_decoded`.
        """
        mode = mode_under(self.context)
        return read_run(self.run.info(), self.folder / mode, mode, self.parts, self.context, self.how)


@dataclass(frozen=True)
class LatencyPoint:
    """One run on one part under one context."""

    line: str
    """The row, or what its rows have in common (`RowConfig.line`)."""
    seed: int
    part: str
    context: Context
    context_ms: float | None
    """What is waited for: the chunk and its look-ahead. None: the whole utterance."""
    wer: float | None
    """Percent."""
    first_word_ms: float | None
    """Mean latency of the first word where it is right; None where it comes at the end."""

    def as_json(self) -> dict[str, Any]:
        """The entry of `summary.json`."""
        return {
            "row": self.line,
            "seed": self.seed,
            "part": self.part,
            "context_ms": self.context_ms,
            "wer": self.wer,
            "first_word_ms": self.first_word_ms,
        }


def latency_points(study: Study, upto: str) -> list[LatencyPoint]:
    """Every finished decoding of every run, in the order of rows, seeds, parts and waits.

    Raises:
        UserError: a file is not as `kdasr decode` writes it, or not of this study: see `check_decoded`.
    """
    points = [point for decoding in finished_decodings(study, upto) for point in _points(decoding)]
    lines = list(dict.fromkeys(point.line for point in points))
    parts = [part for kind in STAGES for part in study.recipe.parts(kind)]

    def place(point: LatencyPoint) -> tuple[int, int, int, float]:
        wait = float("inf") if point.context_ms is None else point.context_ms
        return lines.index(point.line), point.seed, parts.index(point.part), wait

    return sorted(points, key=place)


def finished_decodings(study: Study, upto: str) -> list[Decoding]:
    """Of every run, its own context first, then the further ones, in the order of rows and seeds."""
    runs = study.planner.runs(list(study.recipe.results.rows), chosen_rates(study))
    done = finished_jobs(study, study.jobs(runs, upto))
    return [decoding for run in runs for decoding in _decodings(study, run, done, upto)]


def _decodings(study: Study, run: Run, done: set[str], upto: str) -> Iterator[Decoding]:
    row = study.recipe.results.rows[run.row]
    own = (run.config.contexts[0], run.decoded(), "")
    others = [(context, run.decoded_under(context), UNDER_CONTEXTS) for context in run.other_contexts]
    for context, folder, suffix in (own, *others):
        kinds = [
            kind
            for kind in (STAGES if upto == "test" else STAGES[:1])
            if run.job_name(f"{kind}{suffix}") in done
        ]
        parts = [part for kind in kinds for part in study.recipe.parts(kind)]
        if parts:
            how = study.recipe.decodings()[""]
            yield Decoding(run, row.line or run.row, context, folder, parts, how)


def _points(decoding: Decoding) -> Iterator[LatencyPoint]:
    trained, context = decoding.read(), decoding.context
    for part in decoding.parts:
        found = part_result(trained, part)
        first = None if context.is_full else found.first_word_ms
        yield LatencyPoint(
            decoding.line, decoding.run.seed, part, context, decoding.wait_ms, found.wer, first
        )


def latency_plot(points: Sequence[LatencyPoint], reported: Sequence[str]) -> Plot | None:
    """Word error rate against first-word latency, a line per system, means over seeds; a panel per part.

    Only parts that are `reported` are shown.

    The full context, which shows nothing before the end, stands at the right edge. None when no run has a
    latency.
    """
    parts = list(dict.fromkeys(point.part for point in points if point.part in reported))
    means = [_Mean.of(group) for group in _groups(points) if group[0].part in parts]
    latest = max((mean.first_word_ms for mean in means if mean.first_word_ms is not None), default=None)
    if latest is None:
        return None
    lines = list(dict.fromkeys(mean.line for mean in means))
    styles = system_styles(lines)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.8 + 0.1 * len(lines)), layout="constrained")
        panels = figure.subplots(1, len(parts), squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            for line in lines:
                style, own = styles[line], [m for m in means if (m.line, m.part) == (line, part)]
                streamed = sorted((m.first_word_ms, m.wer) for m in own if m.first_word_ms is not None)
                whole = [m.wer for m in own if m.context_ms is None]
                look = {"color": style.color.light, "marker": style.marker, "linewidth": 1.2}
                if streamed:
                    axes.plot(*zip(*streamed, strict=True), linestyle=style.line, label=line, **look)
                edge = {"linestyle": "none", **look} | ({} if streamed else {"label": line})
                axes.plot([1.12 * latest] * len(whole), whole, **edge)
            axes.set(title=part, xlabel="mean first-word latency, ms (right edge: full context)")
        panels[0].set_ylabel("word error rate, %")
        handles, labels = legend_entries(panels)
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    alt = "; ".join(map(str, means))
    caption = "Means over seeds. Each point of a line is a context; down and left is better."
    title = "Word error rate against first-word latency, a line per system"
    return Plot("wer-latency-lines", title, caption, f"Line plot. {alt}.", figure)


@dataclass(frozen=True)
class _Mean:
    """The mean of a line's runs on one part under one context."""

    line: str
    part: str
    context_ms: float | None
    wer: float
    first_word_ms: float | None

    @classmethod
    def of(cls, points: Sequence[LatencyPoint]) -> "_Mean":
        first = [point.first_word_ms for point in points if point.first_word_ms is not None]
        wer = float(np.mean([point.wer for point in points if point.wer is not None]))
        one = points[0]
        return cls(one.line, one.part, one.context_ms, wer, float(np.mean(first)) if first else None)

    def __str__(self) -> str:
        wait = "full" if self.context_ms is None else f"{number(self.context_ms)} ms"
        text = f"{self.line} on {self.part}, {wait}: WER {number(self.wer, 1)} %"
        return text if self.first_word_ms is None else f"{text}, first word {number(self.first_word_ms)} ms"


def _groups(points: Sequence[LatencyPoint]) -> list[list[LatencyPoint]]:
    """Points that differ in nothing but the run, of those with an error rate.

    By context: a chunk is waited for as long as one of half its size with as much look-ahead.
    """
    groups: dict[tuple[str, str, Context], list[LatencyPoint]] = {}
    for point in points:
        if point.wer is not None:
            groups.setdefault((point.line, point.part, point.context), []).append(point)
    return list(groups.values())
