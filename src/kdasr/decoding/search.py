"""What a recognizer asks of a search, and greedy search in that form.

Shapes: B streams, C frames of a chunk, D encoder width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.decoding.beam import BeamSearch
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.contexts import Context, contexts_of
from kdasr.decoding.expansion import MAX_PENALTY, BeamOptions, check_number
from kdasr.decoding.fusion import LanguageModel
from kdasr.decoding.greedy import GreedyState, greedy_chunk
from kdasr.decoding.hypothesis import (
    Emission,
    Hypothesis,
    NBest,
    Settled,
    num_settled,
    settle,
    settled_emissions,
)
from kdasr.decoding.rescoring import Rescoring, RescoringSearch

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


@dataclass(frozen=True)
class GreedyOptions:
    """The best piece of every frame."""

    blank_penalty: float = 0.0
    """Against deletions: subtracted from the blank's logit."""

    def __post_init__(self) -> None:
        check_number("blank_penalty", self.blank_penalty, -MAX_PENALTY, MAX_PENALTY)


SearchOptions = GreedyOptions | BeamOptions


class Search(Protocol):
    """A search that goes from chunk to chunk, many streams at a time.

    A state is all that it remembers of one stream, and is never changed: `advance` returns new ones. The
    result is the same whatever chunks the frames come in and whatever other streams are in the batch.
    """

    @property
    def options(self) -> SearchOptions:
        """What the search was built with."""

    def initial_state(self, biasing: BiasingGraph | None = None) -> Any:
        """The state of a stream that has heard nothing; phrases to bias it to, if the search can."""

    def carried_over(self, state: Any) -> Any:
        """The state of a new utterance of which the predictor has already heard the last pieces, as it is in
        sherpa-onnx after an endpoint: nothing else of `state` is left."""

    def continued(self, state: Any) -> Any:
        """The state of a segment that goes on where the one of `state` was cut in the middle of speech: what
        the best hypothesis has heard, without its pieces."""

    def advance(self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[Any]) -> list[Any]:
        """Search the next frames of some streams, the first `lens_B` of each; the states after them."""

    def num_settled(self, state: Any) -> int:
        """Leading pieces, with their frames, that no later frame can change."""

    def best(self, state: Any, start: int = 0, final: bool = False) -> Hypothesis:
        """The best hypothesis so far, its pieces from number `start` on; `final`: the utterance ends here."""

    def nbest(self, state: Any, count: int | None = None, final: bool = False) -> list[NBest]:
        """The best hypotheses so far, the best first, no two alike."""


class GreedyStreamState(NamedTuple):
    """All that greedy search remembers of one stream."""

    num_frames: int
    settled: Settled | None
    context: Context
    """The pieces so far, for the predictor."""
    predicting: Context
    """What the predictor has heard: `context`, but for the first piece after `carried_over`."""


class GreedySearch:
    """Greedy search as a `Search`: every piece is settled as soon as it is emitted.

    The model's weights must not change during its life.
    """

    def __init__(self, model: "Transducer", options: GreedyOptions | None = None) -> None:
        self.options = options or GreedyOptions()
        self._model = model
        self._contexts = contexts_of(model)

    def initial_state(self, biasing: BiasingGraph | None = None) -> GreedyStreamState:
        """The state of a stream that has heard nothing.

        Raises:
            UserError: `biasing` is given.
        """
        if biasing is not None:
            raise UserError("biasing needs beam search; greedy search has no alternatives to choose from")
        context = self._contexts.start_context()
        return GreedyStreamState(0, None, context, context)

    def carried_over(self, state: GreedyStreamState) -> GreedyStreamState:
        """The state of a new utterance of which the predictor has already heard the last pieces.

        After an utterance without pieces sherpa-onnx forgets those before it, but not what the predictor made
        of them: that holds until the next piece, which is then the first.
        """
        context = state.context if state.settled is not None else self._contexts.start_context()
        return GreedyStreamState(0, None, context, state.predicting)

    def continued(self, state: GreedyStreamState) -> GreedyStreamState:
        """The state of a segment that goes on where this one was cut: it says what the uncut one would."""
        return GreedyStreamState(0, None, state.context, state.predicting)

    @torch.inference_mode()
    def advance(
        self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[GreedyStreamState]
    ) -> list[GreedyStreamState]:
        """Search the next frames of some streams; the states after them."""
        predicted_BJ = self._contexts.gather([state.predicting for state in states])
        batch = GreedyState(self._contexts.stack([state.context for state in states]), predicted_BJ)
        found, batch = greedy_chunk(
            self._model, encoded_BCD, lens_B, batch, blank_penalty=self.options.blank_penalty
        )
        heard = self._contexts.split(batch, [row for row, chunk in enumerate(found) if chunk.tokens])
        return [
            GreedyStreamState(
                num_frames=state.num_frames + length,
                settled=settle(state.settled, _emissions(chunk, state.num_frames)),
                context=heard.get(row, state.context),
                predicting=heard.get(row, state.predicting),
            )
            for row, (state, chunk, length) in enumerate(zip(states, found, lens_B.tolist(), strict=True))
        ]

    def num_settled(self, state: GreedyStreamState) -> int:
        """All pieces so far."""
        return num_settled(state.settled)

    def best(self, state: GreedyStreamState, start: int = 0, final: bool = False) -> Hypothesis:
        """The pieces so far, from number `start` on."""
        return Hypothesis.of(settled_emissions(state.settled, start))

    def nbest(self, state: GreedyStreamState, count: int | None = None, final: bool = False) -> list[NBest]:
        """Greedy search knows no alternatives.

        Raises:
            UserError: always.
        """
        raise UserError("n-best lists need beam search; greedy search has one hypothesis and no score for it")


def build_search(
    model: "Transducer",
    options: SearchOptions | None = None,
    language_model: LanguageModel | Rescoring | None = None,
) -> Search:
    """The search that `options` describe: greedy search if None.

    Raises:
        UserError: a language model for greedy search.
    """
    if isinstance(options, BeamOptions):
        if isinstance(language_model, Rescoring):
            return RescoringSearch(BeamSearch(model, options), language_model)
        return BeamSearch(model, options, language_model)
    if language_model is not None:
        raise UserError(
            "a language model needs beam search; greedy search has no alternatives to choose from"
        )
    return GreedySearch(model, options)


def describe(options: SearchOptions) -> str:
    """One line that names the search and every option that is not at its default, such as `beam beam=8`."""
    default = type(options)()
    changed = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if getattr(options, field.name) != getattr(default, field.name)
    }
    name = "beam" if isinstance(options, BeamOptions) else "greedy"
    return " ".join([name, *(f"{key}={value}" for key, value in changed.items())])


def _emissions(chunk: Hypothesis, num_frames: int) -> list[Emission]:
    return [item._replace(frame=num_frames + item.frame) for item in chunk.emissions]
