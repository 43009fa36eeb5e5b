"""Scores of a stream that goes on: word errors and latencies of every utterance in it, and by the minute.

The recognized words of a whole stream are aligned with all words that were said in it
(`decoding.timed_alignment`), so the word error rate is that of the stream as one text. An error belongs to
the utterance whose word is wrong or missing; an inserted word to the one in which it was emitted, as far as
the words around it allow. Single utterances are scored in the same way, as streams of one.

Latencies count only words that were recognized and emitted near where they were spoken: a stream says the
same words often, and an alignment may pair a lost one with its like of a minute later.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np

from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.latency import RefWord, energy_onset, word_shown
from kdasr.evaluation.timed_alignment import align_timed_words
from kdasr.evaluation.wer import AlignedPair, ErrorCounts
from kdasr.recognition.result import Result

Record = dict[str, Any]
"""One scored stream: a line of `streams.jsonl` or of `single.jsonl`."""

LATEST_SECONDS = 2.0
"""A word emitted later than this after its end is taken for another one."""
MINUTE = 60.0


@dataclass(frozen=True)
class Placed:
    """An utterance in a stream; all times are seconds of the stream."""

    id: str
    start: float
    end: float
    ref: list[str]
    ref_words: list[RefWord]
    """The words of `ref`. Without an alignment they are spread evenly from the onset to the end."""
    onset: float | None
    """Where its first word begins; without an alignment, where its energy rises. None: nothing is said."""
    aligned: bool
    """Whether word times come from an alignment."""

    def moved(self, seconds: float) -> "Placed":
        """The same utterance so much later."""
        words = [RefWord(word.word, word.start + seconds, word.end + seconds) for word in self.ref_words]
        onset = None if self.onset is None else self.onset + seconds
        return Placed(self.id, self.start + seconds, self.end + seconds, self.ref, words, onset, self.aligned)


def placed(recording: Recording) -> Placed:
    """An utterance as a stream of its own."""
    words, end = recording.ref_words, recording.duration
    if words:
        return Placed(recording.id, 0.0, end, recording.ref, words, words[0].start, aligned=True)
    if not recording.ref:
        return Placed(recording.id, 0.0, end, [], [], None, aligned=False)
    onset = energy_onset(recording.samples_N)
    begin = onset or 0.0
    step = (end - begin) / len(recording.ref)
    spread = [
        RefWord(word, begin + place * step, begin + (place + 1) * step)
        for place, word in enumerate(recording.ref)
    ]
    return Placed(recording.id, 0.0, end, recording.ref, spread, onset, aligned=False)


@dataclass(frozen=True)
class _RecognizedWord:
    """A recognized word; seconds of the stream."""

    word: str
    start: float
    end: float
    shown: float
    confidence: float


def score_stream(utterances: Sequence[Placed], result: Result) -> Record:
    """Score what was recognized of a stream.

    Args:
        utterances: what is in it, in order; at least one.
        result: of the whole stream, all segments in order.

    Returns:
        `duration`, `utterances` (of each: id, start, end, reference, recognized words with their times,
        errors, first-word latency and emission delays in ms) and `minutes` (errors of each minute).
    """
    recognized = _recognized_words(result)
    ref_words = [word for utterance in utterances for word in utterance.ref_words]
    owners = [place for place, utterance in enumerate(utterances) for _ in utterance.ref]
    ref = [word for utterance in utterances for word in utterance.ref]
    pairs = align_timed_words(
        ref,
        [word.word for word in recognized],
        [word.end for word in ref_words],
        [word.end for word in recognized],
    )
    hyp_owners = _owners_of_recognized(pairs, owners, recognized, utterances)
    duration = utterances[-1].end
    errors = _Counts(len(utterances))
    minutes = _Counts(max(1, ceil(duration / MINUTE)))
    correct: dict[int, int] = {}
    for pair in pairs:
        said = ref_words[pair.ref].start if pair.ref is not None else recognized[_known(pair.hyp)].start
        errors.add(owners[pair.ref] if pair.ref is not None else hyp_owners[_known(pair.hyp)], pair)
        minutes.add(int(said // MINUTE), pair)
        if pair.correct:
            correct[_known(pair.ref)] = _known(pair.hyp)
    return {
        "duration": round(duration, 4),
        "utterances": _utterance_records(utterances, recognized, hyp_owners, correct, errors.counts),
        "minutes": [_errors(counts) for counts in minutes.counts],
    }


def _recognized_words(result: Result) -> list[_RecognizedWord]:
    shown = [token.shown for token in result.tokens]
    return [
        _RecognizedWord(word.text, word.start, word.end, word_shown(word, shown), round(word.confidence, 4))
        for word in result.words
    ]


def _owners_of_recognized(
    pairs: Sequence[AlignedPair],
    owners: Sequence[int],
    recognized: Sequence[_RecognizedWord],
    utterances: Sequence[Placed],
) -> list[int]:
    """The utterance that each recognized word counts to."""
    starts = [utterance.start for utterance in utterances]
    before, found = 0, []
    following = len(utterances) - 1
    limits = []
    for pair in reversed(pairs):
        following = owners[pair.ref] if pair.ref is not None else following
        limits.append(following)
    for pair, after in zip(pairs, reversed(limits), strict=True):
        before = owners[pair.ref] if pair.ref is not None else before
        if pair.hyp is not None:
            spoken = bisect_right(starts, recognized[pair.hyp].end) - 1 if pair.ref is None else before
            found.append(min(max(spoken, before), after))
    return found


class _Counts:
    """Errors in a number of bins."""

    def __init__(self, number: int) -> None:
        self.counts = [ErrorCounts()] * number

    def add(self, place: int, pair: AlignedPair) -> None:
        """Count one column of an alignment; what is beyond the first or the last bin counts to that."""
        place = min(max(place, 0), len(self.counts) - 1)
        self.counts[place] += ErrorCounts(
            substitutions=int(pair.ref is not None and pair.hyp is not None and not pair.correct),
            insertions=int(pair.ref is None),
            deletions=int(pair.hyp is None),
            words=int(pair.ref is not None),
        )


def _utterance_records(
    utterances: Sequence[Placed],
    recognized: Sequence[_RecognizedWord],
    hyp_owners: Sequence[int],
    correct: dict[int, int],
    errors: Sequence[ErrorCounts],
) -> list[dict[str, Any]]:
    said_by = [place for place, utterance in enumerate(utterances) for _ in utterance.ref]
    first_of = np.searchsorted(said_by, range(len(utterances)))
    right = set(correct.values())
    words: list[list[dict[str, Any]]] = [[] for _ in utterances]
    for place, (word, owner) in enumerate(zip(recognized, hyp_owners, strict=True)):
        words[owner].append({**asdict(word), "correct": place in right})
    records = []
    for place, utterance in enumerate(utterances):
        first = int(first_of[place])
        near = {
            index: recognized[correct[first + index]]
            for index, word in enumerate(utterance.ref_words)
            if first + index in correct and _is_near(utterance, word, recognized[correct[first + index]])
        }
        records.append(
            {
                "id": utterance.id,
                "start": round(utterance.start, 4),
                "end": round(utterance.end, 4),
                "ref": " ".join(utterance.ref),
                "words": words[place],
                "errors": _errors(errors[place]),
                "onset": None if utterance.onset is None else round(utterance.onset, 4),
                "aligned": utterance.aligned,
                "first_word_ms": _milliseconds(near[0].shown, utterance.onset) if 0 in near else None,
                "emission_delay_ms": [
                    _milliseconds(word.shown, utterance.ref_words[index].end)
                    for index, word in near.items()
                    if utterance.aligned
                ],
            }
        )
    return records


def _is_near(utterance: Placed, word: RefWord, recognized: _RecognizedWord) -> bool:
    """Whether a recognized word can be this one, by when it was emitted."""
    if not utterance.aligned:
        return (utterance.onset or utterance.start) <= recognized.end <= utterance.end + LATEST_SECONDS
    return word.start <= recognized.end <= word.end + LATEST_SECONDS


def _milliseconds(shown: float, since: float | None) -> float | None:
    return None if since is None else round(1000 * (shown - since), 3)


def _errors(counts: ErrorCounts) -> dict[str, int]:
    return {
        "sub": counts.substitutions,
        "ins": counts.insertions,
        "del": counts.deletions,
        "words": counts.words,
    }


def _known(index: int | None) -> int:
    assert index is not None
    return index
