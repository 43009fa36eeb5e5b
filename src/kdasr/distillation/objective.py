"""The training objective: a weighted sum of terms, each computed only when it has a weight."""

# Shapes: B utterances.

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.data.batch import Batch
from kdasr.distillation.alignment import AlignedTeacher
from kdasr.distillation.lattice import LatticeBuilder
from kdasr.distillation.objective_config import ObjectiveOptions
from kdasr.distillation.step import Denominators, Losses, StepInput, StepObjective
from kdasr.distillation.teacher import Teacher
from kdasr.distillation.terms.base import (
    Found,
    Given,
    LatticeTerm,
    Mode,
    Need,
    Setup,
    Term,
    Unit,
    known_terms,
    needing,
    section_of,
)
from kdasr.distillation.terms.rnnt import is_warm
from kdasr.models.transducer.model import Transducer, TransducerOutput
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context


class Objective(StepObjective):
    """Computes the losses of a student on a batch.

    Its parameters are those of its terms, such as the projections of `hidden_mse` between different widths;
    teachers are no part of it, neither of its parameters nor of its state dict.
    """

    def __init__(
        self,
        config: ObjectiveOptions,
        student: TransducerConfig,
        teacher: Teacher | None,
        more_teachers: Sequence[Teacher] = (),
    ) -> None:
        """
        Args:
            config: settings of the terms.
            student: its sizes.
            teacher: for terms that need one.
            more_teachers: their output distributions are averaged with the teacher's.

        Raises:
            UserError: an unknown name or impossible number in `config`, or a teacher with other pieces or
                other features than the student.
        """
        super().__init__()
        check_options(config, "objective")
        self.config = config
        self.geometry = student.geometry
        self.teacher = teacher
        self.teachers = [one for one in (teacher, *more_teachers) if one is not None]
        for one in self.teachers:
            _check_teacher(student, one)
        self.lattices = LatticeBuilder(config.rnnt)
        self.terms: dict[str, Term] = {}
        for name, kind in known_terms().items():
            if Need.TEACHER in kind.needs and teacher is None:
                continue
            options = getattr(config, section_of(kind), None) or (kind.settings() if kind.settings else None)
            self.terms[name] = kind.build(Setup(options, config.rnnt, student, teacher))
            self.add_module(section_of(kind), self.terms[name])

    def count(self, batch: Batch) -> Denominators:
        """Encoder frames and utterances."""
        return Denominators(float(self.geometry.num_frames(batch.feature_lens_B).sum()), float(len(batch)))

    def forward(self, model: Transducer, inputs: StepInput) -> Losses:
        """Compute the terms that have a weight.

        Returns:
            The losses, float32. Where no path fits an utterance, its term is infinite in `per_utterance`, and
            counts nothing in `terms` and in the gradient.

        Raises:
            UserError: an unknown term, or one that needs a teacher where there is none.
        """
        self._check_terms(inputs.loss_weights)
        given = self._given(model, inputs)
        wanted = [term for name, term in self.terms.items() if name in inputs.loss_weights]
        # First those that need the teacher: its hidden layers are not needed later.
        wanted.sort(key=lambda term: Need.TEACHER not in term.needs)
        values: dict[str, Tensor] = {}
        per_frame: set[str] = set()
        for mode in Mode:
            for term, found in self._computed([term for term in wanted if mode in term.modes], given, mode):
                for name, value_B in found.items():
                    values[name] = values[name] + value_B if name in values else value_B
                per_frame |= set(found) if term.unit is Unit.FRAME else set()
        own = Denominators(max(float(given.output.lens_B.sum()), 1.0), float(len(inputs.batch)))
        return _weigh(values, inputs.loss_weights, inputs.denominators or own, frozenset(per_frame))

    def _computed(
        self, terms: Sequence[Term], given: Given, mode: Mode
    ) -> list[tuple[Term, Mapping[str, Tensor]]]:
        """The values of terms in one mode."""
        if not terms:
            return []
        given = given.in_mode(mode)
        alone = [(term, term(given)) for term in terms if not isinstance(term, LatticeTerm)]
        return [*alone, *self._on_lattice([term for term in terms if isinstance(term, LatticeTerm)], given)]

    def _given(self, model: Transducer, inputs: StepInput) -> Given:
        batch: Batch = inputs.batch

        features = batch.features_BTF, batch.feature_lens_B
        output = cast(TransducerOutput, model(*features, batch.tokens_BS, inputs.context, batch.history_BH))
        teacher, second, remasked = None, None, None
        if needing(Need.TEACHER, inputs.loss_weights):
            answers = [one.encode(batch.for_teacher()) for one in self.teachers]
            num_frames, frame_seconds = output.encoded_BTD.shape[1], model.geometry.frame_seconds
            teacher = AlignedTeacher(answers, num_frames, output.lens_B, frame_seconds)
        if needing(Need.SECOND_CONTEXT, inputs.loss_weights):
            second = _again(model, batch, Context.full(), output)
        if needing(Need.SECOND_MASKS, inputs.loss_weights):
            remasked = _again(model, batch.for_teacher(), inputs.context, output)
        return Given(model, batch, output, inputs.step, inputs.loss_weights, teacher, second, remasked)

    def _on_lattice(
        self, terms: Sequence[LatticeTerm], given: Given
    ) -> list[tuple[Term, Mapping[str, Tensor]]]:
        """The values of terms that share the pruned lattice and one pass over the student's logits on it."""
        if not terms:
            return []
        warm = is_warm(self.config.rnnt, given.step)
        train_simple = any(term.trains_simple and given.loss_weights[term.name] for term in terms)
        lattice = self.lattices.build(
            given.model, given.output, given.batch, train_simple=train_simple, warm=warm
        )
        wanted = [term.prepare(lattice, given) for term in terms]
        losses = self.lattices.evaluate(
            lattice,
            warm=warm,
            nodes=[one.nodes for one in wanted if one.nodes is not None],
            paths=[one.path for one in wanted if one.path is not None],
        )
        nodes, paths = iter(losses.nodes), iter(losses.paths)
        values: list[tuple[Term, Mapping[str, Tensor]]] = []
        for term, one in zip(terms, wanted, strict=True):
            found = Found(
                lattice,
                losses.rnnt_B,
                None if one.nodes is None else next(nodes),
                None if one.path is None else next(paths),
            )
            values.append((term, term.collect(found, given)))
        return values

    def _check_terms(self, loss_weights: dict[str, float]) -> None:
        known = known_terms()
        if set(loss_weights) - set(known) or not loss_weights:
            raise UserError(
                f"loss_weights {sorted(loss_weights)}: expected one or more of {', '.join(known)}"
            )
        needs_teacher = needing(Need.TEACHER, loss_weights)
        if needs_teacher and self.teacher is None:
            raise UserError(f"loss_weights has {needs_teacher}, but there is no teacher")


def _again(model: Transducer, batch: Batch, context: Context, first: TransducerOutput) -> TransducerOutput:
    """The student on a batch that it has heard in this step, after the same predictions."""
    with model.encoder.repeating():
        encoded = model.encode(batch.features_BTF, batch.feature_lens_B, context)
    return TransducerOutput(*encoded, first.predicted_BSD)


def _weigh(
    values: dict[str, Tensor],
    loss_weights: dict[str, float],
    denominators: Denominators,
    per_frame: frozenset[str],
) -> Losses:
    terms = {
        name: _possible(value_B).sum()
        / (denominators.frames if name in per_frame else denominators.utterances)
        for name, value_B in values.items()
    }
    weighed = [weight * terms[name] for name, weight in loss_weights.items() if weight != 0.0]
    return Losses(
        total=torch.stack(weighed).sum() if weighed else next(iter(terms.values())) * 0.0,
        terms={name: term.detach() for name, term in terms.items()},
        per_utterance={name: value_B.detach() for name, value_B in values.items()},
        per_frame=per_frame,
    )


def _possible(value_B: Tensor) -> Tensor:
    """Values with 0 for those that are infinite: no path fits. NaN stays: something is wrong."""
    return value_B.masked_fill(value_B.detach() == torch.inf, 0.0)


def _check_teacher(student: TransducerConfig, teacher: Teacher) -> None:
    for name in ("vocab_size", "num_features"):
        own, other = getattr(student, name), getattr(teacher, name)
        if own != other:
            raise UserError(
                f"the teacher's {name} is {other}, the student's is {own}: "
                "both need the same tokenizer and features"
            )
