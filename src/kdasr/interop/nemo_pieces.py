"""NeMo's SentencePiece models with the special pieces of ours in front.

NeMo's blank is no piece of its model, and comes last; its `<unk>` is the first piece. Ours begin with blank,
sos/eos and unknown. A serialized model is a protocol buffer: a list of fields, each with a number. Field 1 is
a piece (1: its text, 2: its score, 3: its type), field 2 what it was trained with (40 to 43: the ids of
unknown, begin, end and padding); where field 2 comes twice, the second one changes the first.
"""

from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from kdasr.common.errors import UserError
from kdasr.common.special_pieces import UNK_ID
from kdasr.data.tokenizer import BLANK, SOS_EOS, UNK

_PIECE, _TRAINER = 1, 2
_CONTROL, _UNKNOWN = 3, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_NO_ID = (1 << 64) - 1
"""-1, as a protocol buffer has it."""


def with_special_pieces(model: bytes, source: Path) -> tuple[bytes, list[int]]:
    """A model with our special pieces, and NeMo's id of each of its other pieces, in order.

    Returns:
        The serialized model, and ids: that of NeMo's `<unk>`, then those of our pieces from number 3 on.

    Raises:
        UserError: not a SentencePiece model, or one that has no `<unk>` or a piece of the name of ours.
    """
    known = sentencepiece.SentencePieceProcessor()
    try:
        known.LoadFromSerializedProto(model)
        pieces = [known.IdToPiece(index) for index in range(known.GetPieceSize())]
        fields = list(_fields(model))
    except (RuntimeError, UnicodeDecodeError, ValueError, IndexError):
        raise UserError(f"{source}: its tokenizer is not a SentencePiece model, or a damaged one") from None
    unknown = known.unk_id()
    for name in (BLANK, SOS_EOS):
        if name in pieces:
            raise UserError(f"{source}: its tokenizer has a piece {name} already")
    if unknown < 0:
        raise UserError(f"{source}: its tokenizer has no piece for what is unknown")
    own = [content for number, content in fields if number == _PIECE]
    rest = [index for index in range(len(own)) if index != unknown]
    first = [_piece(BLANK, _CONTROL), _piece(SOS_EOS, _CONTROL), _piece(UNK, _UNKNOWN)]
    ids = b"".join(
        _varint(number << 3 | _VARINT) + _varint(value)
        for number, value in ((40, UNK_ID), (41, _NO_ID), (42, _NO_ID), (43, _NO_ID))
    )
    written = [*first, *(own[index] for index in rest)]
    written += [content for number, content in fields if number != _PIECE]
    return b"".join([*written, _message(_TRAINER, ids)]), [unknown, *rest]


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The number and the whole encoding of each field."""
    start = 0
    while start < len(message):
        key, end = _read_varint(message, start)
        kind = key & 7
        if kind == _VARINT:
            _, end = _read_varint(message, end)
        elif kind == _BYTES:
            size, end = _read_varint(message, end)
            end += size
        elif kind in (_FIXED64, _FIXED32):
            end += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(message):
            raise ValueError("a field beyond the end")
        yield key >> 3, message[start:end]
        start = end


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            return value, start


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _piece(text: str, kind: int) -> bytes:
    score = _varint(2 << 3 | _FIXED32) + b"\0\0\0\0"
    return _message(_PIECE, _message(1, text.encode()) + score + _varint(3 << 3 | _VARINT) + _varint(kind))
