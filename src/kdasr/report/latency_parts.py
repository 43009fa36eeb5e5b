"""What the first token waits for, as a stacked bar per system."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from kdasr.report.plots import WIDTH, Plot
from kdasr.report.records import DecodedPart, SystemRecord
from kdasr.report.results import ResultRow, part_names
from kdasr.report.style import INK, MUTED, PAPER, Styles, figure_style, value_axis
from kdasr.report.wording import number

PARTS = {
    "model_delay": "model delay",
    "front_end": "front end",
    "chunk": "chunk",
    "right_context": "right context",
    "search": "search",
    "compute": "compute",
}
"""Names in `utterances.jsonl`, and for readers."""

_SHADES = dict(zip(PARTS, (0.9, 0.62, 0.42, 0.3, 0.2, 0.12), strict=True))
_SMALLEST = 0.04
"""Share of the axis below which a part has no number."""


def mean_parts(decoded: DecodedPart) -> dict[str, float]:
    """Mean of every part over the utterances that have them, in ms; empty without any."""
    found = [parts for u in decoded.utterances.values() if (parts := u.first_token_parts_ms) is not None]
    return {name: float(np.mean([parts[name] for parts in found])) for name in PARTS} if found else {}


def first_token_parts_plot(
    systems: Sequence[SystemRecord], rows: Sequence[ResultRow], styles: Styles
) -> Plot | None:
    """A bar per system and part; systems that wait for the end of the utterance are left out."""
    waiting = {row.system for row in rows if row.waits_for_end}
    bars = {
        (system.name, decoded.part): means
        for system in systems
        for decoded in system.parts.values()
        if system.name not in waiting and (means := mean_parts(decoded))
    }
    if not bars:
        return None
    names = list(dict.fromkeys(name for name, _ in bars))
    shown = [name for name in PARTS if any(abs(means[name]) >= 0.5 for means in bars.values())]
    limits = _limits(list(bars.values()))
    parts = [part for part in part_names(rows) if any(part == drawn for _, drawn in bars)]
    with figure_style():
        figure = Figure(figsize=(WIDTH, 1.25 + 0.42 * len(names)), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            for place, name in enumerate(names):
                if (name, part) in bars:
                    _bar(axes, bars[name, part], shown, place, styles[name].color.light, limits)
            axes.set(
                title=part, xlabel="mean first-token latency, ms from the first word’s onset", xlim=limits
            )
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.4, -0.6)
            axes.spines["left"].set_visible(False)
            value_axis(axes)
        for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
            label.set(color=styles[name].color.light, fontweight="bold")
        shades = [Patch(facecolor=MUTED.light, alpha=_SHADES[name], label=PARTS[name]) for name in shown]
        figure.legend(handles=shades, loc="outside lower center", ncols=len(shown), frameon=False)
    return Plot(
        "first-token-parts",
        "What the first token waits for",
        "Mean wall-clock latency of the first token, from the onset of the first word. Model delay: until "
        "the frame in which the model emits it. Front end: until that frame’s features are known. Chunk "
        "and right context: until the encoder may compute it. Training can change the model delay only.",
        _alt(bars, shown),
        figure,
    )


def _bar(
    axes: Axes,
    means: dict[str, float],
    shown: Sequence[str],
    place: int,
    color: str,
    limits: tuple[float, float],
) -> None:
    """Parts from left to right, each with its number where there is room for one."""
    left, room = 0.0, _SMALLEST * (limits[1] - limits[0])
    for name in shown:
        width = means[name]
        axes.barh(
            place,
            width,
            left=left,
            height=0.62,
            color=color,
            alpha=_SHADES[name],
            edgecolor=PAPER.light,
            linewidth=0.8,
        )
        if abs(width) > room:
            ink = PAPER.light if _SHADES[name] > 0.5 else INK.light
            axes.text(
                left + width / 2, place, number(width), ha="center", va="center", color=ink, fontsize=7.5
            )
        left += width
    axes.text(left + 0.25 * room, place, number(sum(means.values())), va="center", color=INK.light)


def _limits(bars: Sequence[dict[str, float]]) -> tuple[float, float]:
    high = max(sum(means.values()) for means in bars)
    low = min(0.0, *(means["model_delay"] for means in bars))
    return low, high + 0.12 * (high - low)


def _alt(bars: dict[tuple[str, str], dict[str, float]], shown: Sequence[str]) -> str:
    texts = [
        f"{name} on {part}: " + ", ".join(f"{PARTS[key]} {number(means[key])} ms" for key in shown)
        for (name, part), means in bars.items()
    ]
    return f"Stacked bars of mean latency. {'; '.join(texts)}."
