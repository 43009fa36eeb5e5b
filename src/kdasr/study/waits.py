"""Rows that are decoded under several contexts, compared at each wait: at 80 ms with others at 80 ms."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdasr.report.wording import number, verdict
from kdasr.study.evidence import Evidence, SeedComparison
from kdasr.study.evidence_records import Record, comparison_record, plain
from kdasr.study.evidence_tables import signed_interval
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


def waits_tables(found: dict[Wait, list[SeedComparison]]) -> list[str]:
    """A Markdown table per part: how many percent fewer errors each line makes at each wait."""
    everything = [comparison for comparisons in found.values() for comparison in comparisons]
    parts = list(dict.fromkeys(comparison.part for comparison in everything))
    parts = [part for part in parts if part.startswith("test")] or parts
    pairs = list(dict.fromkeys((comparison.row, comparison.baseline) for comparison in everything))
    if not parts:
        return []
    heads = [WHOLE if wait is None else f"{number(wait)} ms" for wait in found]
    blocks = [
        "Fewer word errors at the same wait (chunk and look-ahead), % (95 %); positive is better, bold is "
        "decided:"
    ]
    for part in parts:
        lines = [f"| {part}: row | against | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
        for row, baseline in pairs:
            cells = []
            for comparisons in found.values():
                same = [c for c in comparisons if (c.row, c.baseline, c.part) == (row, baseline, part)]
                cells.append(_decided(same[0]) if same else "")
            lines.append(f"| `{row}` | `{baseline}` | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return blocks


def _decided(found: SeedComparison) -> str:
    text = signed_interval(found.wer, 1)
    return f"**{text}**" if verdict(found.wer, "fewer", "more") in ("fewer", "more") else text
