"""Which words a streaming model misses and when it shows the others: `python tools/explain_results.py [EXP]`.

Reads what `make results` decoded. Homophones are words that sound like another one and that only the words
after them tell apart; a correct word's timing is that of its pieces' frames against its own start and end.
All seeds of a row count together.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.files import read_json
from kdasr.data.synthetic.lookahead import homophone_pairs
from kdasr.nn.context import FRAME_SECONDS
from kdasr.streaming.result import group_words

HOMOPHONES = frozenset(word.upper() for pair in homophone_pairs() for word in pair)


def utterances(exp: Path, row: str, part: str) -> Iterator[dict[str, Any]]:
    """Every decoded utterance of a row, seed by seed."""
    for path in sorted(exp.glob(f"seed-*/{row}/decode/*/{part}/utterances.jsonl")):
        for line in path.read_text().splitlines():
            yield json.loads(line)


def describe(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of missed words by kind, and medians of the timing of the others in milliseconds."""
    missed: dict[bool, list[bool]] = {True: [], False: []}
    begins, ends = [], []
    for utterance in found:
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
    }


def cells(values: dict[str, float]) -> list[str]:
    return [f"{value:.{1 if name in ('homophones', 'others') else 0}f}" for name, value in values.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("exp", type=Path, nargs="?", default=Path("exp/results"))
    parser.add_argument("--parts", nargs="+", default=["test-clean", "test-other"])
    options = parser.parse_args()
    # Of a recipe of unpaired speech, the summary is a list, and the comparisons are beside it.
    files = [options.exp / name for name in ("comparisons.json", "summary.json")]
    summary = next((path for path in files if path.is_file()), None)
    if summary is None:
        raise SystemExit(f"there is no {files[1]}; `make results` makes one")
    found = read_json(summary)
    rows = list(dict.fromkeys(row["row"] for row in found["rows"]))
    # Where rates were tried, a run's folder has the name of its own; that of the chosen one counts.
    folders = {
        entry["row"]: f"{entry['row']}@{entry['learning_rate']:g}"
        for entry in found["tuned"]
        if entry["learning_rate"] is not None
    }
    for part in options.parts:
        print(f"\n{part}\n")
        heads = ("homophones missed, %", "other words missed, %", "first piece after the word's start, ms")
        print(f"| row | {' | '.join((*heads, 'last piece after its end, ms'))} |")
        print("|---|---|---|---|---|")
        for row in rows:
            decoded = list(utterances(options.exp, folders.get(row, row), part))
            if decoded:
                print(f"| `{row}` | {' | '.join(cells(describe(decoded)))} |")


if __name__ == "__main__":
    main()
