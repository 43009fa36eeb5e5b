"""`path_kl`: the student's alignments follow the teacher's, as paths through the student's pruned lattice."""

from kdasr.common.errors import UserError
from kdasr.distillation.config import PathConfig
from kdasr.distillation.lattice import BLANK, PrunedLattice
from kdasr.losses.joiner import Joint
from kdasr.losses.path_kl import PathForm, PathKl
from kdasr.losses.teacher_band import teacher_band


class PathTerm:
    """Alignment distillation of Chang et al. (ICLR 2023, arXiv 2312.10087), within the student's band."""

    def __init__(self, config: PathConfig, rnnt_type: str) -> None:
        """
        Args:
            config: the term's settings.
            rnnt_type: the lattice's.

        Raises:
            UserError: a name or number that no form knows.
        """
        try:
            self.form = PathForm(config.normalize, config.exponent)
        except ValueError as error:
            raise UserError(f"objective.path.{error}") from None
        self.rnnt_type = rnnt_type

    def __call__(self, lattice: PrunedLattice, teacher: Joint) -> PathKl:
        """What to evaluate on a lattice: a sum over each utterance's paths.

        The teacher's logits on the band are made for it and dropped; `output_kl` makes its own.
        """
        band = teacher_band(
            teacher, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, self.rnnt_type
        )
        return PathKl(band, self.form)
