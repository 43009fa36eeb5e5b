"""What a call of the driver leaves behind for readers: numbers, a picture, a section of a document."""

from collections.abc import Iterator
from pathlib import Path

from kdasr.report.evidence_plot import evidence_plot
from kdasr.report.evidence_tables import fill_section, markdown, write_summary
from kdasr.report.style import save_png
from kdasr.results.driver import collect
from kdasr.results.plan import Planner

PICTURE = "wer-latency.png"


def write_results(planner: Planner, stage: str, command: str, document: Path | None) -> Iterator[str]:
    """Write `summary.json`, `results.md` and the plot, and fill the section of `document`.

    Args:
        planner: whose runs are collected.
        stage: dev or test.
        command: the shell line that makes them again.
        document: a Markdown file with marks; its picture is written beside it, named after it. None: none.

    Yields:
        A line about each file.

    Raises:
        UserError: the document has no marks.
    """
    evidence = collect(planner, stage)
    write_summary(evidence, planner.exp / "summary.json")
    yield f"{planner.exp / 'summary.json'}: {len(evidence.runs)} runs"
    plot = evidence_plot(evidence)
    if plot:
        save_png(plot.figure, planner.exp / PICTURE)
        yield f"{planner.exp / PICTURE}"
    content = markdown(evidence, command, PICTURE if plot else None)
    (planner.exp / "results.md").write_text(content + "\n", encoding="utf-8")
    yield f"{planner.exp / 'results.md'}"
    if document is not None:
        beside = document.with_name(f"{document.stem.lower()}.png")
        fill_section(document, markdown(evidence, command, beside.name if plot else None))
        if plot:
            save_png(plot.figure, beside)
        yield f"{document}: its section is filled"
