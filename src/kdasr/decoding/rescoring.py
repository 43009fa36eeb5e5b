"""Rescoring: a language model has a say when the utterance is over, in the beam's list of hypotheses.

Where the list holds every hypothesis, the result is that of shallow fusion; where it is short, only what
beam search has kept without the language model can win.

With a word bonus the hypothesis of the highest `score + scale * log p_LM + bonus * words` wins, as papers
decode (Hsu et al. 2020, arXiv 2002.10336, among many); the bonus takes back that a language model favors few
words. Without one, scores are compared per piece, as beam search compares them.

Shapes: B streams, C frames of a chunk, D encoder width, N hypotheses, S pieces.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.decoding.beam import BeamSearch, BeamState
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.hypothesis import Hypothesis, NBest


class SentenceScorer(Protocol):
    """A language model over the tokenizer's pieces that scores whole sentences."""

    def log_probs(self, tokens_BS: Tensor, lens_B: Tensor) -> Tensor:
        """Natural log-probabilities (B,) of sentences, their ends included."""


CountWords = Callable[[list[int]], int]
"""How many words some pieces spell."""


@torch.inference_mode()
def sentence_scores(
    listed: Sequence[Sequence[int]], model: SentenceScorer, device: torch.device | str = "cpu"
) -> list[float]:
    """The language model's log-probability of each sentence of pieces, its end included."""
    if not listed:
        return []
    pieces = [torch.tensor(tokens, dtype=torch.int64) for tokens in listed]
    tokens_NS = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(device)
    scores: list[float] = model.log_probs(
        tokens_NS, torch.tensor([len(tokens) for tokens in listed])
    ).tolist()
    return scores


def rescore(
    listed: Sequence[NBest], model: SentenceScorer, scale: float, device: torch.device | str = "cpu"
) -> list[NBest]:
    """Add `scale` times the language model's log-probability to each score (and to its `fused` part).

    The order stays as it is.
    """
    scores = sentence_scores([entry.tokens for entry in listed], model, device)
    return [_with(entry, scale * score) for entry, score in zip(listed, scores, strict=True)]


def _with(entry: NBest, more: float) -> NBest:
    return replace(entry, score=entry.score + more, fused=entry.fused + more)


class WordBonus(NamedTuple):
    """Added to the score for each word; scores are then compared as they are, not per piece."""

    nats: float
    count_words: CountWords


class Rescoring(NamedTuple):
    """What rescores."""

    model: SentenceScorer
    scale: float
    """Weight of its log-probability."""
    bonus: WordBonus | None = None
    """None: scores are compared as beam search compares them."""


class RescoringSearch:
    """Beam search whose final list is rescored; until then it is the beam search itself."""

    def __init__(self, search: BeamSearch, rescoring: Rescoring) -> None:
        """`search` is one without shallow fusion.

        The model is asked on the device of the search.
        """
        self._search = search
        self._model, self.scale, self._bonus = rescoring

    @property
    def options(self) -> BeamOptions:
        """Those of the beam search."""
        return self._search.options

    def initial_state(self, biasing: BiasingGraph | None = None) -> BeamState:
        """See `BeamSearch`."""
        return self._search.initial_state(biasing)

    def carried_over(self, state: BeamState) -> BeamState:
        """See `BeamSearch`."""
        return self._search.carried_over(state)

    def continued(self, state: BeamState) -> BeamState:
        """See `BeamSearch`; the hypothesis that rescoring has chosen goes on."""
        chosen = tuple(self.nbest(state, 1, final=True)[0].tokens[self.num_settled(state) :])
        best = next(hypothesis for hypothesis in state.hypotheses if hypothesis.tokens == chosen)
        return self._search.continued_from(state, best)

    def advance(self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[BeamState]) -> list[BeamState]:
        """See `BeamSearch`."""
        return self._search.advance(encoded_BCD, lens_B, states)

    def num_settled(self, state: BeamState) -> int:
        """See `BeamSearch`; rescoring chooses among hypotheses that share these pieces."""
        return self._search.num_settled(state)

    def best(self, state: BeamState, start: int = 0, final: bool = False) -> Hypothesis:
        """The best hypothesis so far, its pieces from number `start` on; when final, after rescoring."""
        if not final:
            return self._search.best(state, start)
        best = self.nbest(state, 1, final=True)[0]
        return Hypothesis.of(best.emissions[start:])

    def nbest(self, state: BeamState, count: int | None = None, final: bool = False) -> list[NBest]:
        """The best hypotheses so far, the best first; when final, all in the beam were rescored."""
        if not final:
            return self._search.nbest(state, count)
        listed = rescore(self._search.nbest(state, final=True), self._model, self.scale, self._search.device)
        bonus, start = self._bonus, self._search.num_start_pieces
        if bonus is not None:
            listed = [_with(entry, bonus.nats * bonus.count_words(entry.tokens)) for entry in listed]
            return sorted(listed, key=lambda entry: entry.score, reverse=True)[:count]

        def rank(entry: NBest) -> float:
            # As beam search ranks: per piece, where the predictor's start counts too.
            return entry.score / (len(entry.tokens) + start) if self.options.length_norm else entry.score

        return sorted(listed, key=rank, reverse=True)[:count]
