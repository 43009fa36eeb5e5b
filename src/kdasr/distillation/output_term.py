"""`output_kl`: the student's output distributions follow the teacher's, on the student's pruned lattice."""

# Shapes: B utterances, T encoder frames, K states kept per frame, V pieces.

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.config import OutputConfig
from kdasr.distillation.lattice import PrunedLattice
from kdasr.losses.kl import KlForm, power_kl
from kdasr.losses.power import PowerRule, choose_exponents
from kdasr.losses.precision import as_float

NODE_WEIGHTS = ("uniform", "occupation")


class OutputTerm:
    """Second stage of Tang et al. 2023 (arXiv 2306.15171), with a choice of rules and weights."""

    def __init__(self, config: OutputConfig) -> None:
        """Raises UserError for a name or number that no rule knows."""
        try:
            self.rule = PowerRule(config.rule, config.exponent, config.entropy_floor, config.granularity)
            self.form = KlForm(config.sides, config.direction, config.temperature_squared)
        except ValueError as error:
            raise UserError(f"objective.output.{error}") from None
        if config.node_weights not in NODE_WEIGHTS:
            raise UserError(
                f"objective.output.node_weights '{config.node_weights}': "
                f"expected one of {', '.join(NODE_WEIGHTS)}"
            )
        self.by_occupation = config.node_weights == "occupation"

    def __call__(
        self, lattice: PrunedLattice, teacher_logits_BTKV: Tensor, occupation_BTK: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Mean divergence over each utterance's nodes, and mean exponent, both `(B,)`.

        `occupation_BTK` weights the nodes; None: all valid nodes count the same.
        """
        weights_BTK = mean_weights(lattice, occupation_BTK)
        with torch.no_grad(), torch.autocast(device_type=weights_BTK.device.type, enabled=False):
            log_probs_BTKV = torch.log_softmax(as_float(teacher_logits_BTKV), dim=-1)
            exponents_BTK = choose_exponents(log_probs_BTKV, weights_BTK, self.rule)
        kl_B = power_kl(lattice.logits_BTKV, teacher_logits_BTKV, weights_BTK, exponents_BTK, self.form)
        return kl_B, (weights_BTK * exponents_BTK).sum((1, 2))


def mean_weights(lattice: PrunedLattice, occupation_BTK: Tensor | None) -> Tensor:
    """Node weights `(B, T, K)` that sum to 1 per utterance; all 0 where an utterance has no node."""
    weights_BTK = lattice.valid.to(torch.float32)
    if occupation_BTK is not None:
        weights_BTK = weights_BTK * occupation_BTK.detach()
    return weights_BTK / weights_BTK.sum((1, 2), keepdim=True).clamp(min=1e-20)
