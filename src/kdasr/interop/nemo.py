"""NeMo's FastConformer transducers as systems of kdasr: bundles that decode and teach."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdasr.checkpoint import FOLDER, load_weights, refuse_model, save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.common.errors import UserError
from kdasr.common.special_pieces import BLANK_ID, SOS_EOS_ID, UNK_ID
from kdasr.data.tokenizer import write_tokenizer
from kdasr.interop.icefall import Imported, some
from kdasr.interop.nemo_archive import read_nemo
from kdasr.interop.nemo_config import transducer_config
from kdasr.interop.nemo_pieces import with_special_pieces
from kdasr.models.predictors.lstm import LstmConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

NEVER = -1e4
"""Logit of a piece that NeMo's model does not have."""
_EMBEDDING = "decoder.prediction.embed.weight"
_LSTM = "decoder.prediction.dec_rnn.lstm."
_JOINT = {
    "joiner.encoder_projection": "joint.enc",
    "joiner.predictor_projection": "joint.pred",
}
_CTC = "ctc_decoder.decoder_layers.0."
"""Of a model that has a CTC head beside the transducer."""
_NOT_WEIGHTS = ("preprocessor.", "spec_augmentation.")


@dataclass(frozen=True, kw_only=True)
class NemoOptions:
    """What to import."""

    checkpoint: Path
    """A `.nemo` file."""
    out: Path
    """The experiment folder to write; it must not hold a model."""


def import_nemo(options: NemoOptions) -> Imported:
    """Write an experiment folder with the weights and the pieces of a `.nemo` file.

    Raises:
        UserError: an archive, a configuration or weights that do not fit; names what is left over or missing.
    """
    refuse_model(options.out)
    archive, source = read_nemo(options.checkpoint), str(options.checkpoint)
    pieces, order = with_special_pieces(archive.pieces, options.checkpoint)
    config = transducer_config(archive.config, UNK_ID + len(order), source)
    state, missing = converted(archive.weights, config, order, source)
    model = build_transducer(config)
    load_weights(model, state, source)
    tokenizer = write_tokenizer(pieces, options.out / "tokens")
    target = options.out / FOLDER / "best.pt"
    target.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(
        target,
        {
            "model_config": config_to_dict(config),
            "model": state,
            "context": asdict(Context.full()),
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "system": options.out.resolve().name,
            "train_steps": 0,
        },
    )
    return Imported(target, config, Context.full(), model.num_inference_params, [], missing, [])


def converted(
    weights: dict[str, Tensor], config: TransducerConfig, order: list[int], source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """NeMo's weights as the state of our model, and the names of ours that are missing.

    Args:
        weights: by NeMo's names.
        config: ours.
        order: NeMo's ids of `<unk>` and of our further pieces (`with_special_pieces`).
        source: what messages begin with.

    Raises:
        UserError: a weight that inference needs is missing, one is left over that no model here has, or the
            weights are of another number of pieces.
    """
    with torch.device("meta"):
        shapes = build_transducer(config).state_dict()
    names = {name: name for name in shapes if name.startswith("encoder.")}
    assert isinstance(config.predictor, LstmConfig)
    names |= {name: _LSTM + name.rpartition(".")[2] for name in shapes if name.startswith("predictor.lstm.")}
    names |= {f"{ours}.{part}": f"{them}.{part}" for ours, them in _JOINT.items() for part in _PARTS}
    output = _output_layer(weights, source)
    by_piece = {"predictor.embedding.weight": _EMBEDDING}
    by_piece |= {f"joiner.output.{part}": output + part for part in _PARTS}
    missing = [name for name in shapes if name.startswith(("simple_am.", "simple_lm."))]
    heads = {f"ctc_head.{part}": _CTC + part for part in _PARTS}
    if all(name in weights for name in heads.values()):
        by_piece |= heads
    else:
        missing += heads
    used = {*names.values(), *by_piece.values()}
    if lacking := [name for name in [*names.values(), *by_piece.values()] if name not in weights]:
        raise UserError(f"{source}: another architecture: it has no {some(lacking)}")
    left = [name for name in weights if name not in used and not name.startswith(_NOT_WEIGHTS)]
    if left:
        raise UserError(f"{source}: another architecture: nothing here has its {some(left)}")
    state = {ours: weights[theirs].clone() for ours, theirs in names.items()}
    for ours, theirs in by_piece.items():
        value = weights[theirs]
        if len(value) != len(order) + 1:
            raise UserError(
                f"{source}: its tokenizer has {len(order)} pieces, but '{theirs}' is of {len(value) - 1}"
            )
        state[ours] = _by_our_pieces(value.flatten(1) if value.ndim > 2 else value, order)
    for name in missing:
        state[name] = torch.zeros(shapes[name].shape)
    for name in by_piece:
        if name.endswith(".bias"):
            state[name][SOS_EOS_ID] = NEVER
    state["predictor.embedding.weight"][BLANK_ID] = 0.0
    return state, missing


_PARTS = ("weight", "bias")


def _output_layer(weights: dict[str, Tensor], source: str) -> str:
    """The joint's last layer: behind its activation, and a dropout if it has one."""
    for name in ("joint.joint_net.2.", "joint.joint_net.1."):
        if f"{name}weight" in weights:
            return name
    raise UserError(f"{source}: not a transducer of NeMo: it has no 'joint.joint_net.2.weight'")


def _by_our_pieces(theirs: Tensor, order: list[int]) -> Tensor:
    """Rows by NeMo's pieces, the blank last, in the order of ours; zeros for sos/eos."""
    ours = theirs.new_zeros(UNK_ID + len(order), *theirs.shape[1:])
    ours[BLANK_ID] = theirs[-1]
    ours[UNK_ID:] = theirs[torch.tensor(order)]
    return ours
