"""The unpruned transducer loss (Graves 2012, arXiv 1211.3711) under k2's `rnnt_loss`.

Shapes: B utterances, S symbols, T frames, V classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.losses.pruned_rnnt.arcs import finish_symbol_arcs, reduce_loss
from kdasr.losses.pruned_rnnt.checks import check_boundary, check_logits, check_names, check_symbols
from kdasr.losses.pruned_rnnt.pruned import log_probs_of_nodes
from kdasr.losses.pruned_rnnt.recursion import mutual_information_recursion


def rnnt_loss(
    logits: Tensor,
    symbols: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
    delay_penalty: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Transducer loss of a joiner evaluated on the whole lattice.

    Args:
        logits: `(B, T, S + 1, V)`, unnormalized.
        symbols: `(B, S)` int64, without a start symbol.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[s_begin, t_begin, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified | constrained, as in `rnnt_loss_simple`.
        delay_penalty: nats per frame in favor of early symbols.
        reduction: none | mean (over utterances) | sum.

    Returns:
        The loss in nats, float32 (float64 for float64 logits).

    Raises:
        ValueError: an unknown `rnnt_type` or `reduction`, shapes that do not fit each other, and, where
            `checks` looks at values, symbols that are no class, utterances beyond the tensors and NaN logits.
    """
    check_names(rnnt_type, reduction, delay_penalty)
    if logits.ndim != 4:
        raise ValueError(f"logits {tuple(logits.shape)}: expected (B, T, S + 1, V)")
    batch, num_frames, num_states, num_classes = logits.shape
    check_symbols(symbols, batch, num_classes, termination_symbol, num_states)
    check_boundary(boundary, batch, num_states - 1, num_frames)
    with torch.autocast(device_type=logits.device.type, enabled=False):
        nodes = functional.pad(symbols.long(), (0, 1), value=termination_symbol)
        nodes_BTS = nodes[:, None, :].expand(batch, num_frames, num_states)
        px, py = log_probs_of_nodes(logits, nodes_BTS, termination_symbol)
        check_logits(logits, px, py, boundary)
        px, py = px[:, :, :-1].transpose(1, 2), py.transpose(1, 2)
        px = finish_symbol_arcs(px, py, boundary, rnnt_type, delay_penalty)
        return reduce_loss(-mutual_information_recursion(px, py, boundary), reduction)
