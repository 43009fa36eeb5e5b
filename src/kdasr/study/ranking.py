"""All streaming rows on the dev parts together, the best first: the evidence for the recommended row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdasr.evaluation.statistics import Interval
from kdasr.study.seeds import Draws, Floats, gain_over_seeds, reduction_over_seeds, wer_over_seeds
from kdasr.study.trained_run import (
    TrainedRun,
    Value,
    common_ids,
    errors_of,
    finite,
    first_token_of,
    first_word_of,
    matrix,
    mean_of,
    speakers_by_id,
    words_of,
)

# Shapes: S seeds, N utterances of all dev parts.


@dataclass(frozen=True)
class Ranked:
    """One row on the dev parts, over the seeds that every ranked row has."""

    row: str
    steps: int
    wer: Interval
    wer_by_part: dict[str, float | None]
    """None where nothing is said."""
    first_word_ms: float | None
    """On the utterances whose first word is right."""
    first_token_ms: float | None
    fewer: Interval
    """Percent fewer errors than the row that all are ranked against; paired."""
    earlier: Interval
    """How much earlier than the row that all are ranked against it shows its first token, ms; paired."""
    word_earlier: Interval
    """The same of the first word, where both have it right."""

    def as_json(self) -> dict[str, Any]:
        """The entry of `ranking` in `summary.json`."""
        return {
            "row": self.row,
            "train_steps": self.steps,
            "wer": finite(self.wer.estimate),
            "wer_ci": [finite(self.wer.low), finite(self.wer.high)],
            "wer_by_part": self.wer_by_part,
            "first_word_ms": self.first_word_ms,
            "first_word_gain_ms": finite(self.word_earlier.estimate),
            "first_word_ci": [finite(self.word_earlier.low), finite(self.word_earlier.high)],
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


def rank(
    runs: Mapping[str, Mapping[str, dict[int, TrainedRun]]], against: str, seeds: Sequence[int]
) -> Ranking | None:
    """Rank rows by their errors on all dev parts together; None if `against` is not among them.

    Only the seeds that all rows have count, so that no row profits from an easy teacher.

    Args:
        runs: of complete rows that stream, by row, dev part and seed.
        against: the row that the others are compared with.
        seeds: in their order.
    """
    if against not in runs:
        return None
    parts = list(runs[against])
    seeds = [seed for seed in seeds if all(seed in found for row in runs.values() for found in row.values())]
    if not seeds:
        return None
    ids = {
        part: common_ids([row[part][seed].parts[part] for row in runs.values() for seed in seeds])
        for part in parts
    }

    def values(row: str, value: Value, among: Sequence[str] = parts) -> Floats:
        return np.concatenate(
            [matrix(runs[row][part], seeds, part, ids[part], value) for part in among], axis=1
        )

    words_SN, reference_SN = values(against, words_of), values(against, errors_of)
    reference_first_SN, reference_word_SN = values(against, first_token_of), values(against, first_word_of)
    draws = Draws(speakers=_speakers(runs[against], seeds[0], ids))

    def ranked(row: str) -> Ranked:
        errors_SN, first_SN = values(row, errors_of), values(row, first_token_of)
        word_SN = values(row, first_word_of)
        return Ranked(
            row=row,
            steps=runs[row][parts[0]][seeds[0]].info.steps,
            wer=wer_over_seeds(errors_SN, words_SN, draws),
            wer_by_part={
                part: _rate(values(row, errors_of, [part]), values(row, words_of, [part])) for part in parts
            },
            first_token_ms=mean_of(first_SN[np.isfinite(first_SN)].tolist()),
            first_word_ms=mean_of(word_SN[np.isfinite(word_SN)].tolist()),
            fewer=reduction_over_seeds(errors_SN, reference_SN, draws),
            earlier=gain_over_seeds(first_SN, reference_first_SN, draws),
            word_earlier=gain_over_seeds(word_SN, reference_word_SN, draws),
        )

    return Ranking(
        parts=parts,
        seeds=list(seeds),
        num_utterances=words_SN.shape[1],
        num_words=int(words_SN[0].sum()),
        rows=sorted(map(ranked, runs), key=lambda entry: entry.wer.estimate),
    )


def _rate(errors_SN: Floats, words_SN: Floats) -> float | None:
    """Percent; None without words."""
    words = words_SN.sum()
    return float(100 * errors_SN.sum() / words) if words else None


def _speakers(
    row: Mapping[str, dict[int, TrainedRun]], seed: int, ids: Mapping[str, list[str]]
) -> list[str] | None:
    """The speaker of each utterance of all parts; None unless all are known."""
    found = [speakers_by_id(row[part][seed].parts[part], chosen) for part, chosen in ids.items()]
    known = [names for names in found if names is not None]
    return [name for names in known for name in names] if len(known) == len(found) else None
