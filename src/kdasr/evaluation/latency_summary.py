"""First words and first tokens of many utterances: summaries, and two systems compared.

Shapes: N utterances.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.statistics import Interval, paired_bootstrap, summarize

Latencies = Mapping[str, float | None]
"""First-word latency in ms by utterance; None where the first word was not recognized."""


def first_word_summary(
    latencies: Sequence[float | None], firsts: Sequence[str | None]
) -> dict[str, float | int | None]:
    """`summarize` of the utterances whose first word is right, and `coverage`, their share.

    Args:
        latencies: (N,) ms, None where it is not right.
        firsts: (N,) what the first token was; None for utterances that cannot be timed, which do not count.
    """
    timed = sum(first is not None for first in firsts)
    found = summarize([latency for latency in latencies if latency is not None])
    return {**found, "coverage": int(found["count"] or 0) / timed if timed else None}


def first_token_shares(firsts: Sequence[str | None]) -> dict[str, float | int | None]:
    """The share of each `FirstToken` among the utterances that can be timed, and their `count`."""
    known = [first for first in firsts if first is not None]
    return {
        **{kind.value: known.count(kind.value) / len(known) if known else None for kind in FirstToken},
        "count": len(known),
    }


@dataclass(frozen=True)
class FirstWordGain:
    """Two systems on the utterances of which both have the first word right."""

    gain: Interval
    """How much earlier the system shows it than the baseline, in ms; positive: earlier."""
    coverage: float | None
    """Share of those utterances among all that both decoded and that can be timed; None without any."""

    def as_json(self) -> dict[str, Any]:
        """The entries of a comparison in a file."""
        gain, low, high = (
            value if math.isfinite(value) else None
            for value in (self.gain.estimate, self.gain.low, self.gain.high)
        )
        return {
            "first_word_gain_ms": gain,
            "first_word_ci": [low, high],
            "num_first_word_pairs": self.gain.count,
            "first_word_coverage": self.coverage,
        }


def compare_first_words(
    ours: Latencies, theirs: Latencies, speakers: Mapping[str, str] | None = None
) -> FirstWordGain:
    """`theirs - ours` on the utterances that both have right.

    Args:
        ours: of the system, without the utterances that cannot be timed.
        theirs: of the baseline.
        speakers: by utterance; None: not known.
    """
    common = [id for id in ours if id in theirs]
    pairs = [
        (id, us, them) for id in common if (us := ours[id]) is not None and (them := theirs[id]) is not None
    ]
    gain = paired_bootstrap(
        [them for _, _, them in pairs],
        [us for _, us, _ in pairs],
        speakers=None if speakers is None else [speakers[id] for id, _, _ in pairs],
    )
    return FirstWordGain(gain, len(pairs) / len(common) if common else None)
