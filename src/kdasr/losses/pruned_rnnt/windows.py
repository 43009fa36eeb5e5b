"""Frames in which each symbol may be emitted: the alignment-restricted transducer.

Mahadeokar et al. 2021, "Alignment restricted streaming recurrent neural network transducer" (arXiv
2011.03072): paths that emit a symbol outside its window have no probability in the loss.

Shapes: B utterances, S symbols, T frames, K states kept per frame.
"""

import torch
from torch import Tensor
from torch.nn import functional


def outside_lattice(windows_BS2: Tensor, num_frames: int) -> Tensor:
    """Which symbol arcs of a full lattice are outside their windows, bool `(B, S, T)`.

    Args:
        windows_BS2: int64, the first frame of each symbol and one past the last.
        num_frames: T.
    """
    frames = torch.arange(num_frames, device=windows_BS2.device)
    return (frames < windows_BS2[:, :, :1]) | (frames >= windows_BS2[:, :, 1:])


def outside_band(windows_BS2: Tensor, ranges_BTK: Tensor) -> Tensor:
    """The same for the symbol arcs of a pruned band, bool `(B, T, K)`; False at nodes without a symbol."""
    batch, num_frames, num_kept = ranges_BTK.shape
    padded = functional.pad(windows_BS2, (0, 0, 0, 1))
    padded[:, -1, 1] = num_frames
    index = ranges_BTK.reshape(batch, -1, 1).expand(-1, -1, 2)
    first, end = padded.gather(1, index).view(batch, num_frames, num_kept, 2).unbind(-1)
    frames = torch.arange(num_frames, device=ranges_BTK.device)[:, None]
    return (frames < first) | (frames >= end)


def check_windows(windows: Tensor, symbols: Tensor) -> None:
    """Refuse windows of another shape than the symbols'.

    Raises:
        ValueError: naming both shapes.
    """
    if tuple(windows.shape) != (*symbols.shape, 2) or windows.dtype != torch.int64:
        raise ValueError(
            f"windows {tuple(windows.shape)} {windows.dtype} and symbols {tuple(symbols.shape)}: "
            "expected int64 (B, S, 2) and (B, S)"
        )
