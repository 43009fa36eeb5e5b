"""`ctc`: the auxiliary CTC loss of the encoder's output (Graves et al. 2006)."""

from collections.abc import Mapping

from torch import Tensor

from kdasr.distillation.terms.base import Given, Need, Term, Unit, register
from kdasr.losses.ctc import ctc_loss


@register
class CtcTerm(Term):
    """CTC on a head of its own, which only training uses."""

    name = "ctc"
    title = "CTC loss (ctc), nats per frame"
    unit = Unit.FRAME
    needs = frozenset({Need.TEXT})
    place = 1

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """The loss in nats."""
        batch, output = given.batch, given.output
        logits_BTV = given.model.ctc_head(output.encoded_BTD)
        return {"ctc": ctc_loss(logits_BTV, output.lens_B, batch.tokens_BS, batch.token_lens_B)}
