"""What a term of the objective declares, and the registry of terms.

A term is one file in this folder: a class with `@register`. The objective, the configuration's sections, the
log, the dev losses and the report's plots all take it from the registry. `docs/extending.md` shows one.
"""

# Shapes: B utterances, T encoder frames, K states kept per frame.

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, ClassVar, NamedTuple, TypeVar

from torch import Tensor, nn

from kdasr.data.batch import Batch
from kdasr.distillation.alignment import AlignedTeacher
from kdasr.distillation.lattice import PrunedLattice
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.teacher import Teacher
from kdasr.losses.lattice.joint import NodeLosses
from kdasr.losses.lattice.nodes import NodeTerm
from kdasr.losses.lattice.path_kl import PathTerm
from kdasr.models.transducer.model import Transducer, TransducerOutput
from kdasr.models.transducer.transducer_config import TransducerConfig


class Need(Enum):
    """What a term cannot do without."""

    TEXT = "text"
    TEACHER = "teacher"
    SECOND_CONTEXT = "second context"
    """The student's output on the same batch under the full context, with gradient."""
    SECOND_MASKS = "second masks"
    """Its output on the same batch with other masks of SpecAugment, with gradient."""


class Mode(Enum):
    """How the student heard the batch that a term looks at."""

    OWN = "own"
    """Under the context of the step."""
    FULL = "full"
    """Under the full context; for terms with `Need.SECOND_CONTEXT`."""
    REMASKED = "remasked"
    """Under the context of the step, with other masks; for terms with `Need.SECOND_MASKS`."""


class Unit(Enum):
    """What a term's sum over a batch is divided by."""

    FRAME = "frame"
    """Encoder frames."""
    UTTERANCE = "utterance"


class Setup(NamedTuple):
    """What a term is built from."""

    options: Any
    """The term's section of the configuration; None for a term without settings."""
    rnnt: RnntConfig
    """The settings of the lattice."""
    student: TransducerConfig
    teacher: Teacher | None


@dataclass(frozen=True)
class Given:
    """What a term is computed from."""

    model: Transducer
    """The student."""
    batch: Batch
    output: TransducerOutput
    """The student's."""
    step: int
    """Optimizer steps since the student began from scratch."""
    loss_weights: Mapping[str, float]
    teacher: AlignedTeacher | None = None
    """For `Need.TEACHER`."""
    second: TransducerOutput | None = None
    """The student's under the full context, on the same frames and after the same predictions; for
    `Need.SECOND_CONTEXT`. In `Mode.FULL`, that under the context of the step."""
    remasked: TransducerOutput | None = None
    """Likewise with other masks; for `Need.SECOND_MASKS`."""
    mode: Mode = Mode.OWN
    """Of `output`."""

    def in_mode(self, mode: Mode) -> "Given":
        """The same, seen from another mode than `OWN`: `output` takes the place of the one in this mode."""
        if mode is self.mode:
            return self
        if mode is Mode.REMASKED:
            assert self.remasked is not None
            return replace(self, output=self.remasked, remasked=self.output, mode=mode)
        assert self.second is not None
        return replace(self, output=self.second, second=self.output, mode=mode)


class Term(nn.Module):
    """A loss of each utterance. Parameters of a term train with the student's, and go into checkpoints."""

    name: ClassVar[str]
    """In `loss_weights` and in the log."""
    title: ClassVar[str]
    """Of its plot in the report, unit included."""
    unit: ClassVar[Unit] = Unit.UTTERANCE
    needs: ClassVar[frozenset[Need]] = frozenset()
    modes: frozenset[Mode] = frozenset({Mode.OWN})
    """In which it is computed; the sum of its values counts. Others than `OWN` take a need."""
    settings: ClassVar[type | None] = None
    """Dataclass of its options (`kdasr.common.ranges`); None: it has none."""
    section: ClassVar[str] = ""
    """Key of its settings under `objective`, and of its parameters in checkpoints; empty: `name`."""
    place: ClassVar[int] = 100
    """Among the plots: low ones first."""

    @classmethod
    def build(cls, setup: Setup) -> "Term":
        """The term of an objective.

        Raises:
            UserError: an option that the student or the teacher contradicts.
        """
        return cls()

    def forward(self, given: Given) -> Mapping[str, Tensor]:
        """Its value `(B,)` under its own name, before normalization; further names are for the log alone."""
        raise NotImplementedError


class Wanted(NamedTuple):
    """What a lattice term wants evaluated on the student's lattice."""

    nodes: NodeTerm | None = None
    path: PathTerm | None = None


class Found(NamedTuple):
    """What the pass over the student's lattice has found for a term."""

    lattice: PrunedLattice
    rnnt_B: Tensor
    """The pruned transducer loss in nats."""
    nodes: NodeLosses | None
    """Of what the term wanted."""
    path_B: Tensor | None


class LatticeTerm(Term):
    """A term on the student's pruned lattice. All of them share one lattice, and one pass over its logits."""

    trains_simple: ClassVar[bool] = False
    """Whether the simple loss, which prunes the lattice, gets a gradient when the term has a weight."""

    def prepare(self, lattice: PrunedLattice, given: Given) -> Wanted:
        """What to evaluate."""
        return Wanted()

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """As `Term.forward`, from what was evaluated."""
        raise NotImplementedError


TermT = TypeVar("TermT", bound=type[Term])
_registered: dict[str, type[Term]] = {}


def register(term: TermT) -> TermT:
    """Make a term known by its name; a decorator of its class.

    Raises:
        ValueError: the name or the section is another term's.
    """
    for known in _registered.values():
        if term.name == known.name or section_of(term) == section_of(known):
            raise ValueError(f"term '{term.name}': {known.__qualname__} has that name or section already")
    _registered[term.name] = term
    return term


def unregister(name: str) -> None:
    """Forget a term, for tests."""
    del _registered[name]


def section_of(term: type[Term]) -> str:
    """Its key under `objective`."""
    return term.section or term.name


def known_terms() -> dict[str, type[Term]]:
    """All terms by name, in the order of the plots."""
    return {term.name: term for term in sorted(_registered.values(), key=lambda term: term.place)}


def needing(need: Need, names: Iterable[str]) -> list[str]:
    """Those of the named terms that need this, sorted; unknown names need nothing."""
    return sorted(name for name in set(names) & set(_registered) if need in _registered[name].needs)
