"""The names that icefall gives to the weights of a Zipformer2 transducer, by ours."""

_FRONT_END = {
    "first": "conv.0",
    "second": "conv.4",
    "third": "conv.7",
    "depthwise": "convnext.depthwise_conv",
    "expand": "convnext.pointwise_conv1",
    "contract": "convnext.pointwise_conv2",
    "output": "out",
    "norm": "out_norm",
}
_LAYER = {
    "attention_weights.project.": "self_attn_weights.in_proj.",
    "attention_weights.project_positions.": "self_attn_weights.linear_pos.",
    "attention1.project.": "self_attn1.in_proj.",
    "attention1.output.": "self_attn1.out_proj.",
    "attention2.project.": "self_attn2.in_proj.",
    "attention2.output.": "self_attn2.out_proj.",
    "nonlin_attention.project.": "nonlin_attention.in_proj.",
    "nonlin_attention.output.": "nonlin_attention.out_proj.",
    "feed_forward1.expand.": "feed_forward1.in_proj.",
    "feed_forward1.output.": "feed_forward1.out_proj.",
    "feed_forward2.expand.": "feed_forward2.in_proj.",
    "feed_forward2.output.": "feed_forward2.out_proj.",
    "feed_forward3.expand.": "feed_forward3.in_proj.",
    "feed_forward3.output.": "feed_forward3.out_proj.",
    "convolution1.project.": "conv_module1.in_proj.",
    "convolution1.output.": "conv_module1.out_proj.",
    "convolution1.depthwise.": "conv_module1.depthwise_conv.",
    "convolution2.project.": "conv_module2.in_proj.",
    "convolution2.output.": "conv_module2.out_proj.",
    "convolution2.depthwise.": "conv_module2.depthwise_conv.",
    "norm.": "norm.",
    "bypass.": "bypass.bypass_",
    "bypass_middle.": "bypass_mid.bypass_",
}
_DEPTHWISE = {
    "conv.weight": "weight",
    "conv.bias": "bias",
    "causal.weight": "causal_conv.weight",
    "causal.bias": "causal_conv.bias",
    "inner.weight": "chunkwise_conv.weight",
    "inner.bias": "chunkwise_conv.bias",
    "edge_scales": "chunkwise_conv_scale",
}


def icefall_name(name: str, factors: list[int]) -> str:
    """icefall's name of a weight of our Zipformer2 encoder.

    Args:
        name: as in the encoder's `named_parameters`.
        factors: `downsampling_factor` of every stack; one that downsamples has its layers one step deeper.
    """
    head, _, rest = name.partition(".")
    if head == "front_end":
        part, _, kind = rest.rpartition(".")
        return f"encoder_embed.{_FRONT_END[part]}.{kind}"
    if head == "output":
        return f"encoder.downsample_output.{rest}"
    assert head == "stacks", name
    index, part, rest = rest.split(".", maxsplit=2)
    stack = f"encoder.encoders.{index}"
    if part == "downsample":
        return f"{stack}.downsample.{rest}"
    if part == "combine":
        return f"{stack}.out_combiner.bypass_{rest}"
    layer, _, rest = rest.partition(".")
    layers = "layers" if factors[int(index)] == 1 else "encoder.layers"
    return f"{stack}.{layers}.{layer}.{_layer_name(rest)}"


def _layer_name(name: str) -> str:
    for ours, theirs in _LAYER.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + _DEPTHWISE.get(rest, rest)
    raise KeyError(name)
