"""The objective of speech with and without transcripts: each batch is of one kind.

A paired batch goes to the supervised objective as it is. For an unpaired one the proposal model proposes, the
labeler chooses and weighs, and the loss is that of `prior_matching`: `lpm` in the log.
"""

# Shapes: B utterances, T feature frames, F mel bins, N hypotheses.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kdasr.common.ranges import check_options
from kdasr.data.augment import spec_augment
from kdasr.data.batch import Batch
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.data.text_normalization import split_words
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import UnpairedConfig
from kdasr.distillation.step import Denominators, Losses, StepInput, StepObjective
from kdasr.evaluation.wer import word_errors
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.labels import Labeler, Labels, label_search
from kdasr.self_training.prior_matching import nothing_to_learn, tiled_nll, weighted_sums
from kdasr.self_training.proposals import ProposalModel


class Decoder(Protocol):
    """What turns pieces into words: a tokenizer."""

    def decode(self, ids: list[int]) -> str: ...


@dataclass(frozen=True)
class UnpairedParts:
    """What unpaired batches need."""

    config: UnpairedConfig
    proposal: ProposalModel
    labeler: Labeler
    tokenizer: Decoder
    spec_augment: SpecAugmentConfig
    """Masks on what the student hears; the proposal model hears all of it."""
    transcripts: Mapping[str, str]
    """Those of utterances that have one, normalized as the pieces are; for the log alone."""


class SemiSupervisedObjective(StepObjective):
    """In the place of a transducer's `Objective`; its state dict holds the proposal model."""

    def __init__(self, paired: Objective, parts: UnpairedParts) -> None:
        """
        Raises:
            UserError: an unknown rule or an impossible number in the configuration.
        """
        super().__init__()
        check_options(parts.config, "unpaired")
        self.paired = paired
        self.proposal = parts.proposal
        self.parts = parts

    def count(self, batch: Batch) -> Denominators:
        """See `Objective.count`."""
        return self.paired.count(batch)

    def forward(self, model: Transducer, inputs: StepInput) -> Losses:
        """The losses of a batch; see `Objective.forward`, whose terms paired batches have.

        An unpaired batch has `lpm`, in the unit of `unpaired.normalize`, and means over its utterances:
        `survivors` (labels), `filtered` (1 without a label), `weight_entropy` in nats; also the number of
        `proposal_updates` so far. Where transcripts are
        known, `label_errors` (word errors of the labels, weighted) and `label_words` (of the transcripts),
        both of utterances with labels only: their ratio is the labels' word error rate.
        """
        batch: Batch = inputs.batch
        if batch.paired:
            return self.paired(model, inputs)
        frames, utterances = inputs.denominators or (
            max(float(model.geometry.num_frames(batch.feature_lens_B).sum()), 1.0),
            float(len(batch)),
        )
        model.encoder.share = self.parts.config.weight * inputs.share
        labels = self._label(batch)
        loss_B = self._loss(model, batch, labels, inputs.context, inputs.step)
        possible_B = loss_B.masked_fill(loss_B.detach() == torch.inf, 0.0)
        loss = possible_B.sum() / (frames if self.parts.config.normalize == "frames" else utterances)
        terms = {"lpm": loss.detach()}
        for name, total in self._statistics(labels, batch).items():
            terms[name] = torch.tensor(total / utterances, device=loss.device)
        return Losses(self.parts.config.weight * loss, terms, {"lpm": loss_B.detach()})

    def _label(self, batch: Batch) -> Labels:
        search = label_search(self.parts.config.labels)
        proposals = self.proposal.propose(batch.features_BTF, batch.feature_lens_B, search)
        return self.parts.labeler(batch.ids, proposals, batch.features_BTF.device)

    def _loss(self, model: Transducer, batch: Batch, labels: Labels, context: Context, step: int) -> Tensor:
        """The loss (B,) of each utterance in nats."""
        if not labels.owners:
            return nothing_to_learn(model).expand(len(batch))
        encoded = model.encode(self._augment(batch), batch.feature_lens_B, context)
        paired = self.paired
        nll_N = tiled_nll(model, encoded, labels, paired.lattices, paired.config.rnnt, step)
        return weighted_sums(nll_N, labels)

    def _augment(self, batch: Batch) -> Tensor:
        """The features (B, T, F) that the student hears; masked after the search, which hears everything."""
        config = self.parts.spec_augment
        if not config.enabled:
            return batch.features_BTF
        # From the global generator, which a resume restores.
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        masked_BTF = spec_augment(batch.features_BTF.cpu(), batch.feature_lens_B, config, generator)
        return masked_BTF.to(batch.features_BTF.device)

    def _statistics(self, labels: Labels, batch: Batch) -> dict[str, float]:
        """Sums over the batch."""
        sums = {"survivors": float(len(labels.pieces)), "filtered": float(len(batch)), "weight_entropy": 0.0}
        sums["proposal_updates"] = float(self.proposal.updates) * len(batch)
        errors, words = 0.0, 0.0
        for owner, weights_K, pieces in labels.shares():
            sums["filtered"] -= 1.0
            sums["weight_entropy"] += float(torch.special.entr(weights_K).sum())
            text = self.parts.transcripts.get(batch.ids[owner])
            if text is None:
                continue
            words += len(split_words(text))
            for weight, row in zip(weights_K.tolist(), pieces, strict=True):
                errors += weight * word_errors(text, self.parts.tokenizer.decode(list(row))).total
        if self.parts.transcripts:
            sums |= {"label_errors": errors, "label_words": words}
        return sums
