"""Walk "A foreign teacher" of docs/extending.md: hidden layers of a network that kdasr did not train."""

# Shapes: B utterances, T feature frames, U the network's frames, F features, D width.

import torch
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.distillation.teacher import TeacherFrames, TeacherOutput
from kdasr.losses.lattice.joiner import NodeLogits
from kdasr.models.encoders.base import Geometry, HiddenLayer


class LayersTeacher:
    """Any network from features to hidden layers, such as an encoder with other pieces or with none.

    It has no distribution over the student's pieces, so terms that compare outputs cannot use it.
    """

    def __init__(self, network: nn.Module, num_features: int, vocab_size: int) -> None:
        self.network = network.eval().requires_grad_(False)
        self.num_features = num_features
        self.vocab_size = vocab_size
        # A frame per 20 ms, of 5 feature frames: `overlap` is 5 - 2. One layer, 16 wide, of that rate.
        self.geometry = Geometry(16, stride=2, overlap=3, whole_overlap=3, hidden=(HiddenLayer(16, 2),))

    @torch.no_grad()
    def encode(self, batch: Batch) -> TeacherOutput:
        layer_BUD: Tensor = self.network(batch.features_BTF)
        lens_B = self.geometry.num_frames(batch.feature_lens_B.cpu())
        seconds = self.geometry.frame_seconds
        hidden = [TeacherFrames(layer_BUD, lens_B, seconds)]
        return TeacherOutput(hidden, lens_B, layer_BUD.shape[1], seconds, self._nodes)

    def _nodes(self) -> NodeLogits:
        raise UserError("this teacher has no pieces: hidden_mse is the only term that can use it")
