"""`mode_kl`: the two modes of one student agree (mode-consistency regularization, MCR).

Andrusenko et al. 2026 (arXiv 2604.19079): `0.5 (KL(full || own) + KL(own || full))` between the output
distributions of the student under the full context and under that of the step, the target of each direction
without gradient, as a mean over an utterance's valid lattice nodes. With `rnnt_full` and `rnnt` in
`loss_weights` it is their `a L_full + (1 - a) L_own + l L_MCR`; best there: a 0.5, l 0.3.

Each direction runs on the pruned lattice of the mode that learns: it is `output_kl` with the other mode as
the teacher. The two lattices are one where `objective.rnnt.prune_range` keeps all states.
"""

# Shapes: B utterances, T encoder frames, K states kept per frame.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from kdasr.common.ranges import EXPERIMENTAL, OneOf, at_least, between
from kdasr.distillation.lattice import BLANK, PrunedLattice, joint_of
from kdasr.distillation.terms.base import Found, Given, LatticeTerm, Mode, Need, Setup, Wanted, register
from kdasr.losses.lattice.collapsed import CollapsedKl, NextSymbols
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.node_weights import teacher_weights
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.shift import shifted
from kdasr.losses.lattice.teacher_band import teacher_band

LEARNERS = {
    "both": frozenset({Mode.OWN, Mode.FULL}),
    "own": frozenset({Mode.OWN}),
    "full": frozenset({Mode.FULL}),
}
CLASSES = ("full", "collapsed")
NODE_WEIGHTS = ("uniform", "nonblank", "occupation")


@dataclass
class ModeKlConfig:
    """Agreement between the student under the context of the step and under the full one."""

    learner: Annotated[str, OneOf(*LEARNERS)] = "both"
    """Which mode follows the other: both (symmetric); own: the one of the step follows the full one, half of
    the symmetric term; full: the other half."""
    classes: Annotated[str, OneOf(*CLASSES)] = "full"
    """full: all pieces and blank; collapsed: the node's next piece, blank and the rest, of which the last
    state has no next piece."""
    node_weights: Annotated[str, OneOf(*NODE_WEIGHTS)] = "uniform"
    """uniform | nonblank (1 - P(blank), the mean of both modes) | occupation (how often the learner's paths
    leave a node): weight of a lattice node in the mean."""
    shift: Annotated[int, between(-1000, 1000), EXPERIMENTAL] = 0
    """Encoder frames: the mode of the step at frame t is compared with the full one at t - shift. Above 0 it
    may be so much later, as it does not hear what comes; frames without a partner do not count."""
    start_step: Annotated[int, at_least(0), EXPERIMENTAL] = 0
    """The term is 0 in the first steps of a student that began from random weights; one that began from
    trained weights has it at once."""


@register
class ModeKlTerm(LatticeTerm):
    """Mode consistency, with a choice of how. Needs no teacher."""

    name = "mode_kl"
    title = "agreement of the modes (mode_kl)"
    needs = frozenset({Need.TEXT, Need.SECOND_CONTEXT})
    settings = ModeKlConfig
    place = 6

    def __init__(self, config: ModeKlConfig, rnnt_type: str) -> None:
        """
        Args:
            config: the term's settings.
            rnnt_type: the lattice's.
        """
        super().__init__()
        self.config, self.rnnt_type = config, rnnt_type
        self.modes = LEARNERS[config.learner]
        self.rule, self.form = PowerRule("fixed", 1.0), KlForm(temperature_squared=False)

    @classmethod
    def build(cls, setup: Setup) -> "ModeKlTerm":
        """On an objective's lattices."""
        return cls(setup.options, setup.rnnt.rnnt_type)

    def prepare(self, lattice: PrunedLattice, given: Given) -> Wanted:
        """KL from the other mode to that of the lattice, where the term has started."""
        if given.step < self.config.start_step:
            return Wanted()
        assert given.second is not None
        with torch.no_grad():
            other: NodeLogits = joint_of(given.model, given.second.encoded_BTD, given.second.predicted_BSD)
        valid_BTK = lattice.valid
        if self.config.shift != 0:
            # The full mode looks for its partner in the other direction of time.
            shift = self.config.shift if given.mode is Mode.OWN else -self.config.shift
            frames_B, device = lattice.boundary_B4[:, 3], valid_BTK.device
            other, inside_BT = shifted(other, frames_B, shift, valid_BTK.shape[1], device)
            valid_BTK = valid_BTK & inside_BT[:, :, None]
        base_BTK = self._weights(lattice, other, valid_BTK)
        by_occupation = self.config.node_weights == "occupation"
        if self.config.classes == "full":
            return Wanted(nodes=PowerKl(other, self.rule, self.form, base_BTK, by_occupation))
        symbols = NextSymbols.of(lattice.tokens_BS, lattice.boundary_B4[:, 2], BLANK)
        return Wanted(nodes=CollapsedKl(other, self.rule, self.form, base_BTK, by_occupation, symbols))

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """Half of the mean over each utterance's nodes: the two directions add up."""
        if found.nodes is None:
            return {"mode_kl": 0.0 * found.lattice.joint.am_BTD.flatten(1).sum(1).float()}
        return {"mode_kl": 0.5 * found.nodes.value_B}

    def _weights(self, lattice: PrunedLattice, other: NodeLogits, valid_BTK: Tensor) -> Tensor:
        """Of the nodes before the learner's own say; 0 where nothing counts."""
        if self.config.node_weights != "nonblank":
            return valid_BTK
        shares = []
        for joint in (lattice.joint, other):
            band = teacher_band(
                joint, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, self.rnnt_type
            )
            shares.append(teacher_weights("nonblank", band, valid_BTK))
        return 0.5 * (shares[0] + shares[1])
