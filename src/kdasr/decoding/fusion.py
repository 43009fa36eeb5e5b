"""Shallow fusion: a language model over pieces scores what a beam search emits.

Shapes: N hypotheses, V pieces.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from kdasr.common.special_pieces import SOS_EOS_ID
from kdasr.nn.streaming import select_states, stack_states


class LanguageModel(Protocol):
    """A language model over the tokenizer's pieces, one step at a time.

    A sentence is `<sos/eos>` (id 1), its pieces, `<sos/eos>` again: the search feeds id 1 first, so that
    `initial_state` has heard nothing, and reads the end's probability in column 1. Blank (id 0) and
    `<unk>` (id 2) are no part of any sentence: they are never fed and their columns never read, but the
    model may spend probability on them.

    A state is a tuple or NamedTuple, nested at will, of tensors whose dimension 0 is the hypothesis and
    whose other sizes are the same for all hypotheses however long they are (`kdasr.nn.streaming`): the
    search selects, repeats and joins rows of it. It must not be changed in place. A cache that is too large
    to copy belongs in the model, with an index into it as the state.
    """

    def initial_state(self, batch_size: int) -> Any:
        """The state of `batch_size` hypotheses that have heard nothing, not even `<sos/eos>`."""

    def score(self, pieces_N: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Feed one piece to each hypothesis.

        Args:
            pieces_N: int64, on the device of the transducer.
            state: from `initial_state`, or rows of states that `score` returned.

        Returns:
            Natural log-probabilities (N, V) of the piece that comes next, and the new states.
        """


class Fused(NamedTuple):
    """What the language model says of each hypothesis; dimension 0 is the hypothesis."""

    log_probs_NV: Tensor
    state: Any


def start_fusion(model: LanguageModel, device: torch.device) -> Fused:
    """One hypothesis at the start of a sentence."""
    return Fused(*model.score(torch.full((1,), SOS_EOS_ID, device=device), model.initial_state(1)))


def advance_fusion(model: LanguageModel, fused: Fused, origins: Sequence[tuple[int, int | None]]) -> Fused:
    """The rows of the hypotheses that follow: each continues a row, by a piece unless that is None."""
    device = fused.log_probs_NV.device
    emitting = [(row, piece) for row, piece in origins if piece is not None]
    next_new = len(fused.log_probs_NV)
    if emitting:
        rows = torch.tensor([row for row, _ in emitting], device=device)
        pieces = torch.tensor([piece for _, piece in emitting], device=device)
        scored = Fused(*model.score(pieces, select_states(fused.state, rows)))
        fused = stack_states([fused, scored])
    order = []
    for row, piece in origins:
        order.append(row if piece is None else next_new)
        next_new += piece is not None
    if order == list(range(len(fused.log_probs_NV))):
        return fused
    return select_states(fused, torch.tensor(order, device=device))


def end_scores(fused: Fused, scale: float) -> list[float]:
    """What fusion adds to each hypothesis when its sentence ends."""
    return (scale * fused.log_probs_NV[:, SOS_EOS_ID]).tolist()
