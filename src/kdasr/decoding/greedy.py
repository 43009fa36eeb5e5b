"""Greedy transducer search, batched over utterances and resumable from chunk to chunk.

Shapes: B utterances or streams, T encoder frames, D encoder width, J joiner width, K predictor context.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdasr.decoding.hypothesis import BLANK_ID, UNK_ID, Hypothesis

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


class GreedyState(NamedTuple):
    """All that the search remembers of a stream; dimension 0 is the stream."""

    context_BK: Tensor
    """The last K pieces, int64; at first the predictor's start context."""
    predicted_BJ: Tensor
    """The predictor's output for that context, projected to the joiner."""


def initial_state(model: "Transducer", batch_size: int) -> GreedyState:
    """The state of `batch_size` streams that have emitted nothing, on the model's device."""
    device = next(model.parameters()).device
    context_BK = model.predictor.start_context(batch_size, device)
    return GreedyState(context_BK, _predict(model, context_BK))


def _predict(model: "Transducer", context_BK: Tensor) -> Tensor:
    return model.joiner.project_predictor(model.predictor.step(context_BK))


@torch.inference_mode()
def greedy_search(
    model: "Transducer", encoded_BTD: Tensor, lens_B: Tensor, max_symbols_per_frame: int = 1
) -> list[Hypothesis]:
    """The best piece at every step, for whole utterances.

    Args:
        model: anything with a `predictor` and a `joiner` as those of `Transducer`.
        encoded_BTD: encoder output.
        lens_B: valid frames; frames beyond do not count.
        max_symbols_per_frame: pieces that may be emitted before time moves on.

    Returns:
        One hypothesis per utterance.
    """
    state = initial_state(model, encoded_BTD.shape[0])
    return greedy_chunk(model, encoded_BTD, lens_B, state, max_symbols_per_frame)[0]


@torch.inference_mode()
def greedy_chunk(
    model: "Transducer",
    encoded_BTD: Tensor,
    lens_B: Tensor,
    state: GreedyState,
    max_symbols_per_frame: int = 1,
    blank_penalty: float = 0.0,
) -> tuple[list[Hypothesis], GreedyState]:
    """Continue the search over the next frames of each stream.

    Searching a whole utterance and searching it in pieces, each from the state that the last one left,
    gives the same pieces at the same frames.

    Args: see `greedy_search`; `state` belongs to these streams, in this order, and is not changed.
        `blank_penalty` is subtracted from the blank's logit.

    Returns:
        What each stream emitted in these frames (frames counted from the start of the chunk), and the
        state to continue from.
    """
    projected_BTJ = model.joiner.project_encoder(encoded_BTD)
    lens = lens_B.tolist()
    hypotheses = [Hypothesis() for _ in lens]
    for frame in range(min(max(lens, default=0), encoded_BTD.shape[1])):
        active = [stream for stream, length in enumerate(lens) if frame < length]
        for _ in range(max_symbols_per_frame):
            logits_BV = model.joiner(projected_BTJ[:, frame], state.predicted_BJ)
            if blank_penalty:
                logits_BV[:, BLANK_ID] -= blank_penalty
            best = logits_BV.argmax(dim=-1).tolist()
            active = [stream for stream in active if best[stream] not in (BLANK_ID, UNK_ID)]
            if not active:
                break
            for stream in active:
                hypotheses[stream].tokens.append(best[stream])
                hypotheses[stream].frames.append(frame)
            state = _advance(model, state, active, [best[stream] for stream in active])
    return hypotheses, state


def _advance(model: "Transducer", state: GreedyState, streams: list[int], pieces: list[int]) -> GreedyState:
    """The state after `streams` emitted `pieces`; the predictor runs for those streams only."""
    device = state.context_BK.device
    emitted = torch.tensor(pieces, device=device).unsqueeze(1)
    if len(streams) == len(state.context_BK):  # always so for a single stream, where every call counts
        context_BK = torch.cat([state.context_BK[:, 1:], emitted], dim=1)
        return GreedyState(context_BK, _predict(model, context_BK))
    index = torch.tensor(streams, device=device)
    context = torch.cat([state.context_BK[index, 1:], emitted], dim=1)
    return GreedyState(
        state.context_BK.index_copy(0, index, context),
        state.predicted_BJ.index_copy(0, index, _predict(model, context)),
    )
