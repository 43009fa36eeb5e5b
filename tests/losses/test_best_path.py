"""The best path of a lattice: against brute force, against torchaudio, and on one that is known."""

from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
import torchaudio.functional as audio

from kdasr.losses.best_path import ctc_spans, transducer_frames, transducer_log_probs


def brute_force(symbol_ST: np.ndarray, blank_ST: np.ndarray) -> tuple[float, tuple[int, ...]]:
    """The best of all ways to put S symbols into T frames."""
    num_symbols, num_frames = symbol_ST.shape
    scored = []
    for frames in combinations_with_replacement(range(num_frames), num_symbols):
        symbols = sum(symbol_ST[place, frame] for place, frame in enumerate(frames))
        blanks = sum(blank_ST[sum(f <= frame for f in frames), frame] for frame in range(num_frames))
        scored.append((symbols + blanks, frames))
    return max(scored)


@pytest.mark.parametrize(("symbols", "frames", "seed"), [(0, 3, 0), (1, 1, 1), (3, 4, 2), (4, 3, 3)])
def test_the_best_path_is_that_of_all_paths(symbols: int, frames: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    symbol_ST, blank_ST = (
        generator.normal(size=(symbols, frames)),
        generator.normal(size=(symbols + 1, frames)),
    )
    found = transducer_frames(symbol_ST, blank_ST)
    assert found is not None and tuple(found) == brute_force(symbol_ST, blank_ST)[1]


def test_a_path_that_is_known() -> None:
    logits_TSV = torch.full((5, 3, 4), -9.0)
    logits_TSV[..., 0] = 0.0  # blanks, but for two nodes
    logits_TSV[1, 0, 2] = logits_TSV[3, 1, 3] = 9.0
    arcs = transducer_log_probs(logits_TSV, torch.tensor([2, 3]))
    assert arcs[0].shape == (2, 5) and arcs[1].shape == (3, 5)
    found = transducer_frames(arcs[0].double().numpy(), arcs[1].double().numpy())
    assert found is not None and found.tolist() == [1, 3]


def test_no_path() -> None:
    assert transducer_frames(np.full((1, 2), -np.inf), np.zeros((2, 2))) is None
    logits_TV = torch.zeros(2, 3)
    assert ctc_spans(logits_TV, torch.tensor([1, 1])) is None  # a blank has to stand between them
    assert ctc_spans(torch.zeros(3, 3), torch.tensor([1, 1])) == [(0, 1), (2, 3)]


def test_ctc_and_a_transducer_without_memory_agree() -> None:
    """Where no symbol is likely outside of one frame, both and torchaudio find that frame."""
    log_probs_TV = torch.log_softmax(torch.randn(8, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    log_probs_TV[:, 0] += 5.0
    for frame, piece in ((2, 3), (5, 1)):
        log_probs_TV[frame, piece] += 20.0
    log_probs_TV = torch.log_softmax(log_probs_TV, dim=-1)
    tokens_S = torch.tensor([3, 1])
    path_1T, _ = audio.forced_align(log_probs_TV[None], tokens_S[None].int(), blank=0)
    assert path_1T[0].tolist() == [0, 0, 3, 0, 0, 1, 0, 0]
    assert ctc_spans(log_probs_TV, tokens_S) == [(2, 3), (5, 6)]
    arcs = transducer_log_probs(log_probs_TV[:, None].expand(-1, 3, -1), tokens_S)
    found = transducer_frames(*(arc.double().numpy() for arc in arcs))
    assert found is not None and found.tolist() == [2, 5]
