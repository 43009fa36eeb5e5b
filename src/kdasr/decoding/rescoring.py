"""Rescoring: a language model has a say when the utterance is over, in the beam's list of hypotheses.

Where the list holds every hypothesis, the result is that of shallow fusion; where it is short, only what
beam search has kept without the language model can win.

Shapes: B streams, C frames of a chunk, D encoder width, N hypotheses, S pieces.
"""

from collections.abc import Sequence
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


@torch.inference_mode()
def rescore(
    listed: Sequence[NBest], model: SentenceScorer, scale: float, device: torch.device | str = "cpu"
) -> list[NBest]:
    """Add `scale` times the language model's log-probability to each score (and to its `fused` part).

    The order stays as it is.
    """
    if not listed:
        return []
    pieces = [torch.tensor(entry.tokens, dtype=torch.int64) for entry in listed]
    tokens_NS = torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True).to(device)
    lens_N = torch.tensor([len(entry.tokens) for entry in listed])
    added = (scale * model.log_probs(tokens_NS, lens_N)).tolist()
    return [
        replace(entry, score=entry.score + more, fused=entry.fused + more)
        for entry, more in zip(listed, added, strict=True)
    ]


class Rescoring(NamedTuple):
    """What rescores."""

    model: SentenceScorer
    scale: float
    """Weight of its log-probability."""


class RescoringSearch:
    """Beam search whose final list is rescored; until then it is the beam search itself."""

    def __init__(self, search: BeamSearch, rescoring: Rescoring) -> None:
        """`search` is one without shallow fusion.

        The model is asked on the device that the encoder's frames come from.
        """
        self._search = search
        self._model, self.scale = rescoring
        self._device = torch.device("cpu")

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
        """See `BeamSearch`, whose own best hypothesis goes on."""
        return self._search.continued(state)

    def advance(self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[BeamState]) -> list[BeamState]:
        """See `BeamSearch`."""
        self._device = encoded_BCD.device
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
        listed = rescore(self._search.nbest(state, final=True), self._model, self.scale, self._device)
        context = len(state.hypotheses[0].context)

        def rank(entry: NBest) -> float:
            # As beam search ranks: per piece, where the predictor's start context counts too.
            return entry.score / (len(entry.tokens) + context) if self.options.length_norm else entry.score

        return sorted(listed, key=rank, reverse=True)[:count]
