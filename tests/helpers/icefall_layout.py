"""A checkpoint as icefall lays it out, of a small model with random weights."""

# Shapes of weights are (output, input, ...), as torch has them.

from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCAB, DECODER, JOINER = 24, 8, 10
FACTORS, LAYERS, DIMS, INNER, HEADS = (1, 2), (1, 2), (8, 12), (16, 24), (2, 3)
QUERY, POSITION, VALUE, POSITIONS, KERNELS = 4, 2, 3, 6, (7, 5)


@dataclass
class Unknown:
    """A class that no reader knows."""

    position: int = 3


@dataclass
class Layout:
    """What a model has."""

    causal: bool = False
    ctc: bool = True
    simple: bool = True
    attention_decoder: bool = False
    channels: tuple[int, int, int] = (8, 32, 128)
    layers: tuple[int, int] = LAYERS
    shapes: dict[str, tuple[int, ...]] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self._front_end()
        for stack in range(len(FACTORS)):
            self._stack(stack)
        self.shapes["encoder.downsample_output.bias"] = (2,)
        self._heads()

    def linear(self, name: str, outputs: int, *inputs: int, bias: bool = True) -> None:
        self.shapes[f"{name}.weight"] = (outputs, *inputs)
        if bias:
            self.shapes[f"{name}.bias"] = (outputs,)

    def norm(self, name: str, dim: int) -> None:
        self.shapes[f"{name}.log_scale"] = ()
        self.shapes[f"{name}.bias"] = (dim,)

    def _front_end(self) -> None:
        embed = "encoder_embed"
        first, second, third = self.channels
        self.linear(f"{embed}.conv.0", first, 1, 3, 3)
        self.linear(f"{embed}.conv.4", second, first, 3, 3)
        self.linear(f"{embed}.conv.7", third, second, 3, 3)
        self.linear(f"{embed}.convnext.depthwise_conv", third, 1, 7, 7)
        self.linear(f"{embed}.convnext.pointwise_conv1", 3 * third, third, 1, 1)
        self.linear(f"{embed}.convnext.pointwise_conv2", third, 3 * third, 1, 1)
        self.linear(f"{embed}.out", DIMS[0], third * 19)
        self.norm(f"{embed}.out_norm", DIMS[0])

    def _stack(self, stack: int) -> None:
        prefix, factor = f"encoder.encoders.{stack}", FACTORS[stack]
        if factor > 1:
            self.shapes[f"{prefix}.downsample.bias"] = (factor,)
            self.shapes[f"{prefix}.out_combiner.bypass_scale"] = (DIMS[stack],)
        for layer in range(self.layers[stack]):
            deeper = "encoder." if factor > 1 else ""
            self._layer(f"{prefix}.{deeper}layers.{layer}", stack)

    def _layer(self, prefix: str, stack: int) -> None:
        dim, inner, heads, kernel = DIMS[stack], INNER[stack], HEADS[stack], KERNELS[stack]
        hidden = 3 * dim // 4
        for name in ("bypass_scale", "bypass.bypass_scale", "bypass_mid.bypass_scale"):
            self.shapes[f"{prefix}.{name}"] = (dim,)
        self.linear(f"{prefix}.self_attn_weights.in_proj", heads * (2 * QUERY + POSITION), dim)
        self.linear(f"{prefix}.self_attn_weights.linear_pos", heads * POSITION, POSITIONS, bias=False)
        for number in (1, 2):
            self.linear(f"{prefix}.self_attn{number}.in_proj", heads * VALUE, dim)
            self.linear(f"{prefix}.self_attn{number}.out_proj", dim, heads * VALUE)
            self.linear(f"{prefix}.conv_module{number}.in_proj", 2 * dim, dim)
            self.linear(f"{prefix}.conv_module{number}.out_proj", dim, dim)
            conv = f"{prefix}.conv_module{number}.depthwise_conv"
            if self.causal:
                self.linear(f"{conv}.causal_conv", dim, 1, kernel // 2 + 1)
                self.linear(f"{conv}.chunkwise_conv", dim, 1, kernel)
                self.shapes[f"{conv}.chunkwise_conv_scale"] = (2, dim, kernel)
            else:
                self.linear(conv, dim, 1, kernel)
        for number, width in ((1, inner * 3 // 4), (2, inner), (3, inner * 5 // 4)):
            self.linear(f"{prefix}.feed_forward{number}.in_proj", width, dim)
            self.linear(f"{prefix}.feed_forward{number}.out_proj", dim, width)
        self.linear(f"{prefix}.nonlin_attention.in_proj", 3 * hidden, dim)
        self.linear(f"{prefix}.nonlin_attention.out_proj", dim, hidden)
        self.norm(f"{prefix}.norm", dim)

    def _heads(self) -> None:
        self.shapes["decoder.embedding.weight"] = (VOCAB, DECODER)
        self.shapes["decoder.conv.weight"] = (DECODER, 4, 2)
        self.linear("joiner.encoder_proj", JOINER, max(DIMS))
        self.linear("joiner.decoder_proj", JOINER, DECODER)
        self.linear("joiner.output_linear", VOCAB, JOINER)
        if self.simple:
            self.linear("simple_am_proj", VOCAB, max(DIMS))
            self.linear("simple_lm_proj", VOCAB, DECODER)
        if self.ctc:
            self.linear("ctc_output.1", VOCAB, max(DIMS))
        if self.attention_decoder:
            self.linear("attention_decoder.decoder.output_layer", VOCAB, 4)

    def weights(self, seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return OrderedDict(
            (name, 0.2 * torch.randn(shape, generator=generator)) for name, shape in self.shapes.items()
        )

    def options(self) -> dict[str, Any]:
        """As a training of icefall's writes them: lists are texts."""
        lists = {
            "num_encoder_layers": self.layers,
            "downsampling_factor": FACTORS,
            "encoder_dim": DIMS,
            "encoder_unmasked_dim": (8, 8),
            "feedforward_dim": INNER,
            "num_heads": HEADS,
            "query_head_dim": (QUERY,),
            "pos_head_dim": (POSITION,),
            "value_head_dim": (VALUE,),
            "cnn_module_kernel": KERNELS,
        }
        texts = {name: ",".join(map(str, values)) for name, values in lists.items()}
        return {**texts, "pos_dim": POSITIONS, "causal": self.causal, "chunk_size": "16,32,64,-1"}

    def save_epoch(self, path: Path, *, batches: int = 604, seed: int = 0, **more: Any) -> Path:
        """As icefall saves a training: with states that nobody needs here, and objects of all kinds."""
        average = {name: value.double() for name, value in self.weights(seed + 1).items()}
        content = {
            "model": {f"module.{name}": value for name, value in self.weights(seed).items()},
            "optimizer": {"state": {0: {"step": 4}}, "param_groups": []},
            "sampler": {"epoch": 1, "of": Unknown()},
            "model_avg": average,
            **self.options(),
            "exp_dir": path.parent,
            "dtype": torch.float16,
            "batch_idx_train": batches,
            "average_period": 200,
            **more,
        }
        torch.save(content, path)
        return path

    def save_weights(self, path: Path, seed: int = 0, **changes: Tensor | None) -> Path:
        """As icefall exports weights alone. A change of None takes a weight out."""
        weights: dict[str, Tensor | None] = {**self.weights(seed), **changes}
        torch.save({"model": OrderedDict((n, v) for n, v in weights.items() if v is not None)}, path)
        return path
