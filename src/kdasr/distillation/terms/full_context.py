"""`rnnt_full` and `ctc_full`: the losses of a student that is run a second time, under the full context.

One model for both modes (dual mode, Yu et al. 2021, arXiv 2010.06030): each batch is encoded under the
context of the step and under the full one, and `a L_full + (1 - a) L_own` is `rnnt_full: a` and `rnnt: 1 - a`
in `loss_weights`. The predictor runs once.
"""

from collections.abc import Mapping

from torch import Tensor

from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.terms.base import Found, Given, LatticeTerm, Mode, Need, Setup, Term, Unit, register
from kdasr.distillation.terms.rnnt import rnnt_term
from kdasr.losses.ctc import ctc_loss


@register
class FullRnntTerm(LatticeTerm):
    """`rnnt` under the full context, on a lattice pruned for it."""

    name = "rnnt_full"
    title = "transducer loss, full context (rnnt_full), nats per frame"
    unit = Unit.FRAME
    needs = frozenset({Need.TEXT, Need.SECOND_CONTEXT})
    modes = frozenset({Mode.FULL})
    place = 4
    trains_simple = True

    def __init__(self, config: RnntConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(cls, setup: Setup) -> "FullRnntTerm":
        """With the settings of the lattice."""
        return cls(setup.rnnt)

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """The loss in nats."""
        return {self.name: rnnt_term(self.config, given.step, found.lattice.simple_B, found.rnnt_B)}


@register
class FullCtcTerm(Term):
    """`ctc` under the full context, by the same head."""

    name = "ctc_full"
    title = "CTC loss, full context (ctc_full), nats per frame"
    unit = Unit.FRAME
    needs = frozenset({Need.TEXT, Need.SECOND_CONTEXT})
    modes = frozenset({Mode.FULL})
    place = 5

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """The loss in nats."""
        batch, output = given.batch, given.output
        logits_BTV = given.model.ctc_head(output.encoded_BTD)
        return {self.name: ctc_loss(logits_BTV, output.lens_B, batch.tokens_BS, batch.token_lens_B)}
