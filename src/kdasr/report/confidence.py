"""How far the confidence of recognized words may be believed, for a part."""

from dataclasses import asdict, dataclass
from typing import Any

from kdasr.decoding.confidence import ReliabilityBin, area_under_curve, calibration_error, reliability
from kdasr.report.records import DecodedPart


@dataclass(frozen=True)
class Confidence:
    """Of the recognized words of one system on one part."""

    words: int
    wrong: int
    """Words that are not aligned to the same word of the reference."""
    auc: float | None
    """Area under the ROC curve against word errors; None when all words are right, or all wrong."""
    ece: float
    """Expected calibration error."""
    calibrated: bool
    reliability: list[ReliabilityBin]

    def as_json(self) -> dict[str, Any]:
        """For `results.json`."""
        return asdict(self)


def confidence_of(decoded: DecodedPart) -> Confidence | None:
    """None when there are no words, or they were decoded before they had a confidence."""
    words = [word for utterance in decoded.utterances.values() for word in utterance.words]
    values = [word.confidence for word in words if word.confidence is not None]
    if not values or len(values) < len(words):
        return None
    correct = [word.ref_index is not None for word in words]
    error = calibration_error(values, correct)
    assert error is not None
    return Confidence(
        words=len(words),
        wrong=len(words) - sum(correct),
        auc=area_under_curve(values, correct),
        ece=error,
        calibrated=decoded.summary.get("calibration") is not None,
        reliability=reliability(values, correct),
    )
