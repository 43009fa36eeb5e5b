"""What a frozen teacher says of the arcs of a student's pruned lattice, and how often its paths use them.

Shapes: B utterances, S symbols, T frames, K states kept per frame.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.losses.lattice.blocks import plan_of, plan_of_nodes, score_nodes
from kdasr.losses.lattice.joiner import Joint, NodeLogits
from kdasr.losses.pruned_rnnt.band import BandTotals, band_totals


class BandScores(NamedTuple):
    """Log-probabilities of a band's arcs under a model, without gradient."""

    symbol_BTK: Tensor
    """Of each node's next symbol; anything at a node without one."""
    blank_BTK: Tensor
    ranges_BTK: Tensor
    boundary: Tensor | None
    num_symbols: int
    rnnt_type: str

    def totals(self, exponent: float = 1.0, with_occupation: bool = True) -> BandTotals:
        """Totals and occupations of the paths in the band.

        A path's score is the sum of its arcs', so arcs times `exponent` are paths to that power, and the
        recursion's occupations are exactly those of the power-transformed distribution over the band's paths.
        No delay penalty is in them. Where no path stays in the band, the total is -inf and nothing is used.
        """
        return band_totals(
            self.symbol_BTK if exponent == 1.0 else self.symbol_BTK * exponent,
            self.blank_BTK if exponent == 1.0 else self.blank_BTK * exponent,
            self.ranges_BTK,
            self.boundary,
            self.num_symbols,
            self.rnnt_type,
            0.0,
            with_occupation,
        )


@torch.no_grad()
def teacher_band(
    teacher: NodeLogits,
    symbols: Tensor,
    ranges: Tensor,
    termination_symbol: int,
    boundary: Tensor | None = None,
    rnnt_type: str = "regular",
) -> BandScores:
    """Evaluate a teacher on a student's band.

    The logits exist for one block of nodes at a time. `totals().occupation_BTK` of the result is the
    probability that the teacher's paths leave each node, given the transcript and the band.

    Args:
        teacher: its logits at nodes of the student's frames and states.
        symbols: `(B, S)` int64, without a start symbol.
        ranges: `(B, T, K)`, the student's, from `get_rnnt_prune_ranges`.
        termination_symbol: the blank's class.
        boundary: `(B, 4)` int64, `[0, 0, s_end, t_end]`; None: everything is valid.
        rnnt_type: regular | modified | constrained.

    Returns:
        Scores `(B, T, K)`, float32 (float64 of a float64 joiner); 0 in padding frames on the CPU, anything
        there on a GPU, and NaN where the teacher's logits are.

    Raises:
        ValueError: as `joint_losses`.
    """
    with torch.autocast(device_type=ranges.device.type, enabled=False):
        if isinstance(teacher, Joint):
            plan = plan_of(teacher, symbols, ranges, termination_symbol, boundary, rnnt_type)
        else:
            plan = plan_of_nodes(symbols, ranges, termination_symbol, boundary, rnnt_type)
        symbol_FK, blank_FK, _ = score_nodes(teacher, plan)
        scores = plan.spread(symbol_FK), plan.spread(blank_FK)
    return BandScores(*scores, plan.ranges_BTK, plan.boundary, plan.num_symbols, rnnt_type)
