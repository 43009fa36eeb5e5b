"""Pieces that others made: a SentencePiece model, or a table of characters that becomes one."""

import io
from pathlib import Path
from typing import Any

import sentencepiece

from kdasr.common.errors import UserError
from kdasr.common.lines import text_lines
from kdasr.common.special_pieces import UNK_ID
from kdasr.data.text_normalization import WORD_START
from kdasr.data.tokenizer import BLANK, MODEL_NAME, SOS_EOS, UNK, Tokenizer


def read_model(source: Path) -> bytes:
    """A serialized SentencePiece model: the file itself, or one of the characters that a `tokens.txt` lists.

    Raises:
        UserError: no such file, other special pieces than ours, or a table of longer pieces, which does not
            say how text is cut into them; the message says what is needed.
    """
    if source.is_dir():
        source = source / MODEL_NAME
    if not source.is_file():
        raise UserError(f"{source}: no such file: expected a SentencePiece model or a tokens.txt")
    model = _model_of(read_table(source), source) if source.suffix == ".txt" else source.read_bytes()
    Tokenizer(model, source)
    return model


def read_table(path: Path) -> list[str]:
    """The pieces of a `tokens.txt`, in the order of their ids; symbols of a lexicon (`#0`) at its end go.

    Raises:
        UserError: lines without an id, ids that are not 0, 1, 2, ..., or a piece that is there twice.
    """
    try:
        rows = [line.rsplit(None, 1) for line in text_lines(path) if line.strip()]
        piece_of = {int(index): piece for piece, index in rows}
    except ValueError:
        raise UserError(f"{path}: expected a piece and its id in each line") from None
    if sorted(piece_of) != list(range(len(rows))):
        raise UserError(f"{path}: ids of {len(rows)} pieces are not 0 to {len(rows) - 1}")
    pieces = [piece_of[index] for index in range(len(rows))]
    while pieces and pieces[-1].startswith("#") and pieces[-1][1:].isdigit():
        pieces.pop()
    twice = next((piece for index, piece in enumerate(pieces) if piece in pieces[:index]), None)
    if twice is not None:
        raise UserError(f"{path}: the piece '{twice}' is there twice")
    return pieces


def _model_of(pieces: list[str], path: Path) -> bytes:
    """A model whose pieces are single characters, by SentencePiece's usual rule of normalization."""
    if pieces[:3] != [BLANK, SOS_EOS, UNK]:
        raise UserError(
            f"{path}: pieces 0 to 2 are {pieces[:3]}, expected {[BLANK, SOS_EOS, UNK]}: the blank has id 0, "
            "unknown characters have id 2"
        )
    longer = [piece for piece in pieces[3:] if len(piece) != 1]
    if longer:
        raise UserError(
            f"{path}: {len(longer)} pieces have several characters, such as '{longer[0]}': only their "
            "SentencePiece model says how text is cut into them: give that (bpe.model)"
        )
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2

    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["a"]), model_writer=trained, model_type="char", vocab_size=5,
        user_defined_symbols=[BLANK, SOS_EOS], unk_id=UNK_ID, bos_id=-1, eos_id=-1, minloglevel=2,
    )  # fmt: skip
    model = proto.ModelProto.FromString(trained.getvalue())
    special = list(model.pieces)[:3]
    del model.pieces[:]
    model.pieces.extend(special)
    for place, piece in enumerate(pieces[3:]):
        model.pieces.add(piece=piece, score=-float(place))
    model.trainer_spec.vocab_size = len(pieces)
    # Where the table has no mark of a word's start, a text does not begin with one.
    model.normalizer_spec.add_dummy_prefix = WORD_START in pieces
    return model.SerializeToString()
