"""`path_kl`: the student's alignments follow the teacher's, as paths through the student's pruned lattice."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.ranges import OneOf, above
from kdasr.distillation.lattice import BLANK, PrunedLattice
from kdasr.distillation.terms.base import Found, Given, LatticeTerm, Need, Setup, Unit, Wanted, register
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.path_kl import NORMALIZE, PathForm, PathKl
from kdasr.losses.lattice.teacher_band import teacher_band


@dataclass
class PathConfig:
    """Divergence between the paths of teacher and student through the student's pruned lattice."""

    normalize: Annotated[str, OneOf(*NORMALIZE)] = "both"
    """Whose probabilities are divided by their sum over the band's paths. both: KL of alignments alone, 0 for
    equal ones; teacher: the same plus the student's transducer loss; none: the sum of Chang et al. (ICLR
    2023, arXiv 2312.10087), where an utterance weighs as much as the teacher finds the student's paths
    probable."""
    exponent: Annotated[float, above(0)] = 1.0
    """Power of the teacher's path probabilities: below 1 smooths its alignments, above 1 sharpens them."""


@register
class AlignmentTerm(LatticeTerm):
    """Alignment distillation of Chang et al. (ICLR 2023, arXiv 2312.10087), within the student's band."""

    name = "path_kl"
    title = "path KL (path_kl)"
    unit = Unit.FRAME
    needs = frozenset({Need.TEXT, Need.TEACHER})
    settings = PathConfig
    section = "path"
    place = 4

    def __init__(self, config: PathConfig, rnnt_type: str) -> None:
        """
        Args:
            config: the term's settings.
            rnnt_type: the lattice's.

        Raises:
            UserError: a name or number that no form knows.
        """
        super().__init__()
        try:
            self.form = PathForm(config.normalize, config.exponent)
        except ValueError as error:
            raise UserError(f"objective.path.{error}") from None
        self.rnnt_type = rnnt_type

    @classmethod
    def build(cls, setup: Setup) -> "AlignmentTerm":
        """On an objective's lattice."""
        return cls(setup.options, setup.rnnt.rnnt_type)

    def prepare(self, lattice: PrunedLattice, given: Given) -> Wanted:
        """Its divergence between paths."""
        assert given.teacher is not None
        return Wanted(path=self.on_paths(lattice, given.teacher.nodes()))

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """The divergence in nats."""
        assert found.path_B is not None
        return {"path_kl": found.path_B}

    def on_paths(self, lattice: PrunedLattice, teacher: NodeLogits) -> PathKl:
        """What to evaluate on a lattice: a sum over each utterance's paths.

        The teacher's logits on the band are made for it and dropped; `output_kl` makes its own.
        """
        band = teacher_band(
            teacher, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, self.rnnt_type
        )
        return PathKl(band, self.form)
