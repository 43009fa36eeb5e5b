"""What a call of the driver leaves behind for readers: numbers, a picture, a section of a document."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kdasr.common.files import write_json, write_text
from kdasr.report.style import save_png
from kdasr.study.driver import collect
from kdasr.study.evidence import Evidence
from kdasr.study.evidence_brief import brief, links, write_csv
from kdasr.study.evidence_plot import evidence_plot
from kdasr.study.evidence_records import as_csv, records
from kdasr.study.evidence_tables import (
    fill_section,
    markdown,
    missing_note,
    opening,
    tables,
    topline_note,
    write_summary,
)
from kdasr.study.jobs import Study
from kdasr.study.latencies import latency_plot, latency_points
from kdasr.study.recovered import recovered
from kdasr.study.results_config import CONTEXTS, WITH_LM
from kdasr.study.waits import compare_at_waits, waits_json, waits_records, waits_tables

PICTURE = "wer-latency.png"
LINES = "wer-latency-lines.png"
"""A line per system through its contexts."""
CSV_FOLDER = "results"
COMPARISONS = "comparisons.json"
COMPARISONS_AT_WAITS, AT_WAITS = "comparisons-contexts.json", "contexts"
"""The file, and what its CSV file is called after the recipe."""


def write_results(study: Study, upto: str, command: str, document: Path | None) -> Iterator[str]:
    """Write `summary.json`, `results.md` and the plot, and fill the section of `document`.

    The section has the name of the recipe's file, and so has the picture beside the document. It holds the
    short tables; all tables are CSV files in the folder `results` beside the document.

    Args:
        study: whose runs are collected.
        upto: dev or test.
        command: the shell line that makes them again.
        document: a Markdown file with marks; its picture is written beside it. None: none.

    Yields:
        A line about each file.

    Raises:
        UserError: the document has no marks.
    """
    decodings = {variant: collect(study, upto, variant) for variant in study.recipe.decodings()}
    evidence = decodings[""]
    yield from _write_numbers(study, decodings, upto)
    at_waits = {}
    if study.recipe.results.summary == CONTEXTS:
        at_waits = compare_at_waits(study, evidence, upto)
        write_json(study.exp / COMPARISONS_AT_WAITS, waits_json(at_waits))
        yield f"{study.exp / COMPARISONS_AT_WAITS}"
    plot = evidence_plot(evidence)
    if plot:
        save_png(plot.figure, study.exp / PICTURE)
        yield f"{study.exp / PICTURE}"
    further = _by_other_searches(study, decodings, lambda _, found: [*tables(found), missing_note(found)])
    content = markdown(
        evidence, command, PICTURE if plot else None, [*further, *waits_tables(at_waits, evidence.reported)]
    )
    write_text(study.exp / "results.md", content + "\n")
    yield f"{study.exp / 'results.md'}"
    if document is not None:
        beside = document.with_name(f"{study.recipe.path.stem}.png")
        if plot:
            save_png(plot.figure, beside)
        fill_section(
            document,
            _section(study, decodings, command, beside.name if plot else None),
            study.recipe.path.stem,
        )
        yield f"{document}: its section is filled"
        for variant, found in decodings.items():
            name = study.recipe.path.stem + variant
            yield from map(str, write_csv(found, name, document.parent / CSV_FOLDER))
        if at_waits:
            path = document.parent / CSV_FOLDER / f"{study.recipe.path.stem}-{AT_WAITS}.csv"
            write_text(path, as_csv(waits_records(at_waits)))
            yield f"{path}"


def _section(study: Study, decodings: Mapping[str, Evidence], command: str, picture: str | None) -> str:
    """What a document says: the short tables, and where those of other searches are."""
    name, evidence = study.recipe.path.stem, decodings[""]
    further = _by_other_searches(
        study, decodings, lambda variant, found: [links(records(found), name + variant, CSV_FOLDER)]
    )
    blocks = [*opening(evidence, evidence.reported, command, picture), *brief(evidence, name, CSV_FOLDER)]
    blocks += [topline_note(evidence), missing_note(evidence), *further]
    return "\n\n".join(block for block in blocks if block)


def _write_numbers(study: Study, decodings: Mapping[str, Evidence], upto: str) -> Iterator[str]:
    """`summary.json` in the form that the recipe wants; comparisons in a file of their own if not there."""
    evidence = decodings[""]
    path = study.exp / "summary.json"
    if study.recipe.results.summary == "recovered":
        entries = [
            entry
            for variant, found in decodings.items()
            if variant in ("", WITH_LM)
            for entry in recovered(found, with_lm=bool(variant))
        ]
        write_json(path, entries)
        yield f"{path}: {len(entries)} entries"
        path = study.exp / COMPARISONS
    if study.recipe.results.summary == CONTEXTS:
        points = latency_points(study, upto)
        write_json(path, [point.as_json() for point in points])
        yield f"{path}: {len(points)} entries"
        plot = latency_plot(points, evidence.reported)
        if plot is not None:
            save_png(plot.figure, study.exp / LINES)
            yield f"{study.exp / LINES}"
        path = study.exp / COMPARISONS
    write_summary(evidence, path)
    yield f"{path}: {len(evidence.runs)} runs"
    for variant, found in decodings.items():
        if variant:
            path = study.exp / f"comparisons{variant}.json"
            write_summary(found, path)
            yield f"{path}: {len(found.runs)} runs"


def _by_other_searches(
    study: Study, decodings: Mapping[str, Evidence], shown: Callable[[str, Evidence], list[str]]
) -> list[str]:
    """What is shown of each decoding but the greedy one that has been done, under a heading."""
    blocks: list[str] = []
    for variant, found in decodings.items():
        if variant and found.runs:
            if variant == WITH_LM:
                blocks += _with_language_model(study)
            else:
                blocks += _by_search(study, variant.removeprefix("-"))
            blocks += shown(variant, found)
    return blocks


def _by_search(study: Study, name: str) -> tuple[str, str]:
    """Heading and description of one of the recipe's searches."""
    options = study.recipe.results.searches[name]
    how = f"Beam search ({options.beam} hypotheses"
    if options.blank_penalty is not None:
        how += f", blank penalty {options.blank_penalty:g}"
    if options.lm:
        how += f", `{Path(options.lm).name}` by shallow fusion, scale {options.lm_scale:g}"
    if options.biasing:
        how += f", biased to the phrases of `{Path(options.biasing).name}`"
    return f"#### By the search `{name}`", f"{how}), in every row."


def _with_language_model(study: Study) -> tuple[str, str]:
    """Heading and description of the decoding with the recipe's language model."""
    options = study.recipe.results.language_model
    assert options is not None
    use = f"by shallow fusion (scale {options.scale:g}"
    if options.rescore:
        use = "by rescoring (scale and word bonus chosen on the dev parts"
    how = (
        f"Beam search ({options.beam} hypotheses) with the language model of `{options.conf}` {use}, "
        f"blank penalty {options.blank_penalty:g}), in every row."
    )
    return "#### With a language model in decoding", how
