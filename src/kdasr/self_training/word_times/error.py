"""How far word times are from those of a reference alignment, in milliseconds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdasr.evaluation.latency import RefWord

Times = Mapping[str, Sequence[RefWord]]
"""Words by utterance."""


def error_of_times(found: Times, reference: Times) -> dict[str, Any]:
    """Mean and 90th percentile of the absolute error, and the median of the signed one (positive: late).

    Args:
        found: the words to be judged.
        reference: those of the reference; utterances with other words are counted and left out.

    Returns:
        `begin`, `end` and `onset` (the begin of first words), each with `mean`, `p90` and `bias`, in ms; and
        `num_utterances`, `num_words`, `num_different`.
    """
    common = [id for id in found if id in reference]
    same = [id for id in common if _spelled(found[id]) == _spelled(reference[id])]
    pairs = [pair for id in same for pair in zip(found[id], reference[id], strict=True)]
    firsts = [(found[id][0], reference[id][0]) for id in same]
    return {
        "num_utterances": len(same),
        "num_words": len(pairs),
        "num_different": len(common) - len(same),
        "begin": _summary([ours.start - theirs.start for ours, theirs in pairs]),
        "end": _summary([ours.end - theirs.end for ours, theirs in pairs]),
        "onset": _summary([ours.start - theirs.start for ours, theirs in firsts]),
    }


def _spelled(words: Sequence[RefWord]) -> list[str]:
    return [word.word for word in words]


def _summary(seconds: Sequence[float]) -> dict[str, float | None]:
    if not seconds:
        return {"mean": None, "p90": None, "bias": None}
    errors = 1000.0 * np.asarray(seconds)
    return {
        "mean": float(np.abs(errors).mean()),
        "p90": float(np.percentile(np.abs(errors), 90)),
        "bias": float(np.median(errors)),
    }
