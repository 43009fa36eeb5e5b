"""Numbers of the report: a row per system and part, and paired comparisons between systems."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdasr.evaluation.latency_summary import (
    FirstWordGain,
    compare_first_words,
    first_token_shares,
    first_word_summary,
)
from kdasr.evaluation.statistics import (
    Interval,
    bootstrap_wer,
    paired_bootstrap,
    relative_reduction,
    speakers_of,
    summarize,
)
from kdasr.report.confidence import Confidence, confidence_of
from kdasr.report.experiment import frame_seconds_of
from kdasr.report.records import DecodedPart, DecodedUtterance, SystemRecord
from kdasr.report.roles import Roles

Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class ResultRow:
    """One system on one part. Latencies in ms, WER and CER in percent."""

    system: str
    part: str
    mode: str
    wer: Interval
    cer: Interval
    measure: str
    """Which of the two says more: `cer` where words are not separated by spaces, else `wer`."""
    num_words: int
    num_utterances: int
    first_word_ms: Summary
    """`summarize` of the utterances whose first word is right, `wall_mean`, and `coverage`, their share."""
    first_tokens: Summary
    """Shares of utterances whose first token was right, wrong, premature or missing, and their `count`."""
    first_token_ms: Summary
    """`summarize` of the algorithmic latency, and `wall_mean`."""
    emission_delay_ms: Summary
    finalization_ms: Summary
    rtf: float | None
    train_steps: int | None
    params: int | None
    context: str
    onset: str
    confidence: Confidence | None
    """Of its words; None where they have none."""
    frame_ms: float
    """Duration of an encoder frame."""
    wait_frames: int | None = None
    """Encoder frames that are waited for (`Geometry.wait_frames`). None: those of chunk and look-ahead."""
    blank_penalty: float = 0.0
    """Chosen on dev by `kdasr calibrate`, part of the model."""
    gains: Sequence[Mapping[str, Any]] = ()
    """Error rates when all recordings are louder or quieter: `gain_db`, `wer` and `cer` each."""

    @property
    def error_rate(self) -> Interval:
        """What `measure` names."""
        return self.cer if self.measure == "cer" else self.wer

    @property
    def waits_for_end(self) -> bool:
        """Whether the system shows nothing before the end of the utterance."""
        return self.context == "full"

    def as_json(self) -> dict[str, Any]:
        """The row in the format of `results.json`; None where nothing was measured."""
        return {
            "system": self.system,
            "part": self.part,
            "wer": _finite(self.wer.estimate),
            "wer_ci": [_finite(self.wer.low), _finite(self.wer.high)],
            "cer": _finite(self.cer.estimate),
            "cer_ci": [_finite(self.cer.low), _finite(self.cer.high)],
            "measure": self.measure,
            "num_words": self.num_words,
            "num_utterances": self.num_utterances,
            "num_speakers": self.wer.speakers,
            "first_word_ms": self.first_word_ms,
            "first_tokens": self.first_tokens,
            "first_token_ms": self.first_token_ms,
            "emission_delay_ms": self.emission_delay_ms,
            "finalization_ms": self.finalization_ms,
            "rtf": self.rtf,
            "train_steps": self.train_steps,
            "params": self.params,
            "mode": self.mode,
            "context": self.context,
            "onset": self.onset,
            "confidence": self.confidence.as_json() if self.confidence else None,
            "blank_penalty": self.blank_penalty,
            **({"gains": list(self.gains)} if self.gains else {}),
        }


@dataclass(frozen=True)
class PairedGain:
    """`row` against `baseline` on the utterances of one part that both decoded."""

    row: str
    baseline: str
    part: str
    wer: Interval
    """Relative reduction of the errors that `measure` counts, in percent; positive: `row` makes fewer."""
    first_word: FirstWordGain
    """How much earlier `row` shows its first word, where both have it right."""
    first_token: Interval
    """How much earlier `row` shows its first token, whatever it says, ms; positive: earlier."""
    row_wer: float
    baseline_wer: float
    row_steps: int | None
    baseline_steps: int | None
    measure: str = "wer"
    """Of the part: `wer`, or `cer` where words are not separated by spaces."""

    @property
    def equal_steps(self) -> bool:
        """Whether both systems trained for the same number of steps, as far as is known."""
        return self.row_steps == self.baseline_steps

    def as_json(self) -> dict[str, Any]:
        """The comparison in the format of `comparisons.json`."""
        return {
            "row": self.row,
            "baseline": self.baseline,
            "part": self.part,
            "wer_rel_reduction": _finite(self.wer.estimate),
            "wer_ci": [_finite(self.wer.low), _finite(self.wer.high)],
            "num_utterances": self.wer.count,
            "num_speakers": self.wer.speakers,
            **self.first_word.as_json(),
            "first_token_gain_ms": _finite(self.first_token.estimate),
            "first_token_ci": [_finite(self.first_token.low), _finite(self.first_token.high)],
            "num_first_token_pairs": self.first_token.count,
            "row_wer": self.row_wer,
            "baseline_wer": self.baseline_wer,
            "measure": self.measure,
            "row_train_steps": self.row_steps,
            "baseline_train_steps": self.baseline_steps,
        }


def result_rows(systems: Sequence[SystemRecord]) -> list[ResultRow]:
    """A row per system and decoded part, in the order of `systems`."""
    return [_result_row(system, part) for system in systems for part in system.parts.values()]


def _result_row(system: SystemRecord, decoded: DecodedPart) -> ResultRow:
    utterances, summary = list(decoded.utterances.values()), decoded.summary
    words = [utterance.num_words for utterance in utterances]
    first = [value for u in utterances if (value := u.first_token_ms) is not None]
    wall = [value for u in utterances if (value := u.first_token_wall_ms) is not None]
    final = [value for u in utterances if (value := u.finalization_ms) is not None]
    word_wall = [value for u in utterances if (value := u.first_word_wall_ms) is not None]
    firsts = [u.first_token for u in utterances]
    speakers = speakers_in(utterances)
    return ResultRow(
        system=system.name,
        part=decoded.part,
        mode=decoded.mode,
        wer=bootstrap_wer([utterance.num_errors for utterance in utterances], words, speakers=speakers),
        cer=bootstrap_wer(
            [utterance.num_char_errors for utterance in utterances],
            [u.num_chars for u in utterances],
            speakers=speakers,
        ),
        measure=decoded.measure,
        num_words=sum(words),
        num_utterances=len(utterances),
        first_word_ms={
            **first_word_summary([u.first_word_ms for u in utterances], firsts),
            "wall_mean": sum(word_wall) / len(word_wall) if word_wall else None,
        },
        first_tokens=first_token_shares(firsts),
        first_token_ms={**summarize(first), "wall_mean": sum(wall) / len(wall) if wall else None},
        emission_delay_ms=summarize([delay for u in utterances for delay in u.emission_delay_ms]),
        finalization_ms=summarize(final),
        rtf=summary.get("rtf"),
        train_steps=summary.get("train_steps"),
        params=summary.get("params"),
        context=str(summary.get("context", "")),
        onset=str(summary.get("onset") or ""),
        confidence=confidence_of(decoded),
        frame_ms=1000 * frame_seconds_of(summary),
        wait_frames=summary.get("wait_frames"),
        blank_penalty=float(summary.get("calibrated_blank_penalty") or 0.0),
        gains=decoded.gains,
    )


def comparisons(systems: Sequence[SystemRecord], roles: Roles) -> list[PairedGain]:
    """Every student against each of its baselines, by part."""
    by_name = {system.name: system for system in systems}
    found = []
    for row in systems:
        if row.name in roles.teachers:
            continue
        for baseline in roles.baselines_of(row.name):
            for part in row.parts if baseline in by_name else ():
                compared = compare(row, by_name[baseline], part)
                if compared is not None:
                    found.append(compared)
    return found


def compare(row: SystemRecord, baseline: SystemRecord, part: str) -> PairedGain | None:
    """`row` against `baseline`, paired by utterance; None without a common utterance."""
    if part not in row.parts or part not in baseline.parts:
        return None
    ours, theirs = row.parts[part], baseline.parts[part]
    ids = [id for id in ours.utterances if id in theirs.utterances]
    pairs = [(ours.utterances[id], theirs.utterances[id]) for id in ids]
    measure = theirs.measure
    lengths = [sum(_errors(one, measure)[1] for one in found) for found in zip(*pairs, strict=True)]
    if not pairs or 0 in lengths:
        return None
    speakers = speakers_in([a for a, _ in pairs])
    both = [
        (a, x, y)
        for a, b in pairs
        if (x := a.first_token_ms) is not None and (y := b.first_token_ms) is not None
    ]
    # Where an onset is not known, as in a whole utterance, nobody can say whether the first word was in time.
    timed = [(a, b) for a, b in pairs if a.first_token is not None and b.first_token is not None]
    errors_row, errors_base = ([_errors(u, measure)[0] for u in found] for found in zip(*pairs, strict=True))
    return PairedGain(
        row=row.name,
        baseline=baseline.name,
        part=part,
        wer=relative_reduction(errors_row, errors_base, speakers=speakers),
        first_word=compare_first_words(
            {a.id: a.first_word_ms for a, _ in timed},
            {b.id: b.first_word_ms for _, b in timed},
            None if speakers is None else dict(zip(ids, speakers, strict=True)),
        ),
        first_token=paired_bootstrap(
            [y for _, _, y in both],
            [x for _, x, _ in both],
            speakers=speakers_in([a for a, _, _ in both]),
        ),
        row_wer=100 * sum(errors_row) / lengths[0],
        baseline_wer=100 * sum(errors_base) / lengths[1],
        row_steps=ours.summary.get("train_steps"),
        baseline_steps=theirs.summary.get("train_steps"),
        measure=measure,
    )


def speakers_in(utterances: Sequence[DecodedUtterance]) -> list[str] | None:
    """The speaker of each; None unless all are known. An id in LibriSpeech's form names its speaker."""
    return speakers_of([u.id for u in utterances], [u.speaker for u in utterances])


def _errors(utterance: DecodedUtterance, measure: str) -> tuple[int, int]:
    """Errors, and the length of the reference, in words or in characters."""
    if measure == "cer":
        return utterance.num_char_errors, utterance.num_chars
    return utterance.num_errors, utterance.num_words


def part_names(rows: Sequence[ResultRow]) -> list[str]:
    """Parts of the report, in the order of `part_order`."""
    return part_order([row.part for row in rows])


def part_order(parts: Sequence[str]) -> list[str]:
    """Each part once, `test-clean` before `test-other` and both before any other."""
    known = {"test-clean": 0, "test-other": 1}
    return sorted(set(parts), key=lambda part: (known.get(part, len(known)), part))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
