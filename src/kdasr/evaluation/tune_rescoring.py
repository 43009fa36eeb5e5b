"""The weights of n-best rescoring, chosen on dev speech: of the language model, and of each word.

Every utterance's hypotheses are scored once; then every pair of weights of a grid chooses among them, and the
pair with the fewest errors stands. Of several, the one with the smallest weights.
"""

# Shapes: U utterances, N hypotheses of each, G language-model weights, W word bonuses.

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.data.text_normalization import split_words
from kdasr.decoding.rescoring import CountWords, SentenceScorer, sentence_scores
from kdasr.evaluation.batches import batches_of
from kdasr.evaluation.evaluate import Recording
from kdasr.evaluation.measure import Writing
from kdasr.evaluation.wer import character_errors, word_errors
from kdasr.recognition.offline import recognize_offline
from kdasr.recognition.recognizer import StreamingRecognizer

SCALES = tuple(round(0.05 * step, 2) for step in range(31))
BONUSES = tuple(round(0.25 * step, 2) for step in range(-4, 25))
"""Nats per word, from -1 to 6."""


@dataclass(frozen=True)
class Scored:
    """The hypotheses of an utterance, the best first, with what decides between them."""

    scores: list[float]
    """Of the search, natural logarithms."""
    lm_scores: list[float]
    """Of the language model, ends included."""
    words: list[int]
    errors: list[int]


class Tuned(NamedTuple):
    """Weights, and what they come to on the speech that they were chosen on."""

    scale: float
    bonus: float
    errors: int
    errors_before: int
    """Of the first hypotheses, without the language model."""
    errors_best: int
    """Of the best hypotheses of the lists: what no weights can pass."""


def choose_weights(
    utterances: Sequence[Scored], scales: Sequence[float] = SCALES, bonuses: Sequence[float] = BONUSES
) -> Tuned:
    """The weights with the fewest errors.

    Args:
        utterances: each with a hypothesis at least.
        scales: weights of the language model to try.
        bonuses: of each word.
    """
    errors_GW = np.zeros((len(scales), len(bonuses)), np.int64)
    for one in utterances:
        best_GW = _totals(one, scales, bonuses).argmax(axis=-1)
        errors_GW += np.array(one.errors)[best_GW]
    fewest = errors_GW.min()
    found = [(scales[g], bonuses[w]) for g, w in np.argwhere(errors_GW == fewest).tolist()]
    scale, bonus = min(found, key=lambda pair: (abs(pair[0]), abs(pair[1])))
    before = sum(one.errors[0] for one in utterances)
    return Tuned(scale, bonus, int(fewest), before, sum(min(one.errors) for one in utterances))


def _totals(one: Scored, scales: Sequence[float], bonuses: Sequence[float]) -> NDArray[np.float64]:
    """`score + scale * LM score + bonus * words` (G, W, N)."""
    lm_GN = np.multiply.outer(np.array(scales), np.array(one.lm_scores))
    words_WN = np.multiply.outer(np.array(bonuses), np.array(one.words))
    totals: NDArray[np.float64] = np.array(one.scores) + lm_GN[:, None] + words_WN
    return totals


def score_recordings(
    recognizer: StreamingRecognizer,
    recordings: Iterable[Recording],
    model: SentenceScorer,
    count_words: CountWords,
    device: torch.device | str = "cpu",
) -> list[Scored]:
    """The hypotheses of recordings that have words.

    Args:
        recognizer: with a beam search that no language model takes part in; recordings are recognized whole,
            which under its context gives what streams give.
        recordings: with transcripts.
        model: over the same pieces.
        count_words: how many words pieces spell.
        device: where the model is.

    Raises:
        UserError: greedy search, or no words in the transcripts.
    """
    found = []
    nbest = getattr(recognizer.search.options, "beam", 1)
    for batch in batches_of(recording for recording in recordings if recording.ref):
        waves = [recording.samples_N[:] for recording in batch]
        for recording, result in zip(batch, recognize_offline(recognizer, waves, nbest), strict=True):
            pieces = [list(entry.tokens) for entry in result.nbest]
            by_words = Writing.of([" ".join(recording.ref)]).measure == "wer"
            errors = word_errors if by_words else character_errors
            found.append(
                Scored(
                    [entry.score for entry in result.nbest],
                    sentence_scores(pieces, model, device),
                    [count_words(tokens) for tokens in pieces],
                    [errors(recording.ref, split_words(entry.text)).total for entry in result.nbest],
                )
            )
    if not found:
        raise UserError("no words in the transcripts: nothing to choose weights on")
    return found
