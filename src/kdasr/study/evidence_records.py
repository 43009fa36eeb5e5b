"""The evidence as records of strings: lines of the CSV files beside a document, and of its short tables.

Numbers are rounded as in the tables of `results.md`, with a hyphen as minus sign, a point, and no separator
of thousands. An empty string stands for what was not measured.
"""

import csv
import io
from collections.abc import Mapping, Sequence

from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.statistics import Interval
from kdasr.report.wording import NOTHING, THOUSANDS, number, verdict
from kdasr.study.evidence import Evidence, MeanResult, SeedComparison
from kdasr.study.ranking import Ranked

Record = dict[str, str]
"""One line of a CSV file, by column."""


def plain(value: float | int | None, digits: int = 0) -> str:
    """A number as CSV has it, rounded as the tables do; empty for None and NaN."""
    text = number(value, digits)
    return "" if text == NOTHING else text.replace("−", "-").replace(THOUSANDS, "")


def records(evidence: Evidence) -> dict[str, list[Record]]:
    """By table (`rows`, `comparisons`, `dev`, `rates`), its lines; only tables that have one.

    rows: one per row and part; WER in percent with its 95 % interval, latencies in ms.
    comparisons: one per row, part and row that it is compared with; positive is better. `gap_closed` is the
        share of the distance to the topline.
    dev: the ranking of all streaming rows on the dev parts, against the row that they are ranked against.
    rates: one per learning rate that was tried.
    """
    ranking = evidence.ranking
    found = {
        "rows": [_row(mean, evidence) for mean in evidence.means],
        "comparisons": [comparison_record(comparison) for comparison in evidence.comparisons],
        "dev": [_ranked(entry, evidence) for entry in ranking.rows] if ranking else [],
        "rates": [
            _trial(entry, trial)
            for entry in evidence.tuned
            for trial in entry["trials"]
            if trial["dev_wer"] is not None
        ],
    }
    return {name: lines for name, lines in found.items() if lines}


def as_csv(lines: Sequence[Mapping[str, str]]) -> str:
    """The text of a CSV file: a head, then a line per record."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _interval(name: str, interval: Interval, digits: int) -> Record:
    values = (("", interval.estimate), ("_low", interval.low), ("_high", interval.high))
    return {name + end: plain(value, digits) for end, value in values}


def _percent(share: float | None) -> str:
    return plain(None if share is None else 100 * share)


def _row(mean: MeanResult, evidence: Evidence) -> Record:
    return {
        "part": mean.part,
        "row": mean.row,
        "role": evidence.role_of(mean.row),
        "starts_from": evidence.start_of(mean),
        "steps": plain(mean.steps),
        "seeds": plain(mean.num_seeds),
        **_interval("wer", mean.wer, 2),
        "wer_by_seed": " ".join(plain(wer, 2) for wer in evidence.wer_by_seed(mean)),
        "first_word_ms": plain(mean.first_word_ms),
        "first_word_right_percent": _percent(mean.first_word_coverage),
        **{
            f"first_token_{kind.value}_percent": _percent(mean.first_tokens[kind.value])
            for kind in FirstToken
            if kind != FirstToken.RIGHT
        },
        "first_token_ms": plain(mean.first_token_ms),
        "emission_delay_ms": plain(mean.emission_delay_ms),
        "finalization_ms": plain(mean.finalization_ms),
    }


def comparison_record(found: SeedComparison) -> Record:
    """A line of `comparisons`."""
    return {
        "part": found.part,
        "row": found.row,
        "against": found.baseline,
        **_interval("fewer_word_errors_percent", found.wer, 1),
        "word_errors": verdict(found.wer, "fewer", "more"),
        **_interval("first_word_earlier_ms", found.first_word.gain, 0),
        "first_word": verdict(found.first_word.gain, "earlier", "later"),
        "first_word_both_right_percent": _percent(found.first_word.coverage),
        "speakers": plain(found.wer.speakers or None),
        **_interval("first_token_earlier_ms", found.first_token, 0),
        "first_token": verdict(found.first_token, "earlier", "later"),
        **_interval("gap_closed", found.gap, 2),
    }


def _ranked(entry: Ranked, evidence: Evidence) -> Record:
    ours = entry.row == evidence.rank_against
    nothing = Interval(float("nan"), float("nan"), float("nan"), 0)
    fewer, word, token = [nothing] * 3 if ours else (entry.fewer, entry.word_earlier, entry.earlier)
    return {
        "row": entry.row,
        "role": "ranked against" if ours else evidence.role_of(entry.row),
        "steps": plain(entry.steps),
        **_interval("wer", entry.wer, 1),
        **{f"wer_{part}": plain(wer, 1) for part, wer in entry.wer_by_part.items()},
        "first_word_ms": plain(entry.first_word_ms),
        "first_token_ms": plain(entry.first_token_ms),
        **_interval("fewer_word_errors_percent", fewer, 1),
        "word_errors": "" if ours else verdict(fewer, "fewer", "more"),
        **_interval("first_word_earlier_ms", word, 0),
        "first_word": "" if ours else verdict(word, "earlier", "later"),
        **_interval("first_token_earlier_ms", token, 0),
        "first_token": "" if ours else verdict(token, "earlier", "later"),
    }


def _trial(entry: Mapping[str, object], trial: Mapping[str, float]) -> Record:
    chosen = trial["learning_rate"] == entry["learning_rate"]
    return {
        "row": str(entry["row"]),
        "learning_rate": f"{trial['learning_rate']:g}",
        "dev_wer": plain(trial["dev_wer"], 1),
        "chosen": "yes" if chosen else "",
        "end_of_range": "yes" if chosen and entry["at_edge"] else "",
    }
