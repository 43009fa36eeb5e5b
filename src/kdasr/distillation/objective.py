"""The training objective: a weighted sum of terms, each computed only when it has a weight."""

# Shapes: B utterances.

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.data.batch import Batch
from kdasr.distillation.config import TEACHER_TERMS, TERM_NAMES, ObjectiveConfig
from kdasr.distillation.hidden_term import HiddenTerm
from kdasr.distillation.lattice import LatticeBuilder
from kdasr.distillation.output_term import OutputTerm
from kdasr.distillation.path_term import PathTerm
from kdasr.distillation.teacher import Teacher
from kdasr.distillation.transducer_term import is_warm, rnnt_term
from kdasr.losses.ctc import ctc_loss
from kdasr.losses.kl import PowerKl
from kdasr.losses.path_kl import PathKl
from kdasr.models.encoders.conformer import EncoderOutput
from kdasr.models.transducer.config import TransducerConfig
from kdasr.models.transducer.model import Transducer, TransducerOutput
from kdasr.nn.context import Context

FRAME_TERMS = frozenset({"rnnt", "ctc", "rnnt_simple", "rnnt_pruned", "path_kl"})
"""Terms in nats per encoder frame; the others are means over utterances."""


@dataclass
class Losses:
    """One batch's losses."""

    total: Tensor
    """Scalar: the terms that have a weight, times it."""
    terms: dict[str, Tensor]
    """Detached scalars. `rnnt`, `ctc` and `path_kl` (and the parts `rnnt_simple`, `rnnt_pruned`) in nats per
    encoder frame; `hidden_mse`, `output_kl` (and the mean exponent `kl_exponent`) as means over
    utterances."""
    per_utterance: dict[str, Tensor]
    """The same before normalisation, `(B,)`, detached: to name the utterance whose loss is not finite."""


class Objective(nn.Module):
    """Computes the losses of a student on a batch.

    Its parameters are the projections of `hidden_mse` between different widths; the teacher is no part of
    it, neither of its parameters nor of its state dict.
    """

    def __init__(self, config: ObjectiveConfig, student: TransducerConfig, teacher: Teacher | None) -> None:
        """
        Raises:
            UserError: an unknown name or impossible number in `config`, or a teacher with other pieces or
                other features than the student.
        """
        super().__init__()
        check_options(config, "objective")
        self.config = config
        self.teacher = teacher
        self.lattices = LatticeBuilder(config.rnnt)
        self.output = OutputTerm(config.output, config.rnnt.rnnt_type)
        self.path = PathTerm(config.path, config.rnnt.rnnt_type)
        self.hidden: HiddenTerm | None = None
        if teacher is not None:
            _check_teacher(student, teacher.config)
            self.hidden = HiddenTerm(config.hidden, student.encoder, teacher.config.encoder)

    def forward(
        self,
        model: Transducer,
        batch: Batch,
        *,
        loss_weights: dict[str, float],
        context: Context,
        step: int,
        frames: float | None = None,
        utterances: float | None = None,
    ) -> Losses:
        """Compute the terms that have a weight.

        Args:
            model: the student.
            batch: features and pieces on the model's device.
            loss_weights: term name -> weight; a weight of 0 computes the term for the log only.
            context: the student's encoder context.
            step: optimizer steps since the student began from scratch; drives the warm-up of `rnnt`.
            frames: what `rnnt`, `ctc` and `path_kl` are divided by; None: the batch's encoder frames.
            utterances: what the other terms are divided by; None: the batch's size.

        Returns:
            The losses, float32. Utterances that no path fits have an infinite `rnnt` and no gradient.

        Raises:
            UserError: an unknown term, or one that needs a teacher where there is none.
        """
        self._check_terms(loss_weights)
        output = model(batch.features_BTF, batch.feature_lens_B, batch.tokens_BS, context, batch.history_BH)
        values: dict[str, Tensor] = {}
        taught = self.teacher.encode(batch) if self.teacher and TEACHER_TERMS & set(loss_weights) else None
        if "hidden_mse" in loss_weights:
            assert taught is not None and self.hidden is not None
            values["hidden_mse"] = self.hidden(output.hidden, taught.hidden, output.lens_B)
        if "ctc" in loss_weights:
            logits_BTV = model.ctc_head(output.encoded_BTD)
            values["ctc"] = ctc_loss(logits_BTV, output.lens_B, batch.tokens_BS, batch.token_lens_B)
        if {"rnnt", "output_kl", "path_kl"} & set(loss_weights):
            values |= self._lattice_terms(model, batch, output, taught, loss_weights, step)
        return _weigh(
            values,
            loss_weights,
            frames=max(float(output.lens_B.sum()), 1.0) if frames is None else frames,
            utterances=float(len(batch)) if utterances is None else utterances,
        )

    def _lattice_terms(
        self,
        model: Transducer,
        batch: Batch,
        output: TransducerOutput,
        taught: EncoderOutput | None,
        loss_weights: dict[str, float],
        step: int,
    ) -> dict[str, Tensor]:
        """`rnnt`, `output_kl` and `path_kl`, which share the pruned lattice and its logits."""
        rnnt = self.config.rnnt
        warm = is_warm(rnnt, step)
        lattice = self.lattices.build(
            model, output, batch, train_simple=bool(loss_weights.get("rnnt")), warm=warm
        )
        term: PowerKl | None = None
        path: PathKl | None = None
        if {"output_kl", "path_kl"} & set(loss_weights):
            assert taught is not None and self.teacher is not None
            joint = self.teacher.joint(taught.encoded_BTD, batch)
            term = self.output(lattice, joint) if "output_kl" in loss_weights else None
            path = self.path(lattice, joint) if "path_kl" in loss_weights else None
        losses = self.lattices.evaluate(
            lattice, warm=warm, nodes=[term] if term else [], paths=[path] if path else []
        )
        values: dict[str, Tensor] = {}
        if "rnnt" in loss_weights:
            values["rnnt"] = rnnt_term(rnnt, step, lattice.simple_B, losses.rnnt_B)
            values["rnnt_simple"] = lattice.simple_B
            values["rnnt_pruned"] = losses.rnnt_B
        if term is not None:
            values["output_kl"], values["kl_exponent"] = losses.nodes[0]
        if path is not None:
            values["path_kl"] = losses.paths[0]
        return values

    def _check_terms(self, loss_weights: dict[str, float]) -> None:
        unknown = set(loss_weights) - set(TERM_NAMES)
        if unknown or not loss_weights:
            raise UserError(
                f"loss_weights {sorted(loss_weights)}: expected one or more of {', '.join(TERM_NAMES)}"
            )
        needs_teacher = TEACHER_TERMS & set(loss_weights)
        if needs_teacher and self.teacher is None:
            raise UserError(f"loss_weights has {sorted(needs_teacher)}, but there is no teacher")


def _weigh(
    values: dict[str, Tensor], loss_weights: dict[str, float], *, frames: float, utterances: float
) -> Losses:
    terms = {
        name: value_B.sum() / (frames if name in FRAME_TERMS else utterances)
        for name, value_B in values.items()
    }
    weighed = [weight * terms[name] for name, weight in loss_weights.items() if weight != 0.0]
    return Losses(
        total=torch.stack(weighed).sum() if weighed else next(iter(terms.values())) * 0.0,
        terms={name: term.detach() for name, term in terms.items()},
        per_utterance={name: value_B.detach() for name, value_B in values.items()},
    )


def _check_teacher(student: TransducerConfig, teacher: TransducerConfig) -> None:
    for name in ("vocab_size", "num_features"):
        own, other = getattr(student, name), getattr(teacher, name)
        if own != other:
            raise UserError(
                f"the teacher's {name} is {other}, the student's is {own}: "
                "both need the same tokenizer and features"
            )
