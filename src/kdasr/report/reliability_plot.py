"""The plot of what the confidence of a word is worth."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.report.confidence import Confidence
from kdasr.report.plots import WIDTH, Plot
from kdasr.report.results import ResultRow
from kdasr.report.style import MUTED, Styles, SystemStyle, figure_style, legend_entries
from kdasr.report.wording import number


def reliability_plot(rows: Sequence[ResultRow], styles: Styles) -> Plot | None:
    """Share of right words by confidence, a panel per part; None when no words have a confidence."""
    found = [(row, row.confidence) for row in rows if row.confidence is not None]
    if not found:
        return None
    parts = list(dict.fromkeys(row.part for row, _ in found))
    with figure_style():
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        panels = figure.subplots(1, len(parts), sharex=True, sharey=True, squeeze=False)[0]
        for axes, part in zip(panels, parts, strict=True):
            axes.plot([0, 1], [0, 1], color=MUTED.light, linewidth=1.0, linestyle=":")
            for row, confidence in found:
                if row.part == part:
                    _line(axes, row.system, confidence, styles[row.system])
            axes.set(title=part, xlabel="confidence of the word", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        panels[0].set_ylabel("share of words that are right")
        handles, labels = legend_entries(panels)
        figure.legend(handles, labels, loc="outside upper left", ncols=max(1, len(labels)))
    alt = "; ".join(
        f"{row.system} on {row.part}: area under the ROC curve {number(value.auc, 3)}, expected calibration "
        f"error {number(100 * value.ece, 1)} %"
        for row, value in found
    )
    caption = (
        "Recognized words by their confidence, in ten bins; the larger the mark, the more words. On the "
        "dotted line a confidence is what it says; above it words are better than they say."
    )
    return Plot(
        "reliability", "What the confidence of a word is worth", caption, f"Line plot. {alt}.", figure
    )


def _line(axes: Axes, system: str, confidence: Confidence, style: SystemStyle) -> None:
    bins, color = confidence.reliability, style.color.light
    places = [part.confidence for part in bins]
    shares = [part.accuracy for part in bins]
    sizes = [8 + 220 * part.words / confidence.words for part in bins]
    axes.plot(places, shares, color=color, linestyle=style.line, linewidth=1.2, label=system)
    axes.scatter(places, shares, s=sizes, color=color, alpha=0.6, linewidth=0)
