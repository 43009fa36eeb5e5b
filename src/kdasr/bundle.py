"""What is loaded to recognize with a trained system: its model, tokenizer, context and calibration."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from kdasr.checkpoint import FOLDER, find_checkpoint, load_model
from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.common.files import read_json, sha256
from kdasr.common.logging import get_logger
from kdasr.data.tokenizer import Tokenizer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context, read_context

log = get_logger(__name__)

CALIBRATION = "calibration.json"
"""Of an experiment folder: what `kdasr calibrate` found on dev parts."""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """All that recognition needs of a trained system."""

    model: Transducer
    tokenizer: Tokenizer
    context: Context
    """The encoder context that the system was trained and validated under."""
    name: str
    train_steps: int
    """Optimizer steps of this system in all its stages."""
    path: Path
    """The checkpoint file."""
    calibration: Calibration | None = None
    """Of the confidence of words."""
    blank_penalty: float = 0.0
    """What the blank's logit of `model` was lowered by since its training, against deletions."""


def load_bundle(exp_dir: Path | str, checkpoint: str = "auto", *, as_trained: bool = False) -> Bundle:
    """Load a trained system from its experiment folder, or from one of its checkpoint files.

    Args:
        exp_dir: the folder or the file.
        checkpoint: which one of a folder; see `find_checkpoint`.
        as_trained: without what `kdasr calibrate` found, which is for recognition: the weights as training
            left them, for whatever trains on them.

    Raises:
        UserError: no checkpoint, a damaged one, no `tokens/`, or tokens other than the model was trained on.
    """
    path = find_checkpoint(Path(exp_dir), checkpoint)
    model, payload = load_model(path)
    tokens = tokens_folder(path)
    tokenizer = Tokenizer.load(tokens, payload["tokenizer_fingerprint"], str(path))
    if tokenizer.vocab_size != model.config.vocab_size:
        raise UserError(
            f"{tokens}: {tokenizer.vocab_size} pieces, but the model {path} has {model.config.vocab_size}"
        )
    found = Calibrated() if as_trained else load_calibration(path)
    if found.blank_penalty:
        model.joiner.penalize_blank(found.blank_penalty)
    return Bundle(
        model=model,
        tokenizer=tokenizer,
        context=read_context(payload["context"], path),
        name=payload["system"],
        train_steps=payload["train_steps"],
        path=path,
        calibration=found.confidence,
        blank_penalty=found.blank_penalty,
    )


def calibration_file(checkpoint: Path) -> Path:
    """Where the calibration of a checkpoint's experiment is."""
    folder = checkpoint.parent
    return (folder.parent if folder.name == FOLDER else folder) / CALIBRATION


class Calibrated(NamedTuple):
    """What `kdasr calibrate` found for a checkpoint."""

    confidence: Calibration | None = None
    """Of words; None if its words could not say."""
    blank_penalty: float = 0.0


def load_calibration(checkpoint: Path) -> Calibrated:
    """What `kdasr calibrate` found for this checkpoint; nothing if it was not asked.

    Raises:
        UserError: a file that it did not write.
    """
    path = calibration_file(checkpoint)
    if not path.is_file():
        return Calibrated()
    try:
        found = read_json(path)
        known, confidence, penalty = found["checkpoint_sha256"], found["calibration"], found["blank_penalty"]
        penalty = float(penalty)
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: not a file of `kdasr calibrate`: remove it, or calibrate again") from None
    if known != sha256(checkpoint):
        log.warning("%s: of another checkpoint than %s: not used", path, checkpoint.name)
        return Calibrated()
    if not isfinite(penalty):
        raise UserError(f"{path}: blank_penalty {penalty}: expected a finite number")
    return Calibrated(Calibration.from_json(confidence), penalty)


def tokens_folder(checkpoint: Path) -> Path:
    """The `tokens/` of the experiment folder that holds a checkpoint.

    Raises:
        UserError: there is none.
    """
    for folder in (checkpoint.parent / "tokens", checkpoint.parent.parent / "tokens"):
        if folder.is_dir():
            return folder
    raise UserError(
        f"{checkpoint.parent.parent / 'tokens'}: no such folder; the tokenizer belongs beside the model"
    )
