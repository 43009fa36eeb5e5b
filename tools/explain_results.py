"""Which words a streaming model misses and when it shows the others: `python tools/explain_results.py [EXP]`.

Reads what `make results` decoded. Homophones are words that sound like another one and that only the words
after them tell apart; a correct word's timing is that of its pieces' frames against its own start and end.
All seeds of a row count together. A second table compares the misses of each kind with a baseline's, and the
first token where both rows have the first word right, without what a row shows before anybody has spoken,
with 95 % intervals over speakers (utterances, where too few are known) and seeds as those of the report.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarking import require, run_tool

from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.common.lines import text_lines
from kdasr.corpora.synthetic.lookahead import homophone_pairs
from kdasr.evaluation.statistics import speakers_of
from kdasr.recognition.result import group_words
from kdasr.study.seeds import Draws, Floats, Interval, gain_over_seeds, reduction_over_seeds

FRAME_SECONDS = 0.04
"""Of an encoder frame of the systems that it explains."""
BASELINE = "streaming-init"
HOMOPHONES = frozenset(word.upper() for pair in homophone_pairs() for word in pair)


@cache
def by_seed(exp: Path, folder: str, part: str) -> dict[str, list[dict[str, Any]]]:
    """The decoded utterances of a row that have word times, by seed: one file each, read once."""
    found = {}
    for path in sorted(exp.glob(f"seed-*/{folder}/decode/*/{part}/utterances.jsonl")):
        timed = [one for one in map(json.loads, text_lines(path)) if one["ref_words"]]
        if timed:
            found[path.relative_to(exp).parts[0]] = timed
    return found


def utterances(exp: Path, row: str, part: str) -> Iterator[dict[str, Any]]:
    """Every decoded utterance of a row, seed by seed."""
    for found in by_seed(exp, row, part).values():
        yield from found


def describe(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of missed words by kind, and medians of the timing of the others in milliseconds."""
    missed: dict[bool, list[bool]] = {True: [], False: []}
    begins, ends = [], []
    too_early = 0
    for utterance in found:
        too_early += (utterance["first_token_ms"] or 0.0) < 0.0
        refs = utterance["ref_words"]
        hit = {word["ref_index"] for word in utterance["words"] if word["ref_index"] is not None}
        for index, ref in enumerate(refs):
            missed[ref["word"] in HOMOPHONES].append(index not in hit)
        tokens = utterance["tokens"]
        spans = group_words([token["piece"] for token in tokens])
        for word, span in zip(utterance["words"], spans, strict=True):
            if word["ref_index"] is None:
                continue
            ref = refs[word["ref_index"]]
            begins.append(1000 * (FRAME_SECONDS * tokens[span.first_token]["frame"] - ref["start"]))
            ends.append(1000 * (FRAME_SECONDS * (tokens[span.last_token]["frame"] + 1) - ref["end"]))
    return {
        "homophones": 100 * float(np.mean(missed[True])),
        "others": 100 * float(np.mean(missed[False])),
        "first piece": float(np.median(begins)),
        "last piece": float(np.median(ends)),
        "too early": 100 * too_early / len(found),
    }


def misses(utterance: dict[str, Any], homophones: bool) -> float:
    """How many words of one kind are missed."""
    hit = {word["ref_index"] for word in utterance["words"]}
    refs = enumerate(utterance["ref_words"])
    return sum(index not in hit and (ref["word"] in HOMOPHONES) == homophones for index, ref in refs)


def first_token(utterance: dict[str, Any]) -> float:
    """Latency of the first token where it is of the first word, and that right; else nan."""
    words, latency = utterance["words"], utterance["first_token_ms"]
    right = bool(words) and words[0]["ref_index"] == 0 and latency is not None and latency >= 0.0
    return float(latency) if right else float("nan")


def compare(
    exp: Path,
    folders: tuple[str, str],
    part: str,
    value: Callable[[dict[str, Any]], float],
    measure: Callable[[Floats, Floats, Draws], Interval],
) -> str:
    """How the first folder's row does against the second's, on the seeds and utterances of both."""
    row, base = (by_seed(exp, folder, part) for folder in folders)
    seeds = sorted(set(row) & set(base))
    if not seeds:
        return "no seed in common"
    values = [
        {seed: {one["id"]: value(one) for one in found[seed]} for seed in seeds} for found in (row, base)
    ]
    ids = sorted(set.intersection(*(set(found[seed]) for found in values for seed in seeds)))
    if not ids:
        return "no utterance in common"
    row_SN, base_SN = (
        np.array([[found[seed][id] for id in ids] for seed in seeds], dtype=np.float64) for found in values
    )
    named = {one["id"]: one.get("speaker") for one in by_seed(exp, folders[0], part)[seeds[0]]}
    change = measure(row_SN, base_SN, Draws(speakers=speakers_of(ids, [named[id] for id in ids])))
    return f"{change.estimate:+.1f} ({change.low:+.1f} to {change.high:+.1f})"


MEASURES = (
    (partial(misses, homophones=True), reduction_over_seeds),
    (partial(misses, homophones=False), reduction_over_seeds),
    (first_token, gain_over_seeds),
)


def cells(values: dict[str, float]) -> list[str]:
    return [
        f"{value:.{1 if name in ('homophones', 'others', 'too early') else 0}f}"
        for name, value in values.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("exp", type=Path, nargs="?", default=Path("exp/results"))
    parser.add_argument("--parts", nargs="+", default=["test-clean", "test-other"])
    parser.add_argument(
        "--against", help=f"the baseline of the second table; default: {BASELINE}, where there is such a row"
    )
    options = parser.parse_args()
    # Of a recipe of unpaired speech, the summary is a list, and the comparisons are beside it.
    files = [options.exp / name for name in ("comparisons.json", "summary.json")]
    summary = next((path for path in files if path.is_file()), files[1])
    require(summary, made_by="make results")
    found = read_json(summary)
    rows = list(dict.fromkeys(row["row"] for row in found["rows"]))
    if options.against is not None and options.against not in rows:
        raise UserError(f"--against {options.against}: no such row; there are: {', '.join(rows)}")
    against = options.against or BASELINE
    # Where rates were tried, a run's folder has the name of its own; the summary has the chosen one alone.
    named = {row["row"]: f"{row['row']}@{row['learning_rate']:g}" for row in found["rows"]}
    folders = {row: name for row, name in named.items() if any(options.exp.glob(f"seed-*/{name}"))}
    for part in options.parts:
        if not any(by_seed(options.exp, folders.get(row, row), part) for row in rows):
            raise UserError(f"{options.exp}: no row has decoded utterances of '{part}' with word times")
        print(f"\n{part}\n")
        heads = ("homophones missed, %", "other words missed, %", "first piece after the word's start, ms")
        heads += ("last piece after its end, ms", "shows something before the first word, % of utterances")
        print(f"| row | {' | '.join(heads)} |")
        print("|---|---|---|---|---|---|")
        for row in rows:
            decoded = list(utterances(options.exp, folders.get(row, row), part))
            if decoded:
                print(f"| `{row}` | {' | '.join(cells(describe(decoded)))} |")
        if against not in rows:
            continue
        print(
            f"\n| row | fewer homophones missed than `{against}`, % (95 %) | fewer of the others | "
            "first token earlier where both have the first word right, ms |"
        )
        print("|---|---|---|---|")
        for row in rows:
            pair = folders.get(row, row), folders.get(against, against)
            if row != against and all(by_seed(options.exp, one, part) for one in pair):
                changes = [compare(options.exp, pair, part, *measure) for measure in MEASURES]
                print(f"| `{row}` | {' | '.join(changes)} |")


if __name__ == "__main__":
    run_tool(main)
