"""What the filters of labels make of them: a table for the terminal, and a plot."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.table import Table

from kdasr.report.plots import WIDTH
from kdasr.report.style import INK, MUTED, figure_style, system_styles, value_axis
from kdasr.report.tables import number

_KEPT = "kept"


def labels_table(summary: Mapping[str, Any]) -> Table:
    """A row per filter: what it drops, and what is left after it and those above it."""
    compared = bool(summary["all"]["compared"])
    caption = "h kept: by this filter and those above it."
    if compared:
        wrong = number(summary["all"]["wrong_percent"], 0)
        caption += (
            f" precision: dropped labels with a word error; of all labels {wrong} % have one. "
            "WER %: of the labels, against the transcripts."
        )
    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption=caption, caption_justify="left"
    )
    table.add_column("filter", no_wrap=True)
    for name in ("threshold", "drops", "drops h", "h kept"):
        table.add_column(name, justify="right", no_wrap=True)
    if compared:
        for name in ("precision %", "WER % dropped", "WER % without it", "WER % with it"):
            table.add_column(name, justify="right")
    before = summary["all"]
    table.add_row(
        "all labels", "", "", "", number(before["hours"], 2), *_wers(compared, "", "", "", before["wer"])
    )
    for entry in summary["filters"]:
        dropped, after = entry["dropped"], entry["after"]
        table.add_row(
            entry["name"],
            entry["threshold"],
            str(dropped["labels"]),
            number(dropped["hours"], 2),
            number(after["hours"], 2),
            *_wers(compared, entry["precision"], dropped["wer"], before["wer"], after["wer"]),
        )
        before = after
    return table


def _wers(compared: bool, *values: float | str | None) -> list[str]:
    if not compared:
        return []
    return [value if isinstance(value, str) else number(value, 1) for value in values]


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What is kept, and what each labeler cost."""
    kept, everything = summary["kept"], summary["all"]
    lines = [
        f"{kept['labels']} of {everything['labels']} labels are kept: {kept['hours']:.2f} of "
        f"{everything['hours']:.2f} h"
    ]
    if kept["wer"] is not None:
        lines[0] += f"; WER {everything['wer']:.1f} % before, {kept['wer']:.1f} % after"
    if summary["missing"]:
        lines.append(f"{summary['missing']} utterances have no label in the file")
    if summary["empty_and_silent"]:
        lines.append(
            f"{summary['empty_and_silent']} of the empty labels are of audio in which nothing is heard"
        )
    for labeler in summary["labelers"]:
        cost = labeler["compute_hours_per_audio_hour"]
        if cost:
            lines.append(
                f"{labeler['name']}: {cost:.2f} h of compute per hour of audio ({1 / cost:.1f} hours per hour"
                " and process)"
            )
    return lines


def labels_plot(summary: Mapping[str, Any]) -> Figure:
    """Hours kept after each filter and, with transcripts, the word error rate of the labels after it."""
    entries = [
        ("all labels", summary["all"]),
        *((item["name"], item["after"]) for item in summary["filters"]),
    ]
    names = [name for name, _ in entries]
    compared = bool(summary["all"]["compared"])
    style = system_styles(["labels", "errors"])
    with figure_style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.34 * len(names)), layout="constrained")
        panels = figure.subplots(1, 2 if compared else 1, sharey=True, squeeze=False)[0]
        hours = [tally["hours"] for _, tally in entries]
        _bars(panels[0], hours, style["labels"].color.light, 2)
        panels[0].set(title="hours kept", xlabel="hours, after this filter and those above it")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        if compared:
            rates = [tally["wer"] or 0.0 for _, tally in entries]
            _bars(panels[1], rates, style["errors"].color.light, 1)
            panels[1].set(title="label errors", xlabel="WER of what is kept, %")
    return figure


def _bars(axes: Any, values: list[float], color: str, digits: int) -> None:
    limit = max(values) or 1.0
    axes.barh(range(len(values)), values, height=0.62, color=color)
    for place, value in enumerate(values):
        text = number(value, digits)
        axes.text(value + 0.01 * limit, place, text, va="center", color=INK.light if value else MUTED.light)
    axes.set_xlim(0, 1.14 * limit)
    axes.spines["left"].set_visible(False)
    value_axis(axes)
