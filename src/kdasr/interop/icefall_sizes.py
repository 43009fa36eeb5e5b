"""The sizes of icefall's Zipformer2 transducers: from options of their training, or from their weights."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.data.features import NUM_MEL_BINS
from kdasr.models.encoders.zipformer2 import Zipformer2Config
from kdasr.models.encoders.zipformer2.front_end import num_features_left
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.transducer_config import TransducerConfig

USUAL_QUERY_DIM = 32
"""Of a head, in all published models; with it the number of heads follows from the weights."""
ENCODER_OPTIONS = tuple(
    entry.name
    for entry in fields(Zipformer2Config)
    if entry.name not in ("type", "warmup_batches", "ref_duration", "padding")
)
CONVOLUTIONS = tuple(f"encoder_embed.conv.{index}.weight" for index in (0, 4, 7))
"""Of the front end."""
Weights = Mapping[str, Tensor]


def transducer_config(weights: Weights, options: Mapping[str, Any], source: str) -> TransducerConfig:
    """The configuration of a model.

    Args:
        weights: by icefall's names.
        options: icefall's, as the training or the user gives them; what they do not say is inferred.
        source: what messages begin with.

    Raises:
        UserError: not a Zipformer2 transducer, or options that no model can have.
    """
    for name in (*CONVOLUTIONS, "encoder.downsample_output.bias"):
        if name not in weights:
            raise UserError(f"{source}: not a Zipformer2 of icefall: it has no '{name}'")
    for name in ("decoder.embedding.weight", "joiner.output_linear.weight"):
        if name not in weights:
            raise UserError(f"{source}: not a transducer: it has no '{name}'")
    if "decoder.conv.weight" not in weights:
        raise UserError(f"{source}: its decoder has a context of one piece; kdasr takes two or more")
    given = {name: _parsed(name, options[name], source) for name in ENCODER_OPTIONS if name in options}
    encoder = {**inferred_options(weights, given, source), **given}
    vocab_size, predictor_dim = weights["decoder.embedding.weight"].shape
    config = build_config(Zipformer2Config, encoder, source=f"{source}: encoder options")
    layers, found = [stack.num_layers for stack in config.stacks], _stacks(weights, source)
    if layers != found:
        raise UserError(f"{source}: num_encoder_layers is {layers}; its weights are of {found} layers")
    return TransducerConfig(
        num_features=_num_features(weights, source),
        vocab_size=vocab_size,
        encoder=config,
        predictor=StatelessConfig(dim=predictor_dim, context_size=weights["decoder.conv.weight"].shape[2]),
        joiner_dim=weights["joiner.output_linear.weight"].shape[1],
    )


def inferred_options(weights: Weights, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The options of the encoder as far as shapes tell them; heads with the usual width of a query.

    `encoder_unmasked_dim`, which only training uses, is in no shape: it is all of a stack's channels.

    Raises:
        UserError: the weights lack a stack, or the heads do not fit the width of a query.
    """
    columns: dict[str, list[int]] = {}
    for index, layers in enumerate(_stacks(weights, source)):
        sizes = {"num_encoder_layers": layers, **_stack_options(weights, index, given, source)}
        for name, value in sizes.items():
            columns.setdefault(name, []).append(value)
    columns["encoder_unmasked_dim"] = list(columns["encoder_dim"])
    position = next(w for n, w in weights.items() if n.endswith("self_attn_weights.linear_pos.weight"))
    causal = any(name.endswith("chunkwise_conv_scale") for name in weights)
    channels = {f"layer{1 + i}_channels": len(weights[name]) for i, name in enumerate(CONVOLUTIONS)}
    return {**columns, **channels, "pos_dim": position.shape[1], "causal": causal}


def _stacks(weights: Weights, source: str) -> list[int]:
    """Layers of each stack."""
    pattern = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.norm\.bias")
    found = [match.groups() for name in weights if (match := pattern.fullmatch(name))]
    stacks: dict[int, int] = {}
    for stack, layer in found:
        stacks[int(stack)] = max(stacks.get(int(stack), 0), int(layer) + 1)
    if sorted(stacks) != list(range(len(stacks))) or not stacks:
        raise UserError(f"{source}: not a Zipformer2 of icefall: it has the stacks {sorted(stacks)}")
    return [stacks[index] for index in range(len(stacks))]


def _stack_options(weights: Weights, index: int, given: Mapping[str, Any], source: str) -> dict[str, int]:
    """The sizes of one stack; `given` may hold its number of heads, or the width of a query."""
    prefix = f"encoder.encoders.{index}."
    is_deep = f"{prefix}downsample.bias" in weights
    first = f"{prefix}encoder.layers.0." if is_deep else f"{prefix}layers.0."
    conv = f"{first}conv_module1.depthwise_conv."
    try:
        projected, dim = weights[f"{first}self_attn_weights.in_proj.weight"].shape
        pos_width = weights[f"{first}self_attn_weights.linear_pos.weight"].shape[0]
        value_width = weights[f"{first}self_attn1.in_proj.weight"].shape[0]
        inner = weights[f"{first}feed_forward2.in_proj.weight"].shape[0]
        inner_conv = f"{conv}chunkwise_conv.weight"
        kernel = weights[inner_conv if inner_conv in weights else f"{conv}weight"].shape[-1]
    except KeyError as error:
        raise UserError(f"{source}: not a Zipformer2 of icefall: it has no {error}") from None
    except (ValueError, IndexError):
        raise UserError(f"{source}: not a Zipformer2 of icefall: {first}* has other dimensions") from None
    query_width = (projected - pos_width) // 2
    query_dim = _of_stack(given.get("query_head_dim", [USUAL_QUERY_DIM]), index)
    num_heads = _of_stack(given.get("num_heads", [query_width // query_dim or 1]), index)
    expected = num_heads * query_dim if "query_head_dim" in given or "num_heads" not in given else query_width
    if expected != query_width or any(width % num_heads for width in (query_width, pos_width, value_width)):
        raise UserError(
            f"{source}: stack {index} has queries of {query_width} channels in all, which is not "
            f"{num_heads} heads of {query_dim}; say which, with "
            "--option num_heads=... or --option query_head_dim=..."
        )
    return {
        "downsampling_factor": weights[f"{prefix}downsample.bias"].shape[0] if is_deep else 1,
        "encoder_dim": dim,
        "feedforward_dim": inner,
        "num_heads": num_heads,
        "query_head_dim": query_width // num_heads,
        "pos_head_dim": pos_width // num_heads,
        "value_head_dim": value_width // num_heads,
        "cnn_module_kernel": kernel,
    }


def _of_stack(values: list[int], index: int) -> int:
    return values[index] if index < len(values) else values[-1]


def _num_features(weights: Weights, source: str) -> int:
    """The front end leaves 19 of 80 mel bins."""
    left = weights["encoder_embed.out.weight"].shape[1] // weights["encoder_embed.conv.7.bias"].shape[0]
    if left != num_features_left(NUM_MEL_BINS):
        raise UserError(f"{source}: its features are not of {NUM_MEL_BINS} mel bins")
    return NUM_MEL_BINS


SINGLE_OPTIONS = ("pos_dim", "layer1_channels", "layer2_channels", "layer3_channels")
"""That are one number, not one per stack."""
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


def _parsed(name: str, value: Any, source: str) -> Any:
    """An option as our configuration has it: icefall's lists are numbers with commas in between."""
    if name == "causal":
        if str(value).lower() not in _TRUTH:
            raise UserError(f"{source}: causal is {value!r:.60}; expected true or false")
        return _TRUTH[str(value).lower()]
    try:
        numbers = [int(part) for part in str(value).split(",")]
    except ValueError:
        raise UserError(f"{source}: {name} is {value!r:.60}; expected numbers with commas between") from None
    return numbers[0] if name in SINGLE_OPTIONS else numbers
