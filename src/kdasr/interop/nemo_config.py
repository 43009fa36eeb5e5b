"""The configuration of a FastConformer transducer of NeMo as ours."""

from collections.abc import Mapping
from typing import Any

from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.data.nemo_log_mel import FFT_SIZE, NUM_MEL_BINS, PREEMPHASIS, SAMPLE_RATE
from kdasr.models.joiner import ACTIVATIONS
from kdasr.models.transducer.transducer_config import TransducerConfig

Section = Mapping[str, Any]

_FEATURES = {
    "sample_rate": (SAMPLE_RATE,),
    "normalize": ("per_feature",),
    "window_size": (0.025,),
    "window_stride": (0.01,),
    "n_window_size": (400, None),
    "n_window_stride": (160, None),
    "window": ("hann",),
    "features": (NUM_MEL_BINS,),
    "n_fft": (FFT_SIZE, None),
    "preemph": (PREEMPHASIS,),
    "log": (True,),
    "frame_splicing": (1,),
    "mag_power": (2.0,),
    "exact_pad": (False,),
    "lowfreq": (0, None),
    "highfreq": (SAMPLE_RATE // 2, None),
    "mel_norm": ("slaney",),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
}
"""Values that are the same here; an option that is not given has the first one."""
_ENCODER = {
    "feat_in": (NUM_MEL_BINS,),
    "feat_out": (-1,),
    "subsampling": ("dw_striding",),
    "subsampling_factor": (8,),
    "causal_downsampling": (False,),
    "reduction": (None,),
    "self_attention_model": ("rel_pos",),
    "att_context_size": ([-1, -1], None, [[-1, -1]]),
    "att_context_style": ("regular",),
    "untie_biases": (True,),
    "conv_norm_type": ("batch_norm",),
    "conv_context_size": (None,),
    "global_tokens": (0,),
}
_PREDICTOR = {
    "normalization_mode": (None,),
    "blank_as_pad": (True,),
}
_JOINT = {
    "num_extra_outputs": (0,),
}
_NEEDED = ("features", "window_size", "subsampling", "subsampling_factor")
"""What has another value in NeMo where it is not given."""


def transducer_config(config: Section, vocab_size: int, source: str) -> TransducerConfig:
    """Our configuration of a model with so many pieces (ours, blank included).

    Args:
        config: NeMo's `model_config.yaml`.
        vocab_size: pieces.
        source: what messages begin with.

    Raises:
        UserError: a section or an option that is missing, or has a value that is not taken over.
    """
    features, encoder, decoder, joint = (
        _section(config, name, source) for name in ("preprocessor", "encoder", "decoder", "joint")
    )
    prednet, jointnet = _section(decoder, "prednet", source), _section(joint, "jointnet", source)
    for name, section, same in (
        ("preprocessor", features, _FEATURES),
        ("encoder", encoder, _ENCODER),
        ("decoder", decoder, _PREDICTOR),
        ("joint", joint, _JOINT),
    ):
        _check_same(name, section, same, source)
    target = str(encoder.get("_target_", "")).rpartition(".")[2]
    if target != "ConformerEncoder":
        raise UserError(f"{source}: encoder._target_ is {target!r:.60}; expected a ConformerEncoder")
    dim = _number(encoder, "encoder", "d_model", source)
    activation = jointnet.get("activation", "relu")
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{source}: joint.jointnet.activation is {activation!r:.40}; expected one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    options = {
        "num_features": NUM_MEL_BINS,
        "vocab_size": vocab_size,
        "joiner_dim": _number(jointnet, "joint.jointnet", "joint_hidden", source),
        "joiner_activation": activation,
        "encoder": {
            "type": "fast-conformer",
            "dim": dim,
            "num_layers": _number(encoder, "encoder", "n_layers", source),
            "num_heads": _number(encoder, "encoder", "n_heads", source, 4),
            "ffn_dim": dim * _number(encoder, "encoder", "ff_expansion_factor", source, 4),
            "conv_kernel": _number(encoder, "encoder", "conv_kernel_size", source, 31),
            "subsampling_channels": _channels(encoder, dim, source),
            "input_scale": bool(encoder.get("xscaling", True)),
            "bias": bool(encoder.get("use_bias", True)),
        },
        "predictor": {
            "type": "lstm",
            "dim": _number(prednet, "decoder.prednet", "pred_hidden", source),
            "num_layers": _number(prednet, "decoder.prednet", "pred_rnn_layers", source),
        },
    }
    return build_config(TransducerConfig, options, source=f"{source}: model_config.yaml")


def _channels(encoder: Section, dim: int, source: str) -> int:
    """Those of the front end; as many as the width where it does not say."""
    if encoder.get("subsampling_conv_channels", -1) == -1:
        return dim
    return _number(encoder, "encoder", "subsampling_conv_channels", source)


def _section(config: Section, name: str, source: str) -> Section:
    found = config.get(name)
    if not isinstance(found, Mapping):
        raise UserError(f"{source}: not a transducer of NeMo: its configuration has no section '{name}'")
    return found


def _check_same(where: str, section: Section, same: Mapping[str, tuple[Any, ...]], source: str) -> None:
    """Refuse values that are computed otherwise here."""
    for name, values in same.items():
        found = section.get(name, None if name in _NEEDED else values[0])
        if found not in values:
            raise UserError(f"{source}: {where}.{name} is {found!r:.60}; only {values[0]!r} is taken over")


def _number(section: Section, where: str, name: str, source: str, default: int | None = None) -> int:
    found = section.get(name, default)
    if type(found) is not int or found < 1:
        raise UserError(f"{source}: {where}.{name} is {found!r:.60}; expected a whole number, at least 1")
    return found
