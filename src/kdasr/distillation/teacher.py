"""The frozen teacher."""

# Shapes: B utterances, T frames, S pieces, D width.

import torch
from torch import Tensor

from kdasr.data.batch import Batch
from kdasr.distillation.lattice import joint_of
from kdasr.losses.joiner import Joint
from kdasr.models.encoders.base import EncoderOutput
from kdasr.models.transducer.config import TransducerConfig
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context


class Teacher:
    """A trained model that only answers: no dropout, no gradient.

    A plain class on purpose: as an attribute of a module it is neither trained, nor saved, nor synchronised
    between processes. The model is frozen in place, so it must not be the one that trains.
    """

    def __init__(self, model: Transducer, context: Context) -> None:
        self.model = model.eval().requires_grad_(False)
        self.context = context

    @property
    def config(self) -> TransducerConfig:
        """The model's sizes."""
        return self.model.config

    def to(self, device: torch.device | str) -> "Teacher":
        """Move the model."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, batch: Batch) -> EncoderOutput:
        """Encoder layers of a batch, in the teacher's own context, on the batch's device."""
        device = batch.features_BTF.device
        if next(self.model.parameters()).device != device:
            self.to(device)
        return self.model.encode(batch.features_BTF, batch.feature_lens_B, self.context)

    @torch.no_grad()
    def joint(self, encoded_BTD: Tensor, batch: Batch) -> Joint:
        """The joiner and its inputs, projected, for the pieces of a batch."""
        return joint_of(self.model, encoded_BTD, self.model.predictor(batch.tokens_BS, batch.history_BH))
