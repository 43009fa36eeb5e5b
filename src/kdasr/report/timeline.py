"""One utterance on one time axis: spectrogram, reference words, and what each system showed when."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.common.feature_frames import FRAME_SHIFT_SECONDS
from kdasr.report.examples import Example
from kdasr.report.plots import WIDTH, Plot
from kdasr.report.records import DecodedUtterance, SystemRecord
from kdasr.report.style import ERROR, INK, MUTED, PAPER, RULE, Styles, SystemStyle, figure_style
from kdasr.report.wording import number, readable

# Shapes: T feature frames (10 ms), F mel bins. Sizes on paper are in points.

FONT_SIZE = 7.6
CHAR_WIDTH = 0.602 * FONT_SIZE
"""Of the monospaced font, so that text can be laid out by counting."""
ROW_HEIGHT = 11.5
LANE_GAP = 9.0
SPECTROGRAM_HEIGHT = 84.0
LONG_LABEL = 14
"""Characters; longer texts stand to the left of their time, where there is room."""
MAX_SYSTEMS = 5
"""More make the figure too high."""


@dataclass
class Label:
    """Text that appeared at one time, in runs of right or wrong words."""

    time: float
    """Seconds."""
    runs: list[tuple[str, bool]]
    """Text and whether it belongs to an error."""
    row: int = 0
    left: float = 0.0
    """Where it starts, points from the axis' origin."""

    @property
    def width(self) -> float:
        """Points."""
        return CHAR_WIDTH * sum(len(text) for text, _ in self.runs)


@dataclass
class TimelineLane:
    """One line of the figure: a system, or the reference."""

    name: str
    detail: str
    color: str
    labels: list[Label]
    marks: list[float] = field(default_factory=list)
    """Encoder frames of emission, in seconds."""
    spans: list[tuple[float, float]] = field(default_factory=list)
    """Extents of reference words, in seconds."""

    @property
    def height(self) -> float:
        """Points."""
        rows = 1 + max((label.row for label in self.labels), default=0)
        return rows * ROW_HEIGHT + 4.0


def timeline_plot(
    name: str,
    example: Example,
    systems: Sequence[SystemRecord],
    styles: Styles,
    features_TF: np.ndarray | None,
) -> Plot:
    """Draw one example, as plot `name`; without features there is no spectrogram."""
    decoded = {
        system.name: system.parts[example.part].utterances[example.id]
        for system in systems
        if example.part in system.parts and example.id in system.parts[example.part].utterances
    }
    utterance = next(iter(decoded.values()))
    reference = readable(utterance.ref)(utterance.ref)
    lanes = [_reference_lane(utterance)]
    lanes += [_system_lane(system, found, styles[system]) for system, found in decoded.items()]
    margin = 20 + max(max(6.2 * len(lane.name), 4.1 * len(lane.detail)) for lane in lanes)
    width = 72 * WIDTH - margin - 6
    end = _time_range(utterance, lanes, width)
    for lane in lanes:
        _place(lane, width, end)
    with figure_style():
        figure = _draw(lanes, features_TF, (margin, width, end, utterance.duration))
    return Plot(
        name=name,
        title=f"{example.part}, {example.id}",
        caption=f"{example.reason[:1].upper()}{example.reason[1:]}. Reference: “{reference}”.",
        alt=_alt(utterance, decoded),
        figure=figure,
    )


def _reference_lane(utterance: DecodedUtterance) -> TimelineLane:
    words, shown = utterance.ref_words, readable(utterance.ref)
    if not words:
        labels = [Label(0.0, [(f"{shown(utterance.ref)} (no word alignment)", False)])]
        return TimelineLane("reference", "", INK.light, labels)
    labels = [Label(word.start, [(shown(word.word), False)]) for word in words]
    return TimelineLane("reference", "", INK.light, labels, spans=[(word.start, word.end) for word in words])


def _system_lane(name: str, utterance: DecodedUtterance, style: SystemStyle) -> TimelineLane:
    latency = utterance.first_word_ms
    detail = f"{utterance.num_errors} error{'' if utterance.num_errors == 1 else 's'}"
    if latency is not None:
        detail += f", {number(latency)} ms"
    marks = [token.emitted for token in utterance.tokens]
    return TimelineLane(name, detail, style.color.light, token_labels(utterance), marks=marks)


def token_labels(utterance: DecodedUtterance) -> list[Label]:
    """Pieces that were shown at the same time, joined; text that goes on with a word starts with a hyphen."""
    starts = sum(token.piece.startswith("▁") for token in utterance.tokens)
    known = starts == len(utterance.words)
    labels: list[Label] = []
    shown = readable(utterance.ref)
    word = -1
    for token in utterance.tokens:
        begins = token.piece.startswith("▁")
        word += begins
        wrong = known and word >= 0 and utterance.words[word].ref_index is None
        new = not labels or labels[-1].time != token.shown
        if new:
            labels.append(Label(token.shown, []))
        text = shown(token.piece.removeprefix("▁"))
        if begins and not new:
            text = " " + text
        elif not begins and new and word >= 0:
            text = "-" + text
        runs = labels[-1].runs
        if runs and runs[-1][1] == wrong:
            runs[-1] = (runs[-1][0] + text, wrong)
        else:
            runs.append((text, wrong))
    return labels


def _time_range(utterance: DecodedUtterance, lanes: Sequence[TimelineLane], width: float) -> float:
    """Seconds on the axis: the audio, and room for the labels that stand to the right of their time."""
    end = max(utterance.duration, *(label.time for lane in lanes for label in lane.labels))
    for lane in lanes:
        for label in lane.labels:
            if label.width <= LONG_LABEL * CHAR_WIDTH:
                end = max(end, label.time * width / (width - label.width - 6))
    return end * 1.005


def _place(lane: TimelineLane, width: float, end: float) -> None:
    """Put every label right of its time, or left of it where it does not fit, in the first free row."""
    placed: list[Label] = []
    taken: list[list[tuple[float, float]]] = []
    for label in lane.labels:
        time = label.time * width / end
        for part in _fit(label, time, width):
            span = (part.left - 3, part.left + part.width + 3)
            free = (row for row, spans in enumerate(taken) if all(_apart(span, other) for other in spans))
            part.row = next(free, len(taken))
            if part.row == len(taken):
                taken.append([])
            taken[part.row].append(span)
            placed.append(part)
    lane.labels = placed


def _apart(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[1] <= b[0] or b[1] <= a[0]


def _fit(label: Label, time: float, width: float) -> list[Label]:
    """The label where it stands, broken into lines when it is wider than the room it has."""
    if time + 3 + label.width <= width:
        label.left = time + 3
        return [label]
    room = max(time - 3, 0.35 * width)
    lines = _wrap(label, int(room / CHAR_WIDTH))
    for line in lines:
        line.left = max(time - 3 - line.width, 0.0)
    return lines


def _wrap(label: Label, chars: int) -> list[Label]:
    """Break at spaces, keeping track of which characters are wrong."""
    text = "".join(run for run, _ in label.runs)
    wrong = [flag for run, flag in label.runs for _ in run]
    lines, position = [], 0
    for line in textwrap.wrap(text, chars, break_long_words=True):
        position = text.index(line, position)
        runs: list[tuple[str, bool]] = []
        for char, flag in zip(line, wrong[position : position + len(line)], strict=True):
            if runs and runs[-1][1] == flag:
                runs[-1] = (runs[-1][0] + char, flag)
            else:
                runs.append((char, flag))
        lines.append(Label(label.time, runs))
        position += len(line)
    return lines


def _draw(
    lanes: Sequence[TimelineLane], features_TF: np.ndarray | None, frame: tuple[float, float, float, float]
) -> Figure:
    margin, width, end, duration = frame
    lanes_height = sum(lane.height + LANE_GAP for lane in lanes) + 4
    top = SPECTROGRAM_HEIGHT + 6 if features_TF is not None else 0.0
    total = lanes_height + top + 34
    figure = Figure(figsize=(WIDTH, total / 72))
    box = (margin / (72 * WIDTH), 28 / total, width / (72 * WIDTH), lanes_height / total)
    axes = figure.add_axes(box)
    axes.set(xlim=(0, end), ylim=(lanes_height, 0), xlabel="time, s", yticks=[])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    axes.axvline(duration, color=MUTED.light, linewidth=0.8, linestyle=(0, (1.0, 2.0)))
    y = 6.0
    for lane in lanes:
        _draw_lane(axes, lane, y, end / width)
        y += lane.height + LANE_GAP
        axes.axhline(y - LANE_GAP / 2, color=RULE.light, linewidth=0.5)
    if features_TF is not None:
        above = figure.add_axes((box[0], box[1] + box[3] + 6 / total, box[2], SPECTROGRAM_HEIGHT / total))
        _draw_spectrogram(above, features_TF, lanes[0].spans, end)
    return figure


def _draw_spectrogram(
    axes: Axes, features_TF: np.ndarray, spans: Sequence[tuple[float, float]], end: float
) -> None:
    low, high = np.percentile(features_TF, [20, 99.7])
    frames, bins = features_TF.shape
    axes.imshow(
        features_TF.T,
        origin="lower",
        aspect="auto",
        extent=(0, frames * FRAME_SHIFT_SECONDS, 0, bins),
        cmap="gray_r",
        vmin=low,
        vmax=max(high, low + 1e-3),
        interpolation="none",
    )
    for start, stop in spans:
        axes.axvline(start, color=MUTED.light, linewidth=0.5, alpha=0.7)
        axes.axvline(stop, color=MUTED.light, linewidth=0.5, alpha=0.7)
    axes.set(xlim=(0, end), ylim=(0, bins), xticks=[], yticks=[0, bins // 2, bins])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_ylabel("mel bin")


def _draw_lane(axes: Axes, lane: TimelineLane, y: float, seconds_per_point: float) -> None:
    """Text on its rows, ticks where it was shown, and below it the emission frames or the words' extents."""
    bottom = y + lane.height
    left = -8 * seconds_per_point
    middle = y + lane.height / 2
    axes.text(
        left, middle - (4.5 if lane.detail else 0), lane.name, ha="right", va="center", color=lane.color,
        fontweight="bold",
    )  # fmt: skip
    if lane.detail:
        axes.text(left, middle + 5.5, lane.detail, ha="right", va="center", color=MUTED.light, fontsize=7)
    for label in lane.labels:
        row_y = y + label.row * ROW_HEIGHT
        axes.plot([label.time] * 2, [row_y, bottom], color=lane.color, linewidth=0.9, alpha=0.8)
        position = label.left
        for text, wrong in label.runs:
            color = ERROR.light if wrong else lane.color
            # SVG drops spaces at the start of a text, so the position carries them.
            visible = text.strip()
            start = (position + (len(text) - len(text.lstrip())) * CHAR_WIDTH) * seconds_per_point
            stop = start + len(visible) * CHAR_WIDTH * seconds_per_point
            axes.text(
                start, row_y + ROW_HEIGHT / 2, visible, va="center", ha="left", family="DejaVu Sans Mono",
                fontsize=FONT_SIZE, color=color, zorder=3,
                bbox={"facecolor": PAPER.light, "edgecolor": "none", "pad": 0.3},
            )  # fmt: skip
            if wrong:
                axes.plot([start, stop], [row_y + ROW_HEIGHT - 0.8] * 2, color=color, linewidth=0.9)
            position += len(text) * CHAR_WIDTH
    if lane.marks:
        axes.plot(
            lane.marks, [bottom + 1.5] * len(lane.marks), "o", color=lane.color, markersize=1.9, alpha=0.8
        )
    for start, stop in lane.spans:
        axes.plot(
            [start, stop], [bottom, bottom], color=lane.color, linewidth=2, alpha=0.5, solid_capstyle="butt"
        )


def _alt(utterance: DecodedUtterance, decoded: dict[str, DecodedUtterance]) -> str:
    shown = readable(utterance.ref)
    lines = [
        f"{name}: “{shown(found.hyp)}”, {found.num_errors} errors"
        + (f", first word after {number(found.first_word_ms)} ms" if found.first_word_ms is not None else "")
        for name, found in decoded.items()
    ]
    return f"Timeline of one utterance. Reference: “{shown(utterance.ref)}”. " + "; ".join(lines) + "."
