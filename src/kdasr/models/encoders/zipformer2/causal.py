"""A Zipformer2 for chunks, from the weights of one that is not causal."""

from collections.abc import Mapping

from torch import Tensor

_CONVOLUTION = ".depthwise.conv."


def is_causal(state: Mapping[str, Tensor]) -> bool:
    """Whether the weights are of a model for chunks."""
    return not any(_CONVOLUTION in name for name in state)


def causal_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a causal transducer that computes what one that is not causal does.

    Each symmetric convolution is cut in two. The taps on a frame and those before it become the causal
    convolution, which goes over the edges of chunks; those on what follows become the one inside the chunk.
    Under the full context their sum is the convolution that they were made of. In chunks it sees zeros for
    what follows the chunk (dynamic chunk convolution, Li et al. 2023).

    Args:
        state: of a transducer whose encoder is not causal.
    """
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        if _CONVOLUTION not in name:
            made[name] = value
            continue
        prefix, kind = name.split(_CONVOLUTION)
        prefix = f"{prefix}.depthwise"
        if kind == "bias":
            made[f"{prefix}.causal.bias"] = value
            made[f"{prefix}.inner.bias"] = value.new_zeros(value.shape)
            continue
        past = value.shape[-1] // 2 + 1
        made[f"{prefix}.causal.weight"] = value[..., :past].clone()
        inner = value.clone()
        inner[..., :past] = 0.0
        made[f"{prefix}.inner.weight"] = inner
        made[f"{prefix}.edge_scales"] = value.new_zeros(2, value.shape[0], value.shape[-1])
    return made
