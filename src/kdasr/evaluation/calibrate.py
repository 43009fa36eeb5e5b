"""What only dev speech can tell of a trained recognizer: which blank penalty suits it, and how far its
confidence in its words may be believed.

A transducer that is unsure emits nothing, so that most errors in noise are deletions. A penalty on the
blank's logit takes that back; too large a one makes it hear words where there are none, which is why
recordings are followed by a pause here. In a stream that goes on more words are deleted than in single
utterances, so both count.
"""

# Shapes: N samples.

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from kdasr.common.calibration import fit_calibration
from kdasr.common.logging import get_logger
from kdasr.decoding.confidence import area_under_curve, calibration_error
from kdasr.decoding.search import GreedyOptions, build_search
from kdasr.evaluation.batches import batches_of
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.joining import Pause
from kdasr.evaluation.measure import Writing
from kdasr.evaluation.wer import ErrorCounts, align_words, character_errors, count_errors
from kdasr.recognition.offline import encode_recordings, search_encoded
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Word

log = get_logger(__name__)

FEW = 20
"""Words of a kind; from fewer, a calibration is a guess."""
PENALTIES = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
AFTERWARDS = Pause(2.0, "quiet")
"""What follows each recording by itself."""
GAPS = (Pause(0.3, "quiet"), Pause(), Pause(3.0, "quiet"), Pause(1.0, "quiet"))
"""What follows the recordings of a stream, in turn."""
STREAM_SECONDS = 30.0
"""Length of a stream at most, if it has more than one recording."""


@dataclass
class _Tally:
    """What counts of all that was recognized under one penalty: a few bytes per word."""

    words: ErrorCounts = field(default_factory=ErrorCounts)
    characters: ErrorCounts = field(default_factory=ErrorCounts)
    raw: list[float] = field(default_factory=list)
    """Of each recognized word, its confidence."""
    correct: list[bool] = field(default_factory=list)
    """Whether it is the same word of the transcript."""

    def add(self, ref: Sequence[str], words: Sequence[Word]) -> None:
        """The words of a transcript, and those that were recognized."""
        hyp = [word.text for word in words]
        pairs = align_words(ref, hyp)
        self.words += count_errors(pairs)
        self.characters += character_errors(ref, hyp)
        right = {pair.hyp for pair in pairs if pair.correct}
        self.raw += [word.confidence for word in words]
        self.correct += [index in right for index in range(len(words))]

    @property
    def rates(self) -> dict[str, float]:
        """Error rates of words and characters in percent."""
        return {"wer": self.words.rate, "cer": self.characters.rate}


def calibrate(recognizer: StreamingRecognizer, recordings: Iterable[Recording]) -> dict[str, Any]:
    """Choose the blank penalty with the fewest errors, and fit the map from raw confidence to the share of
    words that are right under it.

    Each recording is recognized by itself and, under a chunked context, once more in a stream with others; by
    greedy search and without chunks, which gives the words and confidences of streams under the same context.
    A recognized word is right when it is aligned to the same word of the transcript.

    Args:
        recognizer: without a calibration, and with the weights as training left them.
        recordings: with transcripts, in the order in which they were spoken; not those that anything is
            tested on.

    Returns:
        `blank_penalty`, the least of those with the fewest errors, and the error rates of all `penalties`
        that were tried. Under the chosen one: `calibration` (`slope` and `offset`, or None when these words
        cannot say), the number of `words` and of those that are `wrong`, the area under the ROC curve `auc`,
        and the expected calibration error as the model has it (`ece_raw`) and after the map (`ece`); None
        where there is nothing to measure.

    Raises:
        ValueError: a recognizer that is calibrated already.
    """
    if recognizer.calibration is not None:
        raise ValueError("calibrated already: its confidences are not those of the model")
    found, writing = _recognize(recognizer, recordings)
    measure = writing.measure
    rates = {penalty: tally.rates for penalty, tally in found.items()}
    # In ascending order, so that the least of equals is the first.
    chosen = min(PENALTIES, key=lambda penalty: rates[penalty][measure])
    if chosen == PENALTIES[-1]:
        log.warning("the largest blank penalty tried, %g, is the best: most words are missed", chosen)
    return {
        "blank_penalty": chosen,
        "penalties": [{"blank_penalty": penalty, **rates[penalty]} for penalty in PENALTIES],
        **_confidence(found[chosen]),
    }


def _recognize(
    recognizer: StreamingRecognizer, recordings: Iterable[Recording]
) -> tuple[dict[float, _Tally], Writing]:
    """What is recognized under each penalty, and how its transcripts are written; the encoder runs once."""
    searches = {
        penalty: build_search(recognizer.model, GreedyOptions(blank_penalty=penalty)) for penalty in PENALTIES
    }
    found, writing = {penalty: _Tally() for penalty in PENALTIES}, Writing()
    for batch in batches_of(_heard(recordings, in_streams=not recognizer.needs_end)):
        encoded = encode_recordings(recognizer, [recording.samples_N[:] for recording in batch])
        writing += Writing.of(" ".join(recording.ref) for recording in batch)
        for penalty, search in searches.items():
            results = search_encoded(recognizer, search, encoded)
            for recording, result in zip(batch, results, strict=True):
                found[penalty].add(recording.ref, result.words)
    return found, writing


def _heard(recordings: Iterable[Recording], in_streams: bool) -> Iterator[Recording]:
    """Each recording with a pause after it, and once more in a stream of its neighbors."""
    stream: list[Recording] = []
    for number, recording in enumerate(recordings):
        yield _joined([recording], [AFTERWARDS], number)
        if stream and sum(other.duration for other in stream) + recording.duration > STREAM_SECONDS:
            yield _joined(stream, GAPS, number)
            stream = []
        if in_streams:
            stream.append(recording)
    if stream:
        yield _joined(stream, GAPS, -1)


def _joined(recordings: Sequence[Recording], pauses: Sequence[Pause], seed: int) -> Recording:
    """Some recordings as one, each followed by one of the pauses in turn."""
    parts = []
    for index, recording in enumerate(recordings):
        parts += [recording.samples_N[:], pauses[index % len(pauses)].samples([seed + 1, index])]
    words = [word for recording in recordings for word in recording.ref]
    return Recording(recordings[0].id, np.concatenate(parts), words, [])


def _confidence(tally: _Tally) -> dict[str, Any]:
    """The map of confidences and how good it is: see `calibrate`."""
    raw, correct = tally.raw, tally.correct
    wrong = len(correct) - sum(correct)
    calibration = fit_calibration(raw, correct)
    if calibration is None:
        log.warning("%d words, %d of them wrong: nothing to calibrate confidences with", len(correct), wrong)
    elif min(wrong, len(correct) - wrong) < FEW:
        log.warning("%d words, %d of them wrong: the calibration is a guess", len(correct), wrong)
    mapped = [calibration(value) for value in raw] if calibration else raw
    return {
        "calibration": asdict(calibration) if calibration else None,
        "words": len(correct),
        "wrong": wrong,
        "auc": area_under_curve(raw, correct),
        "ece_raw": calibration_error(raw, correct),
        "ece": calibration_error(mapped, correct),
    }
