"""The student as three modules whose graphs are in sherpa-onnx's streaming conformer contract.

The contract: https://github.com/k2-fsa/sherpa-onnx, `online-conformer-transducer-model.cc`. Its runtime makes
two state tensors of zeros from the metadata, joins and splits them along the streams, and knows nothing of
what they hold. Here `cached_attn` (L, 2 A + 1, N, D) holds each layer's keys, rotated by their place in the
stream, and then its values, oldest first: a chunk moves both on by its own frames, and changes none of them.
Its last row counts the feature frames of the stream. And `cached_conv` (L, R, N, D) holds the convolutions'
left frames, channels first: as they are used.

After an endpoint sherpa-onnx counts from 0 again and keeps the states. The graph goes by its own count, so it
remembers what it has heard: a word that has begun before the endpoint was noticed is not lost.
"""

# Shapes: N streams, T feature frames of a window, F features, W encoder frames of a window (chunk and
# look-ahead), C of a chunk, A left-context frames, H heads, E width of a head, G = E / 2, D = H * E width,
# L layers, R left frames of the convolution, J joiner width, S pieces of the predictor's context, V pieces,
# M = N * W rows.

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdasr.common.errors import UserError
from kdasr.export.bundle import COUNTS
from kdasr.export.layers import Affine, FrontEndGraph, LayerGraph, Place, Turns
from kdasr.models.encoders.conformer import ConformerEncoder, ConformerLayer
from kdasr.models.predictors.stateless import StatelessPredictor
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.subsampling import EXTRA_FRAMES, FACTOR

_CARRY = 2**20
"""A count is kept as the sum of two numbers, as 32-bit ones are exact up to 46 hours only: the first of them
is a multiple of this."""


class EncoderGraph(nn.Module):
    """`ConformerEncoder.step` and the joiner's encoder projection, for windows all of whose frames are valid.

    States of zeros are those of a new stream.
    """

    thresholds_A: Tensor
    first_L11D: Tensor
    second_L11D: Tensor
    """Where a row holds the two numbers of a count."""

    def __init__(self, model: Transducer, context: Context) -> None:
        """
        Raises:
            UserError: the convolutions have no left frames.
        """
        super().__init__()
        assert not context.is_full
        encoder = model.encoder
        assert isinstance(encoder, ConformerEncoder)
        config = encoder.config
        if config.conv_kernel < 3:
            raise UserError(f"model.encoder.conv_kernel is {config.conv_kernel}; exporting needs at least 3")
        # A state tensor cannot be empty: without a left context it has one frame, which nobody sees.
        unseen = 1 if context.left == 0 else 0
        context = replace(context, left=context.left + unseen)
        self.context = context
        self.dim, self.heads, self.reach = config.dim, config.num_heads, config.conv_kernel // 2
        self.front_end = FrontEndGraph(encoder)
        self.layers = nn.ModuleList(
            LayerGraph(cast(ConformerLayer, layer), context) for layer in encoder.layers
        )
        self.project = Affine.of(model.joiner.encoder_projection)
        self.turns = Turns(context.window_frames, self.heads, self.dim // self.heads)
        # Feature frames that a stream must have processed for a cached key to be filled.
        thresholds_A = FACTOR * (context.left - torch.arange(context.left))
        thresholds_A[:unseen] = torch.iinfo(torch.int64).max
        self.register_buffer("thresholds_A", thresholds_A)
        for name, column_D in zip(("first_L11D", "second_L11D"), torch.eye(2, self.dim), strict=True):
            self.register_buffer(name, column_D.repeat(len(self.layers), 1, 1, 1))

    @property
    def window_features(self) -> int:
        """T."""
        return FACTOR * self.context.window_frames + EXTRA_FRAMES

    @property
    def metadata(self) -> dict[str, int | str]:
        """What sherpa-onnx reads: the shapes of the windows and of the two state tensors."""
        shift = FACTOR * self.context.chunk
        return {
            "model_type": "conformer",
            "num_encoder_layers": len(self.layers),
            "T": self.window_features,
            "decode_chunk_len": shift,
            "pad_length": self.window_features - shift,
            "left_context": self._rows,
            "encoder_dim": self.dim,
            "cnn_module_kernel": self.reach + 1,
            "chunk_size": self.context.chunk,
            "right_context": self.context.right,
        }

    @property
    def inputs(self) -> dict[str, int]:
        """Names of the inputs, and the dimension of each that is the stream."""
        return {"x": 0, "cached_attn": 2, "cached_conv": 2, "processed_lens": 0}

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return ["encoder_out", "new_cached_attn", "new_cached_conv"]

    @property
    def facts(self) -> dict[str, object]:
        """What a manifest keeps of the encoder beside its type."""
        return {COUNTS: True}

    @property
    def _rows(self) -> int:
        return 2 * self.context.left + 1

    def example(self, num_streams: int, num_features: int) -> tuple[Tensor, ...]:
        """Arguments of `forward`, of new streams."""
        x_NTF = torch.zeros(num_streams, self.window_features, num_features)
        return x_NTF, *self.zero_states(num_streams), torch.zeros(num_streams, dtype=torch.int64)

    def zero_states(self, num_streams: int) -> tuple[Tensor, Tensor]:
        """`cached_attn` and `cached_conv` of new streams."""
        layers = len(self.layers)
        return (
            torch.zeros(layers, self._rows, num_streams, self.dim),
            torch.zeros(layers, self.reach, num_streams, self.dim),
        )

    def forward(
        self, x_NTF: Tensor, cached_attn: Tensor, cached_conv: Tensor, processed_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode a window of each stream.

        Args:
            x_NTF: raw log-mel energies.
            cached_attn: (L, 2 A + 1, N, D).
            cached_conv: (L, R, N, D).
            processed_N: feature frames before these windows, int64, as the client counts them. What the
                state has counted is never less.

        Returns:
            Encoded frames, projected to the joiner (N, C, J), and both states after this chunk.
        """
        window, chunk = self.context.window_frames, self.context.chunk
        processed_N = torch.maximum(processed_N, self._unpack_count(cached_attn))
        keys, values = self._unpack_attention(cached_attn)
        frames = self._unpack_convolution(cached_conv)
        filled_NA = processed_N.unsqueeze(-1) >= self.thresholds_A
        mask_N11A = torch.where(filled_NA, 0.0, -torch.inf).view(-1, 1, 1, self.thresholds_A.shape[0])
        x_MD = self.front_end(x_NTF)
        place = Place(mask_N11A.to(x_MD.dtype), *self.turns(processed_N, x_MD))
        new_attention, new_frames = [], []
        for layer, *cached in zip(self.layers, keys, values, frames, strict=True):
            x_MD, attention_2NHWE, frame_NDR = layer(x_MD, *cached, place)
            new_attention.append(attention_2NHWE)
            new_frames.append(frame_NDR)
        x_NCD = (
            x_MD.view(-1, window, self.dim)[:, :chunk] if window > chunk else x_MD.view(-1, chunk, self.dim)
        )
        return (
            self.project(x_NCD),
            torch.cat(
                [
                    *self._pack_attention(cached_attn, new_attention),
                    self._pack_count(processed_N + FACTOR * chunk, cached_attn),
                ],
                dim=1,
            ),
            self._pack_convolution(new_frames),
        )

    def _unpack_count(self, cached_attn: Tensor) -> Tensor:
        """Feature frames before these windows, by the states' own count (N,)."""
        pair_11N2 = cached_attn[:1, 2 * self.context.left :, :, :2]
        return pair_11N2.to(torch.int64).sum(dim=3).view(-1)

    def _pack_count(self, count_N: Tensor, like: Tensor) -> Tensor:
        """The row of a count, the same in each layer (L, 1, N, D)."""
        count_N1 = count_N.view(-1, 1)
        rest_N1 = count_N1 % _CARRY
        carried_N1 = (count_N1 - rest_N1).to(like.dtype)
        return carried_N1 * self.first_L11D + rest_N1.to(like.dtype) * self.second_L11D

    def _unpack_attention(self, cached_attn: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Keys and values of each layer, (1, N, H, A, E)."""
        layers, left, head_dim = len(self.layers), self.context.left, self.dim // self.heads
        rows = cached_attn[:, : 2 * left]
        cached = rows.reshape(layers, 2, left, -1, self.heads, head_dim).permute(1, 0, 3, 4, 2, 5)
        parts = cached.reshape(2 * layers, -1, self.heads, left, head_dim).split(1)
        return parts[:layers], parts[layers:]

    def _pack_attention(self, cached_attn: Tensor, new: list[Tensor]) -> list[Tensor]:
        """Rows: the last A frames of the cache and of this chunk's keys and values, each (2, N, H, W, E)."""
        layers, left, chunk = len(self.layers), self.context.left, self.context.chunk
        window, head_dim = self.context.window_frames, self.dim // self.heads
        joined = torch.cat(new).view(layers, 2, -1, self.heads, window, head_dim).permute(1, 0, 4, 2, 3, 5)
        kept = min(chunk, left)
        recent = joined[:, :, chunk - kept : chunk].reshape(2 * layers, kept, -1, self.dim).split(layers)
        if kept == left:
            return list(recent)
        keys, values = (cached_attn[:, begin + chunk : begin + left] for begin in (0, left))
        return [keys, recent[0], values, recent[1]]

    def _unpack_convolution(self, cached_conv: Tensor) -> tuple[Tensor, ...]:
        """Left frames of each layer, (N, D, R)."""
        frames = cached_conv.transpose(1, 2).reshape(len(self.layers), -1, self.reach * self.dim)
        return frames.view(len(self.layers), -1, self.dim, self.reach).unbind(0)

    def _pack_convolution(self, frames: list[Tensor]) -> Tensor:
        cached = torch.stack(frames).view(len(self.layers), -1, self.reach, self.dim)
        return cached.transpose(1, 2)


class PredictorGraph(nn.Module):
    """The predictor's step and the joiner's predictor projection: contexts (N, S) to (N, J)."""

    table_VD: Tensor

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        predictor = model.predictor
        assert isinstance(predictor, StatelessPredictor), "no other has an export"
        self.context_size = predictor.context_size
        # A row of zeros in front: what id -1, which stands before the first piece, embeds to.
        table_VD = functional.pad(predictor.embedding.weight.detach(), (0, 0, 1, 0))
        self.register_buffer("table_VD", table_VD)
        self.combine = Affine.of(predictor.combine)
        self.project = Affine.of(model.joiner.predictor_projection)

    @property
    def metadata(self) -> dict[str, int | str]:
        """What sherpa-onnx reads."""
        return {"context_size": self.context_size, "vocab_size": self.table_VD.shape[0] - 1}

    def forward(self, context_NS: Tensor) -> Tensor:
        embedded = functional.embedding(context_NS + 1, self.table_VD)
        rows = embedded.view(-1, self.combine.weight_IO.shape[0])
        return self.project(functional.relu(self.combine(rows)))


class JoinerGraph(nn.Module):
    """The joiner on projected inputs: (N, J) and (N, J) to logits (N, V)."""

    def __init__(self, model: Transducer) -> None:
        super().__init__()
        self.output = Affine.of(model.joiner.output)
        self.metadata: dict[str, int | str] = {"joiner_dim": model.joiner.output.in_features}

    def forward(self, encoded_NJ: Tensor, predicted_NJ: Tensor) -> Tensor:
        return self.output(torch.tanh(encoded_NJ + predicted_NJ))
