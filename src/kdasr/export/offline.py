"""A teacher's encoder as a module whose graph is in sherpa-onnx's contract of offline transducers.

The contract: icefall's `export-onnx.py` and sherpa-onnx's `offline-transducer-model.cc`. Whole utterances
go in, padded with ln(1e-10) to the length of the longest of the batch.
"""

# Shapes: N utterances, T feature frames, F features, U frames of 20 ms, C encoded frames, D width, J joiner
# width.

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.export.layers import Affine
from kdasr.export.zipformer2 import with_products
from kdasr.models.encoders.conformer import ConformerEncoder
from kdasr.models.encoders.zipformer2.encoder import Zipformer2Encoder
from kdasr.models.encoders.zipformer2.frames import CallFrames, visible_keys
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context

SHORTEST = 16
"""Feature frames of the shortest utterance that the graph is made for."""


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
            raise UserError("a causal zipformer2 is exported under chunks: give it a chunked context")
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
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return ["encoder_out", "encoder_out_lens"]

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

    def example(self, num_streams: int, num_features: int) -> tuple[Tensor, ...]:
        """Arguments of `forward`."""
        lens_N = torch.linspace(60, 90, num_streams).long()
        return torch.zeros(num_streams, 90, num_features), lens_N

    def forward(self, x_NTF: Tensor, x_lens_N: Tensor) -> tuple[Tensor, Tensor]:
        """Encoded frames, projected to the joiner (N, C, J), and how many of them are the utterance's."""
        lens_N = self.encoder.geometry.num_frames(x_lens_N)
        if isinstance(self.encoder, Zipformer2Encoder):
            encoded_NCD = _encode(self.encoder, x_NTF, x_lens_N)
        else:
            encoded_NCD = self.encoder(x_NTF, x_lens_N, Context.full()).encoded_BTD
        return self.project(encoded_NCD), lens_N


def _encode(encoder: Zipformer2Encoder, x_NTF: Tensor, x_lens_N: Tensor) -> Tensor:
    """`Zipformer2Encoder.forward` under the full context, in operations that take any length."""
    multiple = encoder.config.frame_multiple
    x_NUD, frame_lens_N, ends_N = encoder.whole(x_NTF, x_lens_N, Context.full())
    filled_NUD = functional.pad(x_NUD, (0, 0, 0, multiple - 1))
    block = filled_NUD.shape[1] // multiple * multiple
    x_N1UD = filled_NUD[:, :block].unsqueeze(1)
    processed_N = torch.zeros_like(frame_lens_N)
    call = CallFrames(
        block=block,
        chunk=block,
        left=0,
        visible_BNK=visible_keys(1, (0, block, 0), frame_lens_N, processed_N),
        all_valid=False,
        ends_B=ends_N,
        edge=None,
    )
    encoded_N1CD = encoder.encode_blocks(x_N1UD, call)
    return encoded_N1CD.squeeze(1)[:, : encoder.geometry.num_frames(x_NTF.shape[1])]
