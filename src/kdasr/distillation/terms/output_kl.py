"""`output_kl`: the student's output distributions follow the teacher's, on the student's pruned lattice."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.ranges import EXPERIMENTAL, Items, OneOf, at_least, between
from kdasr.distillation.lattice import BLANK, PrunedLattice
from kdasr.distillation.terms.base import Found, Given, LatticeTerm, Need, Setup, Wanted, register
from kdasr.losses.lattice.collapsed import CollapsedKl
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.losses.lattice.kl import DIRECTIONS, SIDES, KlForm, NextSymbols, PowerKl
from kdasr.losses.lattice.node_weights import (
    BY_ENTROPY,
    BY_STUDENT,
    BY_TEACHER,
    NODE_WEIGHTS,
    teacher_entropy,
    teacher_weights,
)
from kdasr.losses.lattice.power import GRANULARITIES, MIN_EXPONENT, RULES, PowerRule
from kdasr.losses.lattice.shift import shifted
from kdasr.losses.lattice.symbol_smoothing import SymbolKl
from kdasr.losses.lattice.teacher_band import teacher_band

CLASSES = ("full", "collapsed", "symbols")


@dataclass
class OutputConfig:
    """KL divergence between output distributions on the student's pruned lattice."""

    rule: Annotated[str, OneOf(*RULES)] = "confidence"
    """Exponent of the power transform. fixed: `exponent` everywhere; entropy: the largest one that raises the
    entropy of the target to `entropy_floor`; confidence: the smaller, the surer the teacher is."""
    exponent: Annotated[float, between(0, 1, above=True)] = 0.5
    """`fixed`: the exponent, where 1 smooths nothing; `confidence`: the smallest one."""
    entropy_floor: Annotated[float, at_least(0), EXPERIMENTAL] = 0.5
    """`entropy`: raise the target's entropy to this many nats."""
    granularity: Annotated[str, OneOf(*GRANULARITIES), EXPERIMENTAL] = "node"
    """Whether each lattice node or each utterance has an exponent of its own; for `entropy` and
    `confidence`."""
    min_exponent: Annotated[float, between(MIN_EXPONENT, 1)] = MIN_EXPONENT
    """No exponent is smaller, so T^2 is at most its inverse squared: `entropy` finds very small ones where
    the teacher is sure."""
    anneal: Annotated[list[int], at_least(0), Items(ascending=True, unique=False)] = field(
        default_factory=list
    )
    """Two steps, counted from the student's start: between them all exponents move to 1, which smooths
    nothing. Empty: they stay."""
    sides: Annotated[str, OneOf(*SIDES)] = "both"
    """What is transformed. target: the teacher's distribution; both: the student's too."""
    direction: Annotated[str, OneOf(*DIRECTIONS)] = "forward"
    """forward: KL(teacher to student), the mean under the teacher's distribution; reverse: under the
    student's; symmetric: the mean of both."""
    temperature_squared: Annotated[bool, EXPERIMENTAL] = True
    """Multiply each node by T^2 = exponent^-2, which keeps the gradient's scale (Hinton et al. 2015)."""
    classes: Annotated[str, OneOf(*CLASSES)] = "symbols"
    """full: all pieces and blank; collapsed: the node's next piece, blank and the rest (Panchapagesan et al.
    2021, arXiv 2011.06110), which the exponent then applies to; symbols: all, but the exponent applies among
    the pieces alone, and the blank keeps its probability."""
    shift: Annotated[int, between(-1000, 1000), EXPERIMENTAL] = 0
    """Encoder frames: the target at frame t is what the teacher says at t - shift. Above 0 the student may be
    so much later than the teacher, below 0 it is to be earlier; frames without a target do not count."""
    node_weights: Annotated[str, OneOf(*NODE_WEIGHTS)] = "occupation"
    """Weight of a lattice node in the mean. uniform: all alike; occupation, teacher_occupation: how often the
    paths of the student or of the teacher pass there; both: the product of these two; nonblank: the teacher's
    1 - P(blank); entropy: that of the teacher's distribution; occupation_nonblank, occupation_entropy: these
    times `occupation`. All but the first two take a pass of the teacher's joiner over all nodes."""
    wrong_nodes: Annotated[str, OneOf("count", "drop")] = "count"
    """Nodes at which the teacher's best class is a piece that is not the next one of the transcript. count:
    they count as the others do; drop: they are left out."""


@register
class OutputTerm(LatticeTerm):
    """Second stage of Tang et al. 2023 (arXiv 2306.15171), with a choice of how. Also logs the mean exponent,
    `kl_exponent`."""

    name = "output_kl"
    title = "output KL (output_kl)"
    needs = frozenset({Need.TEXT, Need.TEACHER})
    settings = OutputConfig
    section = "output"
    place = 3

    def __init__(self, config: OutputConfig, rnnt_type: str) -> None:
        """
        Args:
            config: the term's settings.
            rnnt_type: the lattice's, for the teacher's occupation.

        Raises:
            UserError: a name or number that no rule knows.
        """
        super().__init__()
        if config.rule == "confidence" and config.exponent == 1.0:
            raise UserError(
                "objective.output.exponent is 1, which smooths nothing; `rule: confidence` needs the least, "
                "such as 0.5; for no smoothing: `rule: fixed`"
            )
        try:
            self.rule = PowerRule(
                config.rule, config.exponent, config.entropy_floor, config.granularity, config.min_exponent
            )
            self.form = KlForm(config.sides, config.direction, config.temperature_squared)
        except ValueError as error:
            raise UserError(f"objective.output.{error}") from None
        if config.classes == "symbols" and config.direction != "forward":
            raise UserError(
                f"objective.output.direction: {config.direction} needs classes: full or collapsed; "
                "symbols goes with forward alone"
            )
        if len(config.anneal) not in (0, 2):
            raise UserError(f"objective.output.anneal is {config.anneal}; expected two steps, or none")
        self.config, self.rnnt_type = config, rnnt_type

    @classmethod
    def build(cls, setup: Setup) -> "OutputTerm":
        """On an objective's lattice."""
        return cls(setup.options, setup.rnnt.rnnt_type)

    def prepare(self, lattice: PrunedLattice, given: Given) -> Wanted:
        """Its divergence between nodes."""
        assert given.teacher is not None
        return Wanted(nodes=self.on_nodes(lattice, given.teacher.nodes(), given.step))

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """Means over each utterance's nodes."""
        assert found.nodes is not None
        return {"output_kl": found.nodes.value_B, "kl_exponent": found.nodes.exponent_B}

    def on_nodes(self, lattice: PrunedLattice, teacher: NodeLogits, step: int = 0) -> PowerKl:
        """What to evaluate on the nodes of a lattice at a step: a mean over each utterance's nodes."""
        rule = replace(self.rule, annealed=self._annealed(step))
        base_BTK = lattice.valid
        if self.config.shift != 0:
            teacher, inside_BT = shifted(
                teacher,
                lattice.boundary_B4[:, 3],
                self.config.shift,
                lattice.ranges_BTK.shape[1],
                lattice.ranges_BTK.device,
            )
            base_BTK = base_BTK & inside_BT[:, :, None]
        if self.config.node_weights in BY_TEACHER:
            base_BTK = self._weights_of(teacher, lattice, base_BTK)
        by_occupation = self.config.node_weights in BY_STUDENT
        if self.config.classes == "collapsed":
            all_nodes = self.config.wrong_nodes == "count"
            symbols = self._next_symbols(lattice)
            return CollapsedKl(
                teacher, rule, self.form, base_BTK, by_occupation, symbols, all_nodes=all_nodes
            )
        trusted = self._next_symbols(lattice) if self.config.wrong_nodes == "drop" else None
        if self.config.classes == "symbols":
            return SymbolKl(teacher, rule, self.form, base_BTK, by_occupation, BLANK, trusted)
        return PowerKl(teacher, rule, self.form, base_BTK, by_occupation, trusted)

    def _next_symbols(self, lattice: PrunedLattice) -> NextSymbols:
        return NextSymbols.of(lattice.tokens_BS, lattice.boundary_B4[:, 2], BLANK)

    def _annealed(self, step: int) -> float:
        if not self.config.anneal:
            return 0.0
        first, last = self.config.anneal
        return min(max((step - first) / max(last - first, 1), 0.0), 1.0)

    def _weights_of(self, teacher: NodeLogits, lattice: PrunedLattice, valid_BTK: Tensor) -> Tensor:
        if self.config.node_weights in BY_ENTROPY:
            return teacher_entropy(
                teacher, lattice.tokens_BS, lattice.ranges_BTK, lattice.boundary_B4, valid_BTK
            )
        band = teacher_band(
            teacher, lattice.tokens_BS, lattice.ranges_BTK, BLANK, lattice.boundary_B4, self.rnnt_type
        )
        return teacher_weights(self.config.node_weights, band, valid_BTK)
