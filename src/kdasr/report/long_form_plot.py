"""Plots of long streams: word errors by the length of pauses, and by the minute."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdasr.report.long_form import LongFormRow
from kdasr.report.plots import WIDTH, Plot
from kdasr.report.results import part_order
from kdasr.report.style import MUTED, Styles, figure_style, legend_entries
from kdasr.report.wording import number

_WAYS = ((False, "no endpoints"), (True, "reset at endpoints"))


def gap_plot(rows: Sequence[LongFormRow], styles: Styles) -> Plot | None:
    """Word error rate by pause, a row of panels per way and a column per part; None without rows.

    Pauses of quiet noise where there are some, else of silence.
    """
    rows = [row for row in _one_noise(rows) if row["wer"] is not None]
    if not rows:
        return None
    parts, gaps = part_order([row.part for row in rows]), sorted({row["gap_s"] for row in rows})
    top = max(max(row["wer_ci"][1] or row["wer"], row["single_wer"] or 0.0) for row in rows)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        panels = figure.subplots(2, len(parts), sharex=True, sharey=True, squeeze=False)
        for line, (endpoints, label) in zip(panels, _WAYS, strict=True):
            for axes, part in zip(line, parts, strict=True):
                found = [row for row in rows if row.part == part and row["endpoints"] == endpoints]
                _gap_lines(axes, found, gaps, styles)
                axes.set_title(f"{part}, {label}")
                axes.set_xticks(range(len(gaps)), [f"{gap:g}" for gap in gaps])
            line[0].set_ylabel("word error rate, %")
        for axes in panels[-1]:
            axes.set_xlabel("pause between utterances, s")
        panels[0, 0].set_ylim(0, 1.06 * top or 1.0)
        panels[0, 0].set_xlim(-0.3, len(gaps) - 0.7)
        _legend(figure)
    alt = "; ".join(
        f"{row.system} on {row.part}, pause {row.pause}, endpoints {'yes' if row['endpoints'] else 'no'}: "
        f"{number(row['wer'], 1)} %, one by one {number(row['single_wer'], 1)} %"
        for row in rows
    )
    caption = (
        "The utterances of a part in one stream, with pauses between them (vertical lines: 95 % intervals). "
        "Dotted: the same utterances one by one; the nearer to it, the better."
    )
    return Plot("long-form", "Word errors in a stream that goes on", caption, f"Line plot. {alt}.", figure)


def _one_noise(rows: Sequence[LongFormRow]) -> list[LongFormRow]:
    quiet = any(row["noise"] == "quiet" for row in rows)
    return [row for row in rows if not row["gap_s"] or (row["noise"] == "quiet") == quiet]


def _gap_lines(axes: Axes, rows: Sequence[LongFormRow], gaps: Sequence[float], styles: Styles) -> None:
    systems = list(dict.fromkeys(row.system for row in rows))
    for number_, system in enumerate(systems):
        found = sorted((row for row in rows if row.system == system), key=lambda row: row["gap_s"])
        style, nudge = styles[system], 0.06 * (number_ - (len(systems) - 1) / 2)
        places = [gaps.index(row["gap_s"]) + nudge for row in found]
        color = style.color.light
        axes.plot(
            places,
            [row["wer"] for row in found],
            color=color,
            marker=style.marker,
            markersize=5,
            linestyle=style.line,
            label=system,
        )
        for place, row in zip(places, found, strict=True):
            if None not in row["wer_ci"]:
                axes.plot([place, place], row["wer_ci"], color=color, linewidth=1.2, alpha=0.6)
        if found[0]["single_wer"] is not None:
            axes.axhline(found[0]["single_wer"], color=color, linestyle=":", linewidth=1.0)


def minutes_plot(rows: Sequence[LongFormRow], styles: Styles) -> Plot | None:
    """Word error rate in each minute of the streams, all pauses together; None for streams under a minute."""
    rows = [row for row in rows if row["words"]]
    parts = part_order([row.part for row in rows])
    table = {
        (row.system, row.part, row["endpoints"]): _minutes(rows, row.system, row.part, row["endpoints"])
        for row in rows
    }
    if max((len(values) for values in table.values()), default=0) < 2:
        return None
    with figure_style():
        figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
        panels = figure.subplots(2, len(parts), sharex=True, sharey=True, squeeze=False)
        for line, (endpoints, label) in zip(panels, _WAYS, strict=True):
            for axes, part in zip(line, parts, strict=True):
                for (system, *place), values in table.items():
                    if place == [part, endpoints]:
                        style = styles[system]
                        axes.plot(
                            *zip(*values, strict=True),
                            color=style.color.light,
                            marker=style.marker,
                            markersize=4,
                            linestyle=style.line,
                            label=system,
                        )
                axes.set_title(f"{part}, {label}")
            line[0].set_ylabel("word error rate, %")
        for axes in panels[-1]:
            axes.set_xlabel("minute of the stream")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0, 0].set_ylim(bottom=0)
        _legend(figure)
    alt = "; ".join(
        f"{system} on {part}, endpoints {'yes' if endpoints else 'no'}: "
        + ", ".join(f"minute {minute} {number(wer, 1)} %" for minute, wer in values)
        for (system, part, endpoints), values in table.items()
    )
    caption = (
        "Errors over reference words in each minute, streams and pauses of all kinds added up. A recognizer "
        "that holds out is flat; the last minutes have fewer words, so their points scatter."
    )
    return Plot("long-form-minutes", "Word errors by the minute", caption, f"Line plot. {alt}.", figure)


def _minutes(rows: Sequence[LongFormRow], system: str, part: str, endpoints: bool) -> list[tuple[int, float]]:
    """Minute and word error rate of a system, in percent, where there are words."""
    errors: dict[int, int] = {}
    words: dict[int, int] = {}
    for row in rows:
        if (row.system, row.part, row["endpoints"]) == (system, part, endpoints):
            for cell in row["wer_by_minute"]:
                wrong = cell["substitutions"] + cell["deletions"] + cell["insertions"]
                errors[cell["minute"]] = errors.get(cell["minute"], 0) + wrong
                words[cell["minute"]] = words.get(cell["minute"], 0) + cell["words"]
    return [(minute, 100.0 * errors[minute] / count) for minute, count in sorted(words.items()) if count]


def _legend(figure: Figure) -> None:
    handles, labels = legend_entries(figure.axes)
    figure.legend(
        handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, labelcolor=MUTED.light
    )
