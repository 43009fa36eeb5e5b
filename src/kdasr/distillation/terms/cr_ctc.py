"""`cr_ctc`: two copies of a batch under different masks agree in their CTC outputs; for teachers.

Consistency regularization (CR-CTC, Yao et al. 2024, arXiv 2410.05101). Every batch is encoded twice, each
copy with masks of SpecAugment of its own, and each copy's CTC output is the other one's target, without
gradient. `ctc_remasked` and `rnnt_remasked` are the losses of the second copy: with half of the usual weight
for each of the two copies, `cr_ctc` has 0.2 of the weight of CTC there, and `data.spec_augment` 2.5 times as
much masked in time. Andrusenko et al. 2026 (arXiv 2604.19079) found it to harm streaming.
"""

# Shapes: B utterances.

from collections.abc import Mapping

from torch import Tensor

from kdasr.distillation.terms.base import Given, Mode, Need, Term, Unit, register
from kdasr.distillation.terms.full_context import FullCtcTerm, FullRnntTerm
from kdasr.losses.consistency import ctc_consistency

BOTH_COPIES = frozenset({Mode.OWN, Mode.REMASKED})


@register
class CtcConsistencyTerm(Term):
    """Half of the KL in either direction, so that both together are their mean."""

    name = "cr_ctc"
    title = "agreement of masked copies (cr_ctc), nats per frame"
    unit = Unit.FRAME
    needs = frozenset({Need.SECOND_MASKS})
    modes = BOTH_COPIES
    place = 8

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """In one direction: towards the copy of the mode."""
        assert given.remasked is not None
        head, lens_B = given.model.ctc_head, given.output.lens_B
        own, other = given.output.encoded_BTD, given.remasked.encoded_BTD.detach()
        return {"cr_ctc": 0.5 * ctc_consistency(head(own), head(other), lens_B)}


@register
class RemaskedCtcTerm(FullCtcTerm):
    """`ctc` of the second copy."""

    name = "ctc_remasked"
    title = "CTC loss, second copy (ctc_remasked), nats per frame"
    needs = frozenset({Need.TEXT, Need.SECOND_MASKS})
    modes = frozenset({Mode.REMASKED})
    place = 9


@register
class RemaskedRnntTerm(FullRnntTerm):
    """`rnnt` of the second copy."""

    name = "rnnt_remasked"
    title = "transducer loss, second copy (rnnt_remasked), nats per frame"
    needs = frozenset({Need.TEXT, Need.SECOND_MASKS})
    modes = frozenset({Mode.REMASKED})
    place = 10
