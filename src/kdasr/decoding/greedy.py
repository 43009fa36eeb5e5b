"""Greedy transducer search, batched over utterances and resumable from chunk to chunk.

Most frames emit nothing, and nothing changes until one does. So the joiner sees several frames of every
stream at a time, as if none of them emitted; what comes after the first that does is seen again. Each stream
goes its own way from piece to piece, as in label looping (Bataev et al. 2024, arXiv 2406.06220).

Shapes: B utterances or streams, T encoder frames, D encoder width, J joiner width, N of the streams, W frames
ahead, V pieces, X pieces that were emitted.
"""

from math import exp, log1p
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from kdasr.common.special_pieces import BLANK_ID, UNK_ID
from kdasr.decoding.hypothesis import Hypothesis
from kdasr.models.predictors.base import PredictorState
from kdasr.nn.streaming import map_states, select_states

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


LOOKAHEAD = 8
"""Frames of a stream that the joiner sees at a time. Only speed depends on it, except for joiners whose rows
depend on one another; such a joiner has its own `lookahead`."""


class GreedyState(NamedTuple):
    """All that the search remembers of a stream; dimension 0 is the stream."""

    heard: PredictorState
    """The predictor's state after the last piece."""
    predicted_BJ: Tensor
    """What it predicts, projected to the joiner."""


def initial_state(model: "Transducer", batch_size: int) -> GreedyState:
    """The state of `batch_size` streams that have emitted nothing, on the model's device."""
    device = next(model.parameters()).device
    return _predicted(model, model.predictor.start_state(batch_size, device))


def _predicted(model: "Transducer", heard: PredictorState) -> GreedyState:
    return GreedyState(heard, model.joiner.project_predictor(model.predictor.predict(heard)))


@torch.inference_mode()
def greedy_search(
    model: "Transducer",
    encoded_BTD: Tensor,
    lens_B: Tensor,
    max_symbols_per_frame: int | None = None,
    blank_penalty: float = 0.0,
) -> list[Hypothesis]:
    """The best piece at every step, for whole utterances.

    Args:
        model: anything with a `predictor` and a `joiner` as those of `Transducer`.
        encoded_BTD: encoder output.
        lens_B: valid frames; frames beyond do not count.
        max_symbols_per_frame: pieces that may be emitted before time moves on; None: as many as is usual for
            the model (`Geometry.symbols_per_frame`).
        blank_penalty: nats that are subtracted from the blank's logit.

    Returns:
        One hypothesis per utterance.
    """
    state = initial_state(model, encoded_BTD.shape[0])
    found, _ = greedy_chunk(
        model, encoded_BTD, lens_B, state, max_symbols_per_frame, blank_penalty=blank_penalty
    )
    return found


@torch.inference_mode()
def greedy_chunk(
    model: "Transducer",
    encoded_BTD: Tensor,
    lens_B: Tensor,
    state: GreedyState,
    max_symbols_per_frame: int | None = None,
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
    if max_symbols_per_frame is None:
        geometry = getattr(model, "geometry", None)  # not every model here has an encoder
        max_symbols_per_frame = 1 if geometry is None else geometry.symbols_per_frame
    projected_BTJ = model.joiner.project_encoder(encoded_BTD)
    cursors = [_Cursor(min(length, encoded_BTD.shape[1])) for length in lens_B.tolist()]
    said: list[tuple[int, int]] = []
    rows: list[Tensor] = []
    while streams := [stream for stream, cursor in enumerate(cursors) if cursor.frame < cursor.end]:
        logits_NWV = _logits_ahead(model, projected_BTJ, state, streams, cursors)
        if blank_penalty:
            logits_NWV[..., BLANK_ID] -= blank_penalty
        emitted: dict[int, int] = {}
        places = []
        width = logits_NWV.shape[1]
        for row, (stream, pieces) in enumerate(zip(streams, logits_NWV.argmax(dim=-1).tolist(), strict=True)):
            ahead = cursors[stream].move(pieces, max_symbols_per_frame)
            if ahead is not None:
                emitted[stream] = pieces[ahead]
                places.append(row * width + ahead)
        if emitted:
            places_X = torch.tensor(places, device=logits_NWV.device)
            rows.append(logits_NWV.flatten(0, 1).index_select(0, places_X))
            said += emitted.items()
            state = _advance(model, state, list(emitted), list(emitted.values()))
    _add_log_probs(cursors, said, rows)
    return [cursor.found for cursor in cursors], state


class _Cursor:
    """Where the search stands in one stream."""

    def __init__(self, end: int) -> None:
        self.frame = 0
        self.end = end
        self.found = Hypothesis()
        self._here = 0
        """Pieces emitted at this frame."""

    def move(self, pieces: list[int], max_symbols: int) -> int | None:
        """Go on to the first piece among the best of the next frames; how many ahead it is, if any is."""
        for ahead, piece in enumerate(pieces[: self.end - self.frame]):
            if piece not in (BLANK_ID, UNK_ID):
                self._here = 1 if ahead else self._here + 1
                self.frame += ahead
                self.found.tokens.append(piece)
                self.found.frames.append(self.frame)
                if self._here == max_symbols:
                    self.frame, self._here = self.frame + 1, 0
                return ahead
        self.frame, self._here = self.frame + len(pieces), 0
        return None


def _add_log_probs(cursors: list[_Cursor], said: list[tuple[int, int]], rows: list[Tensor]) -> None:
    """The probability of each piece that the streams said, with the blank and without, from the logits (X, V)
    that chose it. The blank has at most half of it all, or it would have been chosen."""
    if not said:
        return
    log_probs_XV = torch.cat(rows).float().log_softmax(dim=1)
    # Two columns, the piece and the blank, in one read.
    pieces_X2 = torch.tensor([(piece, BLANK_ID) for _, piece in said], device=log_probs_XV.device)
    for (stream, _), (log_prob, blank) in zip(said, log_probs_XV.gather(1, pieces_X2).tolist(), strict=True):
        found = cursors[stream].found
        found.log_probs.append(log_prob)
        found.log_confidences.append(log_prob - log1p(-exp(blank)))


def _logits_ahead(
    model: "Transducer",
    projected_BTJ: Tensor,
    state: GreedyState,
    streams: list[int],
    cursors: list[_Cursor],
) -> Tensor:
    """The logits (N, W, V) of the next frames of some streams, if none emits before."""
    num_streams, num_frames, _ = projected_BTJ.shape
    begins = [cursors[stream].frame for stream in streams]
    ends = [cursors[stream].end for stream in streams]
    lookahead = getattr(model.joiner, "lookahead", LOOKAHEAD)
    width = min(lookahead, max(end - begin for begin, end in zip(begins, ends, strict=True)))
    if len(streams) == num_streams and min(begins) == max(begins):
        am_NWJ, lm_NJ = projected_BTJ[:, begins[0] : begins[0] + width], state.predicted_BJ
    else:
        device = projected_BTJ.device
        index_N = torch.tensor(streams, device=device)
        frames_NW = torch.tensor(begins, device=device)[:, None] + torch.arange(width, device=device)
        frames_NW.clamp_(max=num_frames - 1)
        am_NWJ, lm_NJ = projected_BTJ[index_N[:, None], frames_NW], state.predicted_BJ[index_N]
    return model.joiner(am_NWJ, lm_NJ[:, None])


def _advance(model: "Transducer", state: GreedyState, streams: list[int], pieces: list[int]) -> GreedyState:
    """The state after `streams` emitted `pieces`; the predictor runs for those streams only."""
    predictor, device = model.predictor, state.predicted_BJ.device
    pieces_X = torch.tensor(pieces, device=device)
    if len(streams) == len(state.predicted_BJ):  # always so for a single stream, where every call counts
        return _predicted(model, predictor.advance(state.heard, pieces_X))
    index_X = torch.tensor(streams, device=device)
    later = _predicted(model, predictor.advance(select_states(state.heard, index_X), pieces_X))
    return map_states(lambda rows, new: rows.index_copy(0, index_X, new), state, later)
