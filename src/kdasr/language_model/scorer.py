"""A trained language model for a recognizer of the same pieces."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from kdasr.bundle import tokens_folder
from kdasr.checkpoint import find_checkpoint, load_checkpoint, load_weights
from kdasr.common.configio import build_config
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import Tokenizer
from kdasr.language_model.model import LanguageModelConfig, TransformerLanguageModel
from kdasr.language_model.ngram import SUFFIXES, NgramLanguageModel
from kdasr.language_model.text import read_lines
from kdasr.language_model.word_ngram import WordNgram

TEXT = (".txt", ".txt.gz")
"""What a file's name ends with that stands for a word n-gram of its sentences."""


class PieceTable(Protocol):
    """A tokenizer, or the table of pieces of an exported bundle, which has no `fingerprint`."""

    @property
    def vocab_size(self) -> int: ...
    def piece(self, index: int) -> str: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def load_sentence_scorer(
    path: Path, tokenizer: Tokenizer, source: str
) -> TransformerLanguageModel | NgramLanguageModel | WordNgram:
    """What scores whole sentences, for rescoring and for the weights of labels.

    Args:
        path: as `load_language_model` takes it, or a text file (.txt, .txt.gz), which stands for a word
            trigram of its sentences; that one has no part in shallow fusion.
        tokenizer: that of the recognizer.
        source: what it belongs to, for messages.

    Raises:
        UserError: see `load_language_model`; also a file that is not text, or has none.
    """
    if not path.name.endswith(TEXT):
        return load_language_model(path, tokenizer, source)
    return WordNgram(map(tokenizer.normalize, read_lines(path)), tokenizer.decode)


def load_language_model(
    path: Path, pieces: PieceTable, source: str, checkpoint: str = "auto"
) -> TransformerLanguageModel | NgramLanguageModel:
    """Load a language model for a recognizer, in evaluation mode, on the CPU, without gradients.

    Args:
        path: the folder that `kdasr train` left, one of its checkpoint files, or an n-gram: an ARPA file
            (.arpa) or what KenLM's `build_binary` makes of it (.klm, .binary).
        pieces: those of the recognizer.
        source: what they belong to, for messages.
        checkpoint: of a folder: `auto` (averaged, else best, else last), one of these names, or a file.

    Raises:
        UserError: no language model there, or one over other pieces; names both fingerprints.
    """
    if path.name.endswith(".arpa.gz"):
        raise UserError(f"{path}: KenLM's wheels read no gzipped file: unpack it first")
    if path.suffix in SUFFIXES:
        return NgramLanguageModel(path, pieces)
    if path.name.endswith(TEXT):
        raise UserError(
            f"{path}: text, which stands for a word n-gram; that one scores whole sentences only: --rescore"
        )
    path = find_checkpoint(Path(path), checkpoint)
    payload = load_checkpoint(path)
    if "embedding.weight" not in payload["model"]:
        raise UserError(
            f"{path}: not a language model; train one with `kdasr train` and kind: language_model"
        )
    _check_pieces(path, payload["tokenizer_fingerprint"], pieces, source)
    config = build_config(LanguageModelConfig, payload["model_config"], source=f"{path}: model_config")
    model = TransformerLanguageModel(config)
    load_weights(model, payload["model"], source=str(path))
    return model.eval().requires_grad_(False)


def _check_pieces(path: Path, trained_on: str, pieces: PieceTable, source: str) -> None:
    own = getattr(pieces, "fingerprint", None)
    if own is None:
        # A bundle says which pieces it has, not which model made them: compare the pieces.
        tokenizer = Tokenizer.load(tokens_folder(path))
        own = f"{pieces.vocab_size} pieces of another table"
        if tokenizer.vocab_size == pieces.vocab_size and all(
            tokenizer.piece(index) == pieces.piece(index) for index in range(pieces.vocab_size)
        ):
            own = tokenizer.fingerprint
    if own != trained_on:
        raise UserError(
            f"{path}: a language model over other pieces than {source}: tokenizer {trained_on} there, "
            f"{own} here; train one on the pieces of {source}"
        )
