"""`output_kl`: the student's output distributions follow the teacher's, on the student's pruned lattice."""

from kdasr.common.errors import UserError
from kdasr.distillation.config import OutputConfig
from kdasr.distillation.lattice import PrunedLattice
from kdasr.losses.joiner import Joint
from kdasr.losses.kl import KlForm, PowerKl
from kdasr.losses.power import PowerRule

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

    def __call__(self, lattice: PrunedLattice, teacher: Joint) -> PowerKl:
        """What to evaluate on the nodes of a lattice: a mean over each utterance's nodes."""
        return PowerKl(teacher, self.rule, self.form, lattice.valid, self.by_occupation)
