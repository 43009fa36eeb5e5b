"""Modified beam search: at most one piece per frame, hypotheses with the same pieces merged by log-add.

The search of icefall and sherpa-onnx (`modified_beam_search`), in their order of steps, so that it finds what
they find. In each frame, for each hypothesis in the beam:

1. `blank_penalty` is subtracted from the blank's logit, the logits are divided by `temperature` and
   normalized (log-softmax). sherpa-onnx has the same penalty (and ignores a negative one); its
   `temperature_scale` touches confidences only, icefall's the search, as here.
2. Every piece is a candidate with the hypothesis' score plus its own. Blank and `<unk>` leave the pieces as
   they are, any other is appended; then time moves on. The `beam` best candidates of a stream are kept.
3. Kept candidates with the same pieces are merged: their probabilities add up, and the frames of the more
   probable one stand. The beam may thus be smaller than `beam`; it is not filled up again.

Language model and biasing add to the score of a piece when it is emitted. They take part in the choice of
step 2; icefall and sherpa-onnx add them to what was kept, as `late_fusion` does. Which hypothesis is the
best is decided by the score per piece, where the K pieces of a stateless predictor's start count too (as
theirs do; of a predictor with a memory it is the blank alone), or by the score alone without `length_norm`.
Ties are broken arbitrarily.

Shapes: B streams, C frames of a chunk, T frames, D encoder width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.expansion import BeamHypothesis, BeamOptions, Beams, FrameExpansion, log_add
from kdasr.decoding.fusion import Fused, LanguageModel, end_scores, start_fusion
from kdasr.decoding.hypothesis import (
    Emission,
    Hypothesis,
    NBest,
    Settled,
    num_settled,
    settle,
    settled_emissions,
)
from kdasr.nn.streaming import select_states, stack_states

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


class BeamState(NamedTuple):
    """All that the search remembers of a stream. A search makes a new one and leaves this as it is."""

    num_frames: int
    settled: Settled | None
    """The pieces that all hypotheses share, frames included."""
    hypotheses: tuple[BeamHypothesis, ...]
    biasing: BiasingGraph | None
    fused: Fused | None
    """Rows in the order of `hypotheses`; None without a language model."""


class BeamSearch:
    """The search over a model, from chunk to chunk. The model's weights must not change during its life."""

    def __init__(
        self,
        model: "Transducer",
        options: BeamOptions | None = None,
        language_model: LanguageModel | None = None,
    ) -> None:
        """
        Args:
            model: anything with a `predictor` and a `joiner` as those of `Transducer`.
            options: the defaults if None.
            language_model: for shallow fusion, over the same pieces; weighted by `options.lm_scale`.

        Raises:
            UserError: a language model without a weight, or a weight without a language model.
        """
        self.options = options or BeamOptions()
        self._model = model
        if (language_model is None) != (self.options.lm_scale == 0.0):
            missing = "a language model" if language_model is None else "an lm_scale for the language model"
            raise UserError(f"lm_scale {self.options.lm_scale}: shallow fusion needs {missing}")
        self._language_model = language_model
        self._expand = FrameExpansion(model, self.options, self._language_model)
        self.num_start_pieces = self._expand.contexts.num_start_pieces
        """Pieces that count in the length of every hypothesis."""

    @property
    def device(self) -> torch.device:
        """That of the model."""
        return next(self._model.parameters()).device

    @torch.inference_mode()
    def initial_state(self, biasing: BiasingGraph | None = None) -> BeamState:
        """The state of a stream that has emitted nothing, biased to the phrases of `biasing`."""
        fused = None
        if self._language_model is not None:
            fused = start_fusion(self._language_model, self.device)
        start = BeamHypothesis((), (), self._expand.contexts.start_context())
        return BeamState(0, None, (start,), biasing, fused)

    def carried_over(self, state: BeamState) -> BeamState:
        """The state of a new utterance before which the last pieces of each hypothesis may have been said.

        As in sherpa-onnx: beside the hypothesis that has heard nothing, whose probability is 1, each one of
        the beam goes on with what the predictor has heard and its score; unless the best one has no pieces.
        So what was said before has little weight here, other than in greedy search.
        """
        start, best = self.initial_state(state.biasing), self._ranked(state, final=False)[0][2]
        if not best.tokens and state.settled is None:
            return start
        nothing = self._expand.contexts.start_context()
        kept = {nothing: BeamHypothesis((), (), nothing, origin=nothing)}
        for old in state.hypotheses:
            alike = kept.get(old.context)
            if alike is not None:
                alike.score = log_add(alike.score, old.score)
                continue
            kept[old.context] = BeamHypothesis((), (), old.context, score=old.score, origin=old.context)
        fused = start.fused
        if fused is not None:
            rows = torch.zeros(len(kept), dtype=torch.int64, device=fused.log_probs_NV.device)
            fused = select_states(fused, rows)
        return start._replace(hypotheses=tuple(kept.values()), fused=fused)

    def continued(self, state: BeamState) -> BeamState:
        """The state of a segment that goes on where this one was cut, from its best hypothesis alone.

        Phrases of `biasing` begin anew.
        """
        return self.continued_from(state, self._ranked(state, final=True)[0][2])

    def continued_from(self, state: BeamState, best: BeamHypothesis) -> BeamState:
        """The same from `best`, one of the hypotheses of `state`."""
        start, fused = self.initial_state(state.biasing), state.fused
        if fused is not None:
            row = torch.tensor([state.hypotheses.index(best)], device=fused.log_probs_NV.device)
            fused = select_states(fused, row)
        kept = BeamHypothesis((), (), best.context, origin=best.origin)
        return start._replace(hypotheses=(kept,), fused=fused)

    @torch.inference_mode()
    def advance(self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[BeamState]) -> list[BeamState]:
        """Search the next frames of some streams, the first `lens_B` of each; the states after them."""
        beams = Beams(
            projected_BCJ=self._model.joiner.project_encoder(encoded_BCD),
            lens=[min(length, encoded_BCD.shape[1]) for length in lens_B.tolist()],
            num_frames=[state.num_frames for state in states],
            biasing=[state.biasing for state in states],
            hypotheses=[list(state.hypotheses) for state in states],
        )
        if self._language_model is not None:
            beams.fused = stack_states([state.fused for state in states if state.fused is not None])
        for frame in range(max(beams.lens, default=0)):
            self._expand(beams, frame)
        return _new_states(states, beams)

    def num_settled(self, state: BeamState) -> int:
        """Leading pieces that no later frame can change."""
        return num_settled(state.settled)

    def best(self, state: BeamState, start: int = 0, final: bool = False) -> Hypothesis:
        """The best hypothesis so far, its pieces from number `start` on.

        `final` says that the utterance ends here: the language model's end counts, and boosts of phrases
        that were not completed do not.
        """
        hypothesis = self._ranked(state, final)[0][2]
        return Hypothesis.of(_emissions(state, hypothesis, start))

    def nbest(self, state: BeamState, count: int | None = None, final: bool = False) -> list[NBest]:
        """The best `count` hypotheses so far (None: all in the beam), the best first, no two alike."""
        found: list[NBest] = []
        known = set()
        for score, fused, hypothesis in self._ranked(state, final):
            if len(found) == count:
                break
            if hypothesis.tokens in known:  # it was carried over after other pieces (`carried_over`)
                continue
            known.add(hypothesis.tokens)
            emissions = _emissions(state, hypothesis)
            found.append(
                NBest(
                    tokens=[item.token for item in emissions],
                    frames=[item.frame for item in emissions],
                    log_probs=[item.log_prob for item in emissions],
                    log_confidences=[item.log_confidence for item in emissions],
                    score=score,
                    fused=fused,
                )
            )
        return found

    def _ranked(self, state: BeamState, final: bool) -> list[tuple[float, float, BeamHypothesis]]:
        """Score, fused part and hypothesis of each in the beam, the best first."""
        ends = [0.0] * len(state.hypotheses)
        if final and state.fused is not None and self.options.lm_end:
            ends = end_scores(state.fused, self.options.lm_scale)
        scored = []
        for end, hypothesis in zip(ends, state.hypotheses, strict=True):
            if final and state.biasing is not None:
                end += state.biasing.final_score(hypothesis.bias)
            scored.append((hypothesis.score + end, hypothesis.fused + end, hypothesis))
        before = num_settled(state.settled)

        def rank(row: tuple[float, float, BeamHypothesis]) -> float:
            pieces = before + len(row[2].tokens) + self.num_start_pieces
            return row[0] / pieces if self.options.length_norm else row[0]

        return sorted(scored, key=rank, reverse=True)


def beam_search(
    model: "Transducer",
    encoded_BTD: Tensor,
    lens_B: Tensor,
    options: BeamOptions | None = None,
    language_model: LanguageModel | None = None,
    biasing: Sequence[BiasingGraph | None] | None = None,
) -> list[list[NBest]]:
    """The hypotheses in the beam at the end of whole utterances.

    Args:
        model: anything with a `predictor` and a `joiner` as those of `Transducer`, in evaluation mode.
        encoded_BTD: encoder output.
        lens_B: valid frames; frames beyond do not count.
        options: how to search.
        language_model: for shallow fusion, weighted by `options.lm_scale`.
        biasing: phrases of each utterance.

    Returns:
        For each utterance at most `options.beam` hypotheses, the best first, no two with the same pieces.
    """
    search = BeamSearch(model, options, language_model)
    graphs = [None] * len(encoded_BTD) if biasing is None else biasing
    states = search.advance(encoded_BTD, lens_B, [search.initial_state(graph) for graph in graphs])
    return [search.nbest(state, final=True) for state in states]


def _new_states(states: Sequence[BeamState], beams: Beams) -> list[BeamState]:
    """The states after a chunk; what all hypotheses of a stream have come to share is settled."""
    start, new_states = 0, []
    for row, state in enumerate(states):
        hypotheses = beams.hypotheses[row]
        shared = _num_shared([hypothesis.emissions for hypothesis in hypotheses])
        settled = settle(state.settled, hypotheses[0].emissions[:shared])
        fused = beams.fused
        if fused is not None:
            rows = torch.arange(start, start + len(hypotheses), device=fused.log_probs_NV.device)
            fused = select_states(fused, rows)  # a copy: no stream keeps the others' rows alive
        start += len(hypotheses)
        new_states.append(
            BeamState(
                num_frames=state.num_frames + beams.lens[row],
                settled=settled,
                hypotheses=tuple(_without(hypothesis, shared) for hypothesis in hypotheses),
                biasing=state.biasing,
                fused=fused,
            )
        )
    return new_states


def _num_shared(histories: Sequence[tuple[Emission, ...]]) -> int:
    """Length of the beginning that all histories share.

    Frames have to agree too: with pieces alone, what a stream says of a frame would depend on its chunks.
    """
    shared = 0
    for column in zip(*histories, strict=False):
        if any(emission != column[0] for emission in column):
            break
        shared += 1
    return shared


def _without(hypothesis: BeamHypothesis, shared: int) -> BeamHypothesis:
    if shared == 0:
        return hypothesis
    return BeamHypothesis(
        hypothesis.tokens[shared:],
        hypothesis.emissions[shared:],
        hypothesis.context,
        hypothesis.bias,
        hypothesis.score,
        hypothesis.fused,
        hypothesis.origin,
    )


def _emissions(state: BeamState, hypothesis: BeamHypothesis, start: int = 0) -> list[Emission]:
    """The hypothesis' pieces from number `start` on."""
    pending = hypothesis.emissions[max(0, start - num_settled(state.settled)) :]
    return [*settled_emissions(state.settled, start), *pending]
