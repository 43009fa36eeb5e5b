"""icefall's Zipformer2 transducers as systems of kdasr: bundles that decode, teach and start a training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from kdasr.checkpoint import FOLDER, load_weights, refuse_model, save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer, copy_tokenizer
from kdasr.interop.icefall_checkpoint import averaged_since, read_icefall
from kdasr.interop.icefall_names import icefall_name
from kdasr.interop.icefall_sizes import ENCODER_OPTIONS, transducer_config
from kdasr.models.encoders.zipformer2 import Zipformer2Config
from kdasr.models.encoders.zipformer2.causal import causal_weights
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

TRAINED_BATCHES = 100_000
"""Where the schedules of an imported model stand: at their end."""
STREAMING = Context(left=64, chunk=8)
"""Of a causal model: chunks of 320 ms with 2.56 s before them, as in icefall's published results."""

_HEADS = {
    "predictor.embedding.weight": "decoder.embedding.weight",
    "joiner.encoder_projection.weight": "joiner.encoder_proj.weight",
    "joiner.encoder_projection.bias": "joiner.encoder_proj.bias",
    "joiner.predictor_projection.weight": "joiner.decoder_proj.weight",
    "joiner.predictor_projection.bias": "joiner.decoder_proj.bias",
    "joiner.output.weight": "joiner.output_linear.weight",
    "joiner.output.bias": "joiner.output_linear.bias",
}
_TRAINING_HEADS = {
    "simple_am.weight": "simple_am_proj.weight",
    "simple_am.bias": "simple_am_proj.bias",
    "simple_lm.weight": "simple_lm_proj.weight",
    "simple_lm.bias": "simple_lm_proj.bias",
    "ctc_head.weight": "ctc_output.1.weight",
    "ctc_head.bias": "ctc_output.1.bias",
}
"""Of these a model may have any."""
_NOT_USED = "attention_decoder."


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What to import, and how."""

    checkpoint: Path
    tokens: Path
    """icefall's language folder, with `bpe.model`."""
    out: Path
    """The experiment folder to write; it must not hold a model."""
    since: Path | None = None
    """An earlier checkpoint: take the mean of the weights from it to `checkpoint`."""
    options: Mapping[str, str] = field(default_factory=dict)
    """icefall's options of the encoder that the checkpoint does not hold."""
    causal: bool = False
    """Make a model for chunks of one that is not causal."""
    context: Context | None = None
    """None: full, or `STREAMING` of a causal model."""


@dataclass(frozen=True)
class Imported:
    """What was imported."""

    path: Path
    config: TransducerConfig
    context: Context
    num_parameters: int
    unused: list[str]
    """Weights of the checkpoint that have no place here."""
    missing: list[str]
    """Weights of ours, for training only, that the checkpoint does not have; they are zeros."""
    assumed: list[str]
    """Options that neither the checkpoint nor the user gave, and no shape tells."""


def import_icefall(options: ImportOptions) -> Imported:
    """Write an experiment folder with the weights of a checkpoint of icefall's.

    Raises:
        UserError: a checkpoint, an option or tokens that do not fit; names what is left over or missing.
    """
    source = str(options.checkpoint)
    unknown = [name for name in options.options if name not in ENCODER_OPTIONS]
    if unknown:
        raise UserError(f"option {unknown[0]}: expected one of {', '.join(ENCODER_OPTIONS)}")
    target = options.out / FOLDER / "best.pt"
    refuse_model(options.out)
    checkpoint = read_icefall(options.checkpoint)
    weights = checkpoint.weights
    if options.since is not None:
        weights = averaged_since(read_icefall(options.since), checkpoint)
    given = {**checkpoint.options, **options.options}
    config = transducer_config(weights, given, source)
    tokenizer = _tokenizer(options.tokens, config.vocab_size, source)
    assert isinstance(config.encoder, Zipformer2Config)
    becomes_causal = options.causal and not config.encoder.causal
    context = options.context or (STREAMING if options.causal or config.encoder.causal else Context.full())
    replace(config.encoder, causal=options.causal or config.encoder.causal).check_context(context)
    state, unused, missing = converted(weights, config, source)
    if becomes_causal:
        state = causal_weights(state)
        config.encoder.causal = True
    model = build_transducer(config)
    load_weights(model, state, source)
    steps = checkpoint.options.get("batch_idx_train")
    payload = {
        "model_config": config_to_dict(config),
        "model": state,
        "context": asdict(context),
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "system": options.out.resolve().name,
        "train_steps": steps if type(steps) is int and steps >= 0 else 0,
    }
    copy_tokenizer(tokenizer, options.out / "tokens")
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(target, payload)
    assumed = [] if checkpoint.has_options else _assumed(options.options)
    return Imported(target, config, context, model.num_inference_params, unused, missing, assumed)


def _assumed(given: Mapping[str, str]) -> list[str]:
    """Options that no shape tells, and that were not given; either of two gives the heads."""
    heads = () if {"num_heads", "query_head_dim"} & given.keys() else ("num_heads",)
    return [name for name in (*heads, "encoder_unmasked_dim") if name not in given]


def converted(
    weights: Mapping[str, Tensor], config: TransducerConfig, source: str
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """icefall's weights as the state of our model, the names that are not used, and ours that are missing.

    Raises:
        UserError: a weight that inference needs is missing, or one is left over that no model here has.
    """
    assert isinstance(config.encoder, Zipformer2Config)
    with torch.device("meta"):
        shapes = build_transducer(config).state_dict()
    factors = [stack.factor for stack in config.encoder.stacks]
    names = dict(_HEADS)
    for name in shapes:
        if name.startswith("encoder.") and name != "encoder.trained_frames":
            names[name] = icefall_name(name.removeprefix("encoder."), factors)
    lacking = [theirs for theirs in names.values() if theirs not in weights]
    if lacking:
        raise UserError(f"{source}: another architecture: it has no {some(lacking)}")
    state = {ours: weights[theirs].clone() for ours, theirs in names.items()}
    frames = torch.tensor(int(TRAINED_BATCHES * config.encoder.ref_duration * 100))
    state["encoder.trained_frames"] = frames
    state["predictor.combine.weight"] = dense_convolution(weights["decoder.conv.weight"])
    state["predictor.combine.bias"] = torch.zeros(config.predictor.output_dim)
    missing = []
    for ours, theirs in _TRAINING_HEADS.items():
        if theirs in weights:
            state[ours] = weights[theirs].clone()
        else:
            missing.append(ours)
            state[ours] = torch.zeros(shapes[ours].shape)
    used = {*names.values(), *_TRAINING_HEADS.values(), "decoder.conv.weight"}
    left_over = [name for name in weights if name not in used and not _is_leftover_scale(name)]
    unknown = [name for name in left_over if not name.startswith(_NOT_USED)]
    if unknown:
        raise UserError(f"{source}: another architecture: nothing here has its {some(unknown)}")
    return state, left_over, missing


def dense_convolution(weight: Tensor) -> Tensor:
    """A grouped convolution over pieces, (D, D / groups, context), as one matrix (D, context * D)."""
    dim, width, context = weight.shape
    dense = weight.new_zeros(dim, context, dim)
    for start in range(0, dim, width):
        group = slice(start, start + width)
        dense[group, :, group] = weight[group].transpose(1, 2)
    return dense.flatten(1)


def _is_leftover_scale(name: str) -> bool:
    """icefall's layers have a scale that nothing uses any more, beside that of their bypass."""
    parts = name.split(".")
    return parts[-1] == "bypass_scale" and parts[-2].isdigit()


def some(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _tokenizer(folder: Path, vocab_size: int, source: str) -> Tokenizer:
    tokenizer = Tokenizer.load(folder)
    if tokenizer.vocab_size != vocab_size:
        raise UserError(f"{folder}: {tokenizer.vocab_size} pieces, but the model {source} has {vocab_size}")
    return tokenizer
