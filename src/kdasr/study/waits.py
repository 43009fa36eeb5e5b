"""Rows that are decoded under several contexts, compared at each wait: at 80 ms with others at 80 ms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdasr.report.wording import number
from kdasr.study.evidence import Evidence, SeedComparison
from kdasr.study.evidence_brief import decided, markdown_table
from kdasr.study.evidence_records import Record, comparison_record, plain
from kdasr.study.jobs import Study
from kdasr.study.latencies import Decoding, finished_decodings
from kdasr.study.results_config import ResultsConfig
from kdasr.study.trained_run import TrainedRun

Wait = float | None
"""Milliseconds of the chunk and its look-ahead; None: the whole utterance."""
WHOLE = "whole utterance"


def compare_at_waits(study: Study, evidence: Evidence, upto: str) -> dict[Wait, list[SeedComparison]]:
    """By wait, the shortest first: every line against the baselines and what else it is compared with.

    A line stands for its rows (`RowConfig.line`): separate models, each for one wait, are one system, and
    every other is compared with it. Where a run has several contexts of one wait, the first counts.

    Args:
        study: whose decodings are read.
        evidence: of the same study, under the first context of each run.
        upto: dev or test.

    Raises:
        UserError: a file is not as `kdasr decode` writes it, or of another context.
    """
    results = study.recipe.results
    by_wait: dict[Wait, list[Decoding]] = {}
    for decoding in finished_decodings(study, upto):
        by_wait.setdefault(decoding.wait_ms, []).append(decoding)
    waits = sorted(by_wait, key=lambda wait: float("inf") if wait is None else wait)
    found = {wait: _at_one_wait(results, evidence, by_wait[wait]).comparisons for wait in waits}
    return {wait: comparisons for wait, comparisons in found.items() if comparisons}


def _at_one_wait(results: ResultsConfig, evidence: Evidence, decodings: Sequence[Decoding]) -> Evidence:
    names = _names(decodings)
    runs: dict[tuple[str, int], TrainedRun] = {}
    for decoding in decodings:
        name = names[decoding.run.row]
        trained = decoding.read()
        info = replace(trained.info, row=name)
        runs.setdefault((name, decoding.run.seed), replace(trained, info=info))

    def shown(rows: Sequence[str]) -> list[str]:
        return list(dict.fromkeys(names[row] for row in rows if row in names))

    return replace(
        evidence,
        rows=shown(list(results.rows)),
        runs=list(runs.values()),
        baselines=list(dict.fromkeys([*shown(evidence.baselines), *_of_several_rows(results, names)])),
        topline=names.get(evidence.topline, evidence.topline),
        shared=shown(evidence.shared),
        against={names[row]: shown(others) for row, others in evidence.against.items() if row in names},
        choices=[],
        lines={},
        rank_against="",
    )


def _of_several_rows(results: ResultsConfig, names: Mapping[str, str]) -> list[str]:
    """The lines, among the names of a wait, that stand for several rows of the recipe."""
    lines = [row.line for row in results.rows.values() if row.line]
    return [name for name in names.values() if lines.count(name) > 1]


def _names(decodings: Sequence[Decoding]) -> dict[str, str]:
    """By row, its line; its own name where several rows of the line have this wait."""
    lines = {decoding.run.row: decoding.line for decoding in decodings}
    shared = list(lines.values())
    return {row: line if shared.count(line) == 1 else row for row, line in lines.items()}


def waits_json(found: dict[Wait, list[SeedComparison]]) -> list[dict[str, Any]]:
    """The entries of `comparisons-contexts.json`; `context_ms`: the wait, null for the whole utterance."""
    return [
        {"context_ms": wait, **comparison.as_json()}
        for wait, comparisons in found.items()
        for comparison in comparisons
    ]


def waits_records(found: dict[Wait, list[SeedComparison]]) -> list[Record]:
    """Lines of the CSV file; `context_ms` is empty for the whole utterance."""
    return [
        {"context_ms": plain(wait), **comparison_record(comparison)}
        for wait, comparisons in found.items()
        for comparison in comparisons
    ]


def waits_tables(found: dict[Wait, list[SeedComparison]], reported: Sequence[str]) -> list[str]:
    """A Markdown table per reported part: how many percent fewer errors each line makes at each wait."""
    lines = [line for line in waits_records(found) if line["part"] in reported]
    parts = list(dict.fromkeys(line["part"] for line in lines))
    pairs = dict.fromkeys((line["row"], line["against"]) for line in lines)
    by_place = {(line["part"], line["row"], line["against"], line["context_ms"]): line for line in lines}
    heads = {plain(wait): WHOLE if wait is None else f"{number(wait)} ms" for wait in found}
    blocks = [
        "Fewer word errors at the same wait (chunk and look-ahead), % (95 %); positive is better, bold is "
        "decided:"
    ]
    for part in parts:
        table = [[f"{part}: row", "against", *heads.values()]]
        for row, baseline in pairs:
            same = [by_place.get((part, row, baseline, wait), {}) for wait in heads]
            cells = [
                decided(line, "fewer_word_errors_percent", "word_errors") if line else "" for line in same
            ]
            table.append([f"`{row}`", f"`{baseline}`", *cells])
        blocks.append(markdown_table(table))
    return blocks if parts else []
