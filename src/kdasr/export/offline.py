"""A teacher's encoder as a module whose graph is in sherpa-onnx's contract of offline transducers.

The contract: icefall's `export-onnx.py` and sherpa-onnx's `offline-transducer-model.cc`. Whole utterances
go in, padded with ln(1e-10) to the length of the longest of the batch.

The model's own layers compute. What depends on the length of the batch (masks, positions, ends) is computed
here, from sizes that a tracer follows: nothing may be the number that it was when the graph was written.
"""

# Shapes: N utterances, T feature frames, F features, U frames of 20 ms, C encoded frames, D width, J joiner
# width.

from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.export.layers import Affine
from kdasr.export.zipformer2 import with_products
from kdasr.models.encoders.conformer import ConformerEncoder, ConformerLayer
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder
from kdasr.models.encoders.zipformer2.frames import CallFrames
from kdasr.models.transducer.model import Transducer
from kdasr.nn.blocks import BlockPlan
from kdasr.nn.context import Context
from kdasr.nn.rotary import BASE, Rotation

SHORTEST = 9
"""Feature frames of the shortest batch that every graph takes: those of one encoded frame."""


class OfflineGraph(nn.Module):
    """The encoder under the full context, and the joiner's encoder projection."""

    def __init__(self, model: Transducer) -> None:
        """
        Raises:
            UserError: an encoder that streams with other parameters than it hears whole utterances with.
        """
        super().__init__()
        encoder = model.encoder
        if isinstance(encoder, Zipformer2Encoder) and encoder.config.causal:
            raise UserError(
                "a causal zipformer2 has no graph for whole utterances: export it under chunks, such as "
                "--context left=32,chunk=8"
            )
        assert isinstance(encoder, ConformerEncoder | Zipformer2Encoder)
        self.kind = encoder.config.type
        self.encoder = with_products(deepcopy(encoder).eval())
        self.project = Affine.of(model.joiner.encoder_projection)
        for stack in getattr(self.encoder, "stacks", ()):
            stack.position_type = torch.float32  # onnxruntime has no arc tangent in double precision

    @property
    def inputs(self) -> dict[str, dict[int, str]]:
        """Names of the inputs, and what varies in each."""
        return {"x": {0: "N", 1: "T"}, "x_lens": {0: "N"}}

    @property
    def outputs(self) -> dict[str, dict[int, str]]:
        """Names of the outputs, and what varies in each."""
        return {"encoder_out": {0: "N", 1: "C"}, "encoder_out_lens": {0: "N"}}

    @property
    def facts(self) -> dict[str, object]:
        """What a manifest keeps of the encoder beside its type."""
        return {}

    @property
    def metadata(self) -> dict[str, int | str]:
        """What sherpa-onnx reads."""
        return {
            "model_type": self.kind,
            "version": "1",
            "model_author": "k2-fsa",
            "comment": f"non-streaming {self.kind}",
        }

    def example(self, num_streams: int, num_features: int) -> tuple[Tensor, Tensor]:
        """Arguments of `forward`."""
        lens_N = torch.linspace(60, 90, num_streams).long()
        return torch.zeros(num_streams, 90, num_features), lens_N

    def forward(self, x_NTF: Tensor, x_lens_N: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded frames, projected to the joiner (N, C, J), and how many of them are the utterance's."""
        lens_N = self.encoder.geometry.num_frames(x_lens_N)
        if isinstance(self.encoder, Zipformer2Encoder):
            encoded_NCD = _encode_zipformer2(self.encoder, x_NTF, x_lens_N)
        else:
            encoded_NCD = _encode_conformer(self.encoder, x_NTF, lens_N)
        return self.project(encoded_NCD), lens_N


def _encode_conformer(encoder: ConformerEncoder, x_NTF: Tensor, lens_N: Tensor) -> Tensor:
    """`ConformerEncoder.forward` under the full context."""
    x_NCD = encoder.subsampling(encoder.feature_norm(x_NTF))
    x_N1CD = x_NCD.unsqueeze(1)
    frames_C = torch.arange(x_NCD.shape[1])
    valid_NC = frames_C < lens_N[:, None]
    visible_NC = valid_NC | ~valid_NC.any(dim=1, keepdim=True)
    rotation = _rotation(frames_C, encoder.config.dim // encoder.config.num_heads)
    plan = BlockPlan(
        chunk=x_NCD.shape[1],
        valid_BNW1=valid_NC[:, None, :, None],
        visible_BN1K=visible_NC[:, None, None],
        cache_rotation=Rotation(*(table_CA[:0] for table_CA in rotation)),
        block_rotation=Rotation(*(table_CA.unsqueeze(0) for table_CA in rotation)),
    )
    for layer in encoder.layers:
        layer = cast(ConformerLayer, layer)
        x_N1CD, _ = layer(x_N1CD, layer.init_state(x_NCD.shape[0], 0, x_NCD), plan)
    return x_N1CD.squeeze(1)


def _rotation(frames_C: Tensor, head_dim: int) -> Rotation:
    """`rotary_tables`, whose cosines onnxruntime has in single precision only: of angles within a turn."""
    turn = 2 * torch.pi
    frequencies_A = BASE ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    turns_CA = frames_C[:, None] * (frequencies_A / turn)
    angles_CA = (turn * (turns_CA - turns_CA.floor())).float()
    return Rotation(angles_CA.cos(), angles_CA.sin())


def _encode_zipformer2(encoder: Zipformer2Encoder, x_NTF: Tensor, x_lens_N: Tensor) -> Tensor:
    """`Zipformer2Encoder.forward` under the full context."""
    multiple = encoder.config.frame_multiple
    x_NUD, frame_lens_N, ends_N = encoder.whole(x_NTF, x_lens_N, Context.full())
    # Two frames at least at every rate: distances between one alone are a case of their own.
    block = (x_NUD.shape[1] + 2 * multiple - 1) // multiple * multiple
    x_NUD = functional.pad(x_NUD, (0, 0, 0, 2 * multiple - 1))[:, :block]
    call = CallFrames(
        block=block,
        chunk=block,
        left=0,
        visible_BNK=(torch.arange(block) < frame_lens_N[:, None]).unsqueeze(1),
        all_valid=False,
        ends_B=ends_N,
        edge=None,
    )
    encoded_N1CD = encoder.encode_blocks(x_NUD.unsqueeze(1), call)
    return encoded_N1CD.squeeze(1)[:, : encoder.geometry.num_frames(x_NTF.shape[1])]
