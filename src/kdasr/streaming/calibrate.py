"""How far a recogniser's confidence in its words may be believed, measured on speech with transcripts."""

from collections.abc import Iterable
from dataclasses import asdict
from itertools import chain
from typing import Any

from kdasr.common.calibration import fit_calibration
from kdasr.common.logging import get_logger
from kdasr.decoding.confidence import area_under_curve, calibration_error
from kdasr.decoding.wer import align_words
from kdasr.streaming.evaluate import Recording, decode_offline
from kdasr.streaming.recognizer import StreamingRecognizer

log = get_logger(__name__)

FEW = 20
"""Words of a kind; from fewer, a calibration is a guess."""


def calibrate(recognizer: StreamingRecognizer, recordings: Iterable[Recording]) -> dict[str, Any]:
    """Fit the map from raw confidence to the share of words that are right.

    Recordings are recognised whole, which gives the words and confidences of streams under the same context.
    A recognised word is right when it is aligned to the same word of the transcript.

    Args:
        recognizer: without a calibration.
        recordings: with transcripts; not those that anything is tested on.

    Returns:
        `calibration` (`slope` and `offset`, or None when these words cannot say), the number of `words` and
        of those that are `wrong`, the area under the ROC curve `auc`, and the expected calibration error as
        the model has it (`ece_raw`) and after the map (`ece`); None where there is nothing to measure.

    Raises:
        ValueError: a recogniser that is calibrated already.
    """
    if recognizer.calibration is not None:
        raise ValueError("calibrated already: its confidences are not those of the model")
    raw: list[float] = []
    correct: list[bool] = []
    batches = decode_offline(recognizer, recordings)
    for recording, simulation in chain.from_iterable(batches):
        words = simulation.result.words
        pairs = align_words(recording.ref, [word.text for word in words])
        right = {pair.hyp for pair in pairs if pair.correct}
        raw += [word.confidence for word in words]
        correct += [index in right for index in range(len(words))]
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
