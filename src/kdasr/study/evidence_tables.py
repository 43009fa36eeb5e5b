"""The evidence as `summary.json`, and as Markdown tables between two marks of a document."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.files import write_json, write_text
from kdasr.evaluation.statistics import Interval
from kdasr.report.wording import NOTHING, bad_first_tokens, number, resampled_units, share, signed, verdict
from kdasr.study.evidence import Evidence, MeanResult, SeedComparison
from kdasr.study.ranking import Ranking
from kdasr.study.trained_run import settled


def write_summary(evidence: Evidence, path: Path) -> None:
    """Write `rows` (a run on a part each), `means`, `comparisons`, `tuned` and what is missing.

    WER, its reductions and its intervals are in percent, latencies in ms, `gap_closed` is a share.
    """
    write_json(path, summary(evidence))


def summary(evidence: Evidence) -> dict[str, Any]:
    """The content of `summary.json`."""
    ranking = evidence.ranking
    return {
        "rows": [result.as_json() for result in evidence.results],
        "comparisons": [comparison.as_json() for comparison in evidence.comparisons],
        "means": [mean.as_json() for mean in evidence.means],
        "ranking": [entry.as_json() for entry in ranking.rows] if ranking else [],
        "tuned": evidence.tuned,
        "bound": evidence.topline,
        "baselines": evidence.baselines,
        "seeds": evidence.seeds,
        "incomplete": evidence.incomplete(),
    }


def around_section(path: Path, name: str = "results") -> tuple[str, str]:
    """What a Markdown file has up to the mark `<!-- NAME -->` and from the mark `<!-- /NAME -->`, with both.

    Raises:
        UserError: no such file, or not exactly one pair of marks in it.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    before, found_begin, rest = path.read_text(encoding="utf-8").partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end or begin in rest or end in after:
        raise UserError(f"{path}: expected one section between {begin} and {end}")
    return before + begin, end + after


def fill_section(path: Path, content: str, name: str = "results") -> None:
    """Put `content` between the marks of a section; see `around_section`.

    Raises:
        UserError: see `around_section`.
    """
    before, after = around_section(path, name)
    write_text(path, f"{before}\n{content.strip()}\n{after}")


def markdown(
    evidence: Evidence, command: str, picture: str | None = None, further: Sequence[str] = ()
) -> str:
    """All tables, and the command that makes them.

    Args:
        evidence: what was measured.
        command: one line for a shell.
        picture: the plot's path as the document links to it.
        further: blocks that stand at the end.
    """
    blocks = [*opening(evidence, evidence.parts, command, picture), *tables(evidence)]
    blocks += [topline_note(evidence), _tuning_note(evidence), missing_note(evidence), *further]
    return "\n\n".join(block for block in blocks if block)


def opening(evidence: Evidence, parts: Sequence[str], command: str, picture: str | None = None) -> list[str]:
    """What stands before the tables of `parts`: the command, how to read the numbers, the picture."""
    what = "Every number and the picture" if picture else "Every number"
    blocks = [f"{what} of this section: `{command}`", _how(evidence, parts)]
    if picture:
        blocks.append(f"![Word error rate against first-word latency]({picture})")
    return blocks


def tables(evidence: Evidence) -> list[str]:
    """A table per test part (dev, if there is none), then one per baseline; after them those of dev parts.

    The latter only where rows have been chosen among on the dev parts; one ranking of all rows, where one of
    them is recommended.
    """
    test = [part for part in evidence.parts if evidence.is_test(part)]
    dev = [part for part in evidence.parts if part not in test]
    blocks = _tables(evidence, test or dev)
    ranking = evidence.ranking
    if ranking is not None:
        blocks.append(_ranking_table(ranking, evidence))
    elif test and any(evidence.of(row, part) for row in evidence.choices for part in dev):
        blocks.append("On the dev parts, where methods and their variants were chosen:")
        blocks += _tables(evidence, dev)
    return blocks


def _tables(evidence: Evidence, parts: Sequence[str]) -> list[str]:
    blocks = []
    for part in parts:
        means = [mean for mean in evidence.means if mean.part == part]
        if means:
            blocks.append(_mean_table(part, means, evidence))
    found = [comparison for comparison in evidence.comparisons if comparison.part in parts]
    others = [comparison.baseline for comparison in found]
    for baseline in dict.fromkeys([*evidence.baselines, *others]):
        against = [comparison for comparison in found if comparison.baseline == baseline]
        if against:
            blocks.append(_comparison_table(baseline, against, evidence.topline))
    return blocks


def _units(evidence: Evidence, parts: Sequence[str]) -> str:
    found = evidence.comparisons or evidence.means
    return resampled_units(one.wer for one in found if one.part in parts)


def _how(evidence: Evidence, parts: Sequence[str]) -> str:
    seeds = ", ".join(str(seed) for seed in evidence.seeds)
    means = evidence.means
    offline = {mean.row for mean in means if mean.first_token_ms is None}
    if means and offline == {mean.row for mean in means}:
        latency = " All rows are decoded in whole utterances, so there are no latencies."
    elif evidence.topline in offline:
        latency = f" `{evidence.topline}` is decoded in whole utterances, so it has no latency."
    else:
        latency = ""
    some = " (some rows have the first of them only)" if evidence.with_fewer_seeds else ""
    return (
        f"Seeds {seeds}{some}. Students that "
        "are compared have equal steps, counted after the model that they start from. WER is that of all "
        "seeds together. Latencies are means over seeds of the mean over utterances: of the "
        "first word where it is right, from its onset; of the first token, whatever it says. Brackets: 95 % "
        f"bootstrap intervals over {_units(evidence, parts)} and seeds, paired where rows are compared; "
        f"first words are compared on the utterances that both rows have right.{latency}"
    )


def _mean_table(part: str, means: Sequence[MeanResult], evidence: Evidence) -> str:
    lines = [
        f"{part} ({sizes(part, evidence)})",
        "",
        "| row | starts from | steps | seeds | WER % (95 %) | WER by seed | first word, ms | right, % "
        "| first token: wrong / early / none, % | first token, ms | emission delay, ms | finalization, ms |",
        f"|{'---|' * 12}",
    ]
    for mean in means:
        cells = (
            _name(mean.row, evidence),
            evidence.start_of(mean),
            number(mean.steps),
            str(mean.num_seeds),
            _interval(mean.wer, 2),
            " ".join(number(wer, 2) for wer in evidence.wer_by_seed(mean)),
            number(mean.first_word_ms),
            share(mean.first_word_coverage),
            bad_first_tokens(mean.first_tokens),
            number(mean.first_token_ms),
            number(mean.emission_delay_ms),
            number(mean.finalization_ms),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(row: str, evidence: Evidence) -> str:
    role = evidence.role_of(row)
    return f"`{row}` ({role})" if role else f"`{row}`"


def sizes(part: str, evidence: Evidence) -> str:
    """How many utterances and words a part has."""
    run = next(run for run in evidence.runs if part in run.parts)
    utterances = run.parts[part].utterances.values()
    words = sum(utterance.num_words for utterance in utterances)
    return f"{number(len(utterances))} utterances, {number(words)} words"


def _interval(interval: Interval, digits: int) -> str:
    low, high = number(interval.low, digits), number(interval.high, digits)
    return f"{number(interval.estimate, digits)} ({low} to {high})"


def _comparison_table(baseline: str, comparisons: Sequence[SeedComparison], topline: str) -> str:
    lines = [
        f"Against `{baseline}`, the same seeds and utterances; positive is better:",
        "",
        "| row | part | fewer word errors, % (95 %) | | first word earlier, ms (95 %) | | both right, % | "
        f"first token earlier, ms (95 %) | gap to `{topline}` closed (95 %) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for found in comparisons:
        cells = (
            f"`{found.row}`",
            found.part,
            _signed_interval(found.wer, 1),
            verdict(found.wer, "fewer", "more"),
            _signed_interval(found.first_word.gain, 0),
            verdict(found.first_word.gain, "earlier", "later"),
            share(found.first_word.coverage),
            _signed_interval(found.first_token, 0),
            _signed_interval(found.gap, 2),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ranking_table(ranking: Ranking, evidence: Evidence) -> str:
    reference, parts = evidence.rank_against, " | ".join(f"{part}, WER %" for part in ranking.parts)
    seeds = ", ".join(str(seed) for seed in ranking.seeds)
    lines = [
        f"All rows that stream on the dev parts together ({number(ranking.num_utterances)} utterances, "
        f"{number(ranking.num_words)} words; seeds {seeds}, which every row has), lowest WER first. Settings "
        f"were chosen here. The last columns are against `{reference}`, the row that is shipped; positive is "
        "better:",
        "",
        f"| row | steps | WER % (95 %) | {parts} | first word, ms | fewer word errors than `{reference}`, % "
        "(95 %) | | first word earlier, ms (95 %) | |",
        f"|{'---|' * (8 + len(ranking.parts))}",
    ]
    for entry in ranking.rows:
        ours = entry.row == reference
        cells = (
            f"**`{entry.row}`**" if ours else _name(entry.row, evidence),
            number(entry.steps),
            _interval(entry.wer, 1),
            *(number(wer, 1) for wer in entry.wer_by_part.values()),
            number(entry.first_word_ms),
            NOTHING if ours else _signed_interval(entry.fewer, 1),
            "" if ours else verdict(entry.fewer, "fewer", "more"),
            NOTHING if ours else _signed_interval(entry.word_earlier, 0),
            "" if ours else verdict(entry.word_earlier, "earlier", "later"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _signed_interval(interval: Interval, digits: int) -> str:
    if finite_estimate(interval):
        low, high = signed(interval.low, digits), signed(interval.high, digits)
        return f"{signed(interval.estimate, digits)} ({low} to {high})"
    return NOTHING


def finite_estimate(interval: Interval) -> bool:
    """Whether there was something to estimate."""
    return interval.estimate == interval.estimate


def topline_note(evidence: Evidence) -> str:
    """How far the dev WER of the topline moved at the end of its training; empty if it was not logged."""
    spans = [
        f"{number(span[0], 1)} to {number(span[1], 1)} (seed {run.info.seed})"
        for run in evidence.runs
        if run.info.row == evidence.topline and (span := settled(run))
    ]
    if not spans:
        return ""
    return f"Dev WER % of `{evidence.topline}` over the last quarter of its steps: {', '.join(spans)}."


def _tuning_note(evidence: Evidence) -> str:
    if not evidence.tuned:
        return "Learning rates were not searched: every row has the one of its system."
    lines = [
        f"Peak learning rates, chosen by dev WER with seed {evidence.seeds[0]} (in brackets: dev WER %):",
        "",
    ]
    tried = [
        entry for entry in evidence.tuned if any(trial["dev_wer"] is not None for trial in entry["trials"])
    ]
    for entry in tried:
        trials = ", ".join(
            f"{trial['learning_rate']:g} ({number(trial['dev_wer'], 1)})" for trial in entry["trials"]
        )
        chosen = entry["learning_rate"]
        choice = "none yet" if chosen is None else f"{chosen:g}"
        edge = ", an end of the range" if entry["at_edge"] else ""
        lines.append(f"- `{entry['row']}`: **{choice}**{edge}, of {trials}")
    return "\n".join(lines)


def missing_note(evidence: Evidence) -> str:
    """Which rows lack seeds; empty if none does."""
    missing = evidence.incomplete()
    if not missing:
        return ""
    rows = ", ".join(f"`{row}` ({count} of {evidence.num_seeds(row)})" for row, count in missing.items())
    return f"Rows that lack seeds (how many they have on every part): {rows}."
