"""The most probable alignment of known pieces with encoder frames: by CTC, and by a transducer's lattice.

Shapes: T encoder frames, S pieces, V classes.
"""

import numpy as np
import torch
import torchaudio.functional as audio
from numpy.typing import NDArray
from torch import Tensor

from kdasr.common.special_pieces import BLANK_ID

Floats = NDArray[np.float64]
_IMPOSSIBLE = -1e9
"""Stands for the logarithm of 0: no sum of real log probabilities comes near it."""


def ctc_spans(log_probs_TV: Tensor, tokens_S: Tensor, blank: int = BLANK_ID) -> list[tuple[int, int]] | None:
    """First frame of each piece and the frame after its last one, on the best CTC path.

    Args:
        log_probs_TV: log probabilities.
        tokens_S: pieces, without blanks; at least one.
        blank: class of the blank.

    Returns:
        S spans; None where the pieces do not fit into the frames.
    """
    repeated = int((tokens_S[1:] == tokens_S[:-1]).sum())
    if len(log_probs_TV) < len(tokens_S) + repeated:
        return None
    path_1T, scores_1T = audio.forced_align(
        log_probs_TV.float().cpu()[None], tokens_S.cpu()[None].int(), blank=blank
    )
    spans = audio.merge_tokens(path_1T[0], scores_1T[0].exp(), blank=blank)
    return [(span.start, span.end) for span in spans]


def transducer_frames(symbol_ST: Floats, blank_ST: Floats) -> NDArray[np.int64] | None:
    """The frame in which each symbol is emitted on the best path of a transducer's lattice (Graves 2012).

    A path begins at node (0, 0). A symbol arc leads from (s, t) to (s + 1, t), a blank arc to (s, t + 1); the
    last arc is a blank of the last frame.

    Args:
        symbol_ST: (S, T), log probability of symbol s at node (s, t).
        blank_ST: (S + 1, T), log probability of the blank there.

    Returns:
        (S,); None where every path is impossible.
    """
    num_symbols, num_frames = symbol_ST.shape
    states = np.arange(num_symbols + 1)
    arrived = np.where(states == 0, 0.0, _IMPOSSIBLE)
    origins_TS = np.zeros((num_frames, num_symbols + 1), dtype=np.int64)
    for frame in range(num_frames):
        # Symbols of this frame lead from an earlier state s to r: the sum of symbols[s:r].
        sums = np.concatenate([[0.0], np.cumsum(np.maximum(symbol_ST[:, frame], _IMPOSSIBLE))])
        ahead = arrived - sums
        best = np.maximum.accumulate(ahead)
        origins_TS[frame] = np.maximum.accumulate(np.where(ahead == best, states, 0))
        arrived = best + sums + np.maximum(blank_ST[:, frame], _IMPOSSIBLE)
    if not arrived[-1] > _IMPOSSIBLE / 2:
        return None
    frames = np.zeros(num_symbols, dtype=np.int64)
    state = num_symbols
    for frame in reversed(range(num_frames)):
        origin = origins_TS[frame, state]
        frames[origin:state] = frame
        state = origin
    return frames


def transducer_log_probs(
    logits_TSV: Tensor, tokens_S: Tensor, blank: int = BLANK_ID
) -> tuple[Tensor, Tensor]:
    """Log probabilities of the arcs of whole nodes, as `transducer_frames` takes them.

    Args:
        logits_TSV: (T, S + 1, V).
        tokens_S: the pieces.
        blank: class of the blank.

    Returns:
        Of symbols (S, T) and of blanks (S + 1, T).
    """
    log_probs_TSV = torch.log_softmax(logits_TSV.float(), dim=-1)
    index_TS1 = tokens_S[None, :, None].expand(len(log_probs_TSV), -1, 1)
    symbols_TS = log_probs_TSV[:, :-1].gather(-1, index_TS1)[..., 0]
    return symbols_TS.T, log_probs_TSV[..., blank].T
