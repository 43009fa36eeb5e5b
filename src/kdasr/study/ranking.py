"""All streaming rows on the dev parts together, the best first: the evidence for the row that is shipped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdasr.evaluation.statistics import Interval
from kdasr.study.seeds import Floats, gain_over_seeds, reduction_over_seeds, wer_over_seeds
from kdasr.study.trained_run import (
    Value,
    common_ids,
    errors_of,
    finite,
    first_token_of,
    matrix,
    mean_of,
    words_of,
)

if TYPE_CHECKING:
    from kdasr.study.evidence import Evidence

# Shapes: S seeds, N utterances of all dev parts.


@dataclass(frozen=True)
class Ranked:
    """One row on the dev parts, over the seeds that every ranked row has."""

    row: str
    steps: int
    wer: Interval
    wer_by_part: dict[str, float]
    first_token_ms: float | None
    fewer: Interval
    """Percent fewer errors than the shipped row; paired."""
    earlier: Interval
    """How much earlier than the shipped row it shows its first token, ms; paired."""

    def as_json(self) -> dict[str, Any]:
        """The entry of `ranking` in `summary.json`."""
        return {
            "row": self.row,
            "train_steps": self.steps,
            "wer": finite(self.wer.estimate),
            "wer_ci": [finite(self.wer.low), finite(self.wer.high)],
            "wer_by_part": self.wer_by_part,
            "first_token_ms": self.first_token_ms,
            "wer_rel_reduction": finite(self.fewer.estimate),
            "wer_rel_reduction_ci": [finite(self.fewer.low), finite(self.fewer.high)],
            "first_token_gain_ms": finite(self.earlier.estimate),
            "first_token_ci": [finite(self.earlier.low), finite(self.earlier.high)],
        }


@dataclass(frozen=True)
class Ranking:
    """The rows by dev WER, lowest first, and what it rests on."""

    parts: list[str]
    seeds: list[int]
    num_utterances: int
    num_words: int
    rows: list[Ranked]


def rank(evidence: "Evidence") -> Ranking | None:
    """Rank every row that streams and has all its seeds; None without dev parts or a shipped row among them.

    Only the seeds that all of these have count, so that no row profits from an easy teacher.
    """
    parts = [part for part in evidence.parts if not part.startswith("test")]
    incomplete = evidence.incomplete()
    rows = [row for row in evidence.rows if row != evidence.bound and row not in incomplete]
    if not parts or evidence.shipped not in rows:
        return None
    runs = {(row, part): evidence.by_seed(row, part) for row in rows for part in parts}
    seeds = [seed for seed in evidence.seeds if all(seed in found for found in runs.values())]
    if not seeds:
        return None
    ids = {
        part: common_ids([runs[row, part][seed].parts[part] for row in rows for seed in seeds])
        for part in parts
    }

    def values(row: str, value: Value, among: list[str] = parts) -> Floats:
        return np.concatenate(
            [matrix(runs[row, part], seeds, part, ids[part], value) for part in among], axis=1
        )

    words_SN, shipped_SN = values(evidence.shipped, words_of), values(evidence.shipped, errors_of)
    shipped_first_SN = values(evidence.shipped, first_token_of)

    def ranked(row: str) -> Ranked:
        errors_SN, first_SN = values(row, errors_of), values(row, first_token_of)
        return Ranked(
            row=row,
            steps=runs[row, parts[0]][seeds[0]].info.steps,
            wer=wer_over_seeds(errors_SN, words_SN),
            wer_by_part={
                part: 100 * values(row, errors_of, [part]).sum() / values(row, words_of, [part]).sum()
                for part in parts
            },
            first_token_ms=mean_of(first_SN[np.isfinite(first_SN)].tolist()),
            fewer=reduction_over_seeds(errors_SN, shipped_SN),
            earlier=gain_over_seeds(first_SN, shipped_first_SN),
        )

    return Ranking(
        parts=parts,
        seeds=seeds,
        num_utterances=words_SN.shape[1],
        num_words=int(words_SN[0].sum()),
        rows=sorted(map(ranked, rows), key=lambda entry: entry.wer.estimate),
    )
