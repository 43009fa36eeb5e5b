"""Whether another decoder says something else only where two choices have the same score.

Two correct programs compute the same score up to the rounding of 32-bit numbers. Where the best two are
closer than that, either choice is right, but everything that follows is then another: the predictor hears
another piece, and endpoints move. So our greedy search decodes the stream again and makes their choice
wherever it is a tie. When it then says what they say, to the end, they differ in nothing else.
"""

# Shapes: N samples at 16 kHz, C encoder frames of a chunk, D encoder width, V pieces.

from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from kdasr.common.special_pieces import BLANK_ID, UNK_ID
from kdasr.decoding.hypothesis import Emission, settle
from kdasr.decoding.search import GreedySearch, GreedyStreamState
from kdasr.export.client import ClientPiece, Segment
from kdasr.recognition.recognizer import StreamingRecognizer

TIE = 1e-3
"""Difference of scores (natural logarithms; in beam search per piece) that float32 leaves open."""
_SILENT = (BLANK_ID, UNK_ID)


def ties_between(
    recognizer: StreamingRecognizer,
    theirs: Sequence[Segment],
    decode: Callable[[StreamingRecognizer], Sequence[Segment]],
) -> list[str] | None:
    """The choices in which another decoder differs from ours, a line each, when all of them are ties.

    Args:
        recognizer: with greedy search.
        theirs: what the other decoder said of a stream.
        decode: gives what a recognizer says of the same stream.

    Returns:
        None when it is not so: something else differs too.
    """
    search = _FollowingSearch(recognizer, theirs)
    following = copy(recognizer)
    following.search = search
    return search.ties if decode(following) == list(theirs) else None


class _FollowingSearch(GreedySearch):
    """Greedy search over one stream that makes another decoder's choice where it is a tie with the best."""

    def __init__(self, recognizer: StreamingRecognizer, theirs: Sequence[Segment]) -> None:
        assert isinstance(recognizer.search, GreedySearch)
        super().__init__(recognizer.model, recognizer.search.options)
        self.ties: list[str] = []
        self._most = recognizer.geometry.symbols_per_frame
        self._pieces = list(map(recognizer.tokenizer.piece, range(recognizer.tokenizer.vocab_size)))
        self._ids: dict[str, list[int]] = defaultdict(list)
        """By what the other decoder shows: a byte may look like a letter."""
        for index, piece in enumerate(self._pieces):
            if index not in _SILENT:
                self._ids[ClientPiece.of_ours(piece, 0).piece].append(index)
        self._theirs: dict[int, list[str]] = defaultdict(list)
        """By frame of the stream."""
        start = 0
        for segment in theirs:
            for piece, frame in segment.emissions:
                self._theirs[start + frame].append(piece)
            start += segment.num_windows * recognizer.context.chunk
        self._frame = 0

    @torch.inference_mode()
    def advance(
        self, encoded_BCD: Tensor, lens_B: Tensor, states: Sequence[GreedyStreamState]
    ) -> list[GreedyStreamState]:
        """Search the next frames of the stream, frame by frame."""
        (state,) = states
        found = []
        for frame in range(int(lens_B[0])):
            projected_1J = self._model.joiner.project_encoder(encoded_BCD[:, frame : frame + 1])[:, 0]
            for place in range(self._most):
                predicted_1J = self._contexts.gather([state.predicting])
                logits_V = self._model.joiner(projected_1J, predicted_1J)[0].float()
                logits_V[BLANK_ID] -= self.options.blank_penalty
                piece = self._choice(logits_V, place)
                if piece in _SILENT:
                    break
                found.append(Emission(piece, state.num_frames + frame, 0.0, 0.0))
                context = self._contexts.after(state.context, piece)
                state = state._replace(context=context, predicting=context)
            self._frame += 1
        num_frames = state.num_frames + int(lens_B[0])
        return [state._replace(num_frames=num_frames, settled=settle(state.settled, found))]

    def _choice(self, logits_V: Tensor, place: int) -> int:
        """The piece to go on with, the `place`-th one of this frame: theirs, if it is as good as the best."""
        said = self._theirs[self._frame][place : place + 1]
        candidates = self._ids[said[0]] if said else _SILENT
        best = int(logits_V.argmax())
        their = max(candidates, key=lambda index: float(logits_V[index]), default=best)
        if their == best or (their in _SILENT and best in _SILENT):
            return best
        margin = float(logits_V[best] - logits_V[their])
        if not margin <= TIE:
            return best
        self.ties.append(
            f"frame {self._frame}: sherpa-onnx {self._pieces[their]} / kdasr {self._pieces[best]}, "
            f"scores {margin:.1e} apart"
        )
        return their
