"""`output_kl`: the student's output distributions follow the teacher's, on the student's pruned lattice."""

from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.distillation.config import OutputConfig
from kdasr.distillation.lattice import BLANK, PrunedLattice
from kdasr.losses.collapsed import CollapsedKl, NextSymbols
from kdasr.losses.joiner import Joint
from kdasr.losses.kl import KlForm, PowerKl
from kdasr.losses.node_weights import BY_STUDENT, BY_TEACHER, teacher_weights
from kdasr.losses.power import PowerRule
from kdasr.losses.shift import shifted
from kdasr.losses.teacher_band import teacher_band


class OutputTerm:
    """Second stage of Tang et al. 2023 (arXiv 2306.15171), with a choice of how."""

    def __init__(self, config: OutputConfig, rnnt_type: str) -> None:
        """
        Args:
            config: the term's settings.
            rnnt_type: the lattice's, for the teacher's occupation.

        Raises:
            UserError: a name or number that no rule knows.
        """
        try:
            self.rule = PowerRule(config.rule, config.exponent, config.entropy_floor, config.granularity)
            self.form = KlForm(config.sides, config.direction, config.temperature_squared)
        except ValueError as error:
            raise UserError(f"objective.output.{error}") from None
        self.config, self.rnnt_type = config, rnnt_type

    def __call__(self, lattice: PrunedLattice, teacher: Joint) -> PowerKl:
        """What to evaluate on the nodes of a lattice: a mean over each utterance's nodes."""
        base_BTK = lattice.valid
        if self.config.shift != 0:
            teacher, inside_BT = shifted(teacher, lattice.boundary_B4[:, 3], self.config.shift)
            base_BTK = base_BTK & inside_BT[:, :, None]
        if self.config.node_weights in BY_TEACHER:
            base_BTK = self._weights_of(teacher, lattice, base_BTK)
        by_occupation = self.config.node_weights in BY_STUDENT
        if self.config.classes == "full":
            return PowerKl(teacher, self.rule, self.form, base_BTK, by_occupation)
        symbols = NextSymbols.of(lattice.tokens_BS, lattice.boundary_B4[:, 2], BLANK)
        return CollapsedKl(teacher, self.rule, self.form, base_BTK, by_occupation, symbols)

    def _weights_of(self, teacher: Joint, lattice: PrunedLattice, valid_BTK: Tensor) -> Tensor:
        band = teacher_band(
            teacher, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, self.rnnt_type
        )
        return teacher_weights(self.config.node_weights, band, valid_BTK)
