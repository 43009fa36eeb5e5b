"""SentencePiece pieces with the ids that sherpa-onnx expects: blank 0, sos/eos 1, unknown 2."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import sentencepiece

from kdasr.common.errors import UserError
from kdasr.common.files import atomic_path, read_json, read_object, write_json, write_text
from kdasr.common.special_pieces import BLANK_ID, SOS_EOS_ID, UNK_ID
from kdasr.data.text_normalization import WORD_START, TextNormalizer, one_space
from kdasr.data.text_rules import NONE, check_rule, rule_named

__all__ = ["WORD_START", "Tokenizer", "train_tokenizer"]

BLANK, SOS_EOS, UNK = "<blk>", "<sos/eos>", "<unk>"
MODEL_NAME = "bpe.model"
TABLE_NAME = "tokens.txt"
RECORD_NAME = "tokens.json"
"""What `kdasr tokens` made the model of, and the digest of the model."""
RULE_NAME = "text.json"
"""Beside the model, where there is a rule of `kdasr.data.text_rules`: `{"normalize": NAME}`."""
MODEL_TYPES = ("unigram", "bpe", "char")
_MANY = 1 << 20
"""More than there are characters."""
_LONGEST = 1 << 24
"""Bytes of a transcript. SentencePiece leaves longer ones out without a word, by default those over 4 KB."""
_SPECIAL = [BLANK, SOS_EOS, UNK]


class Tokenizer:
    """A trained SentencePiece model (Kudo 2018), and the rule by which text is normalized before it.

    Picklable, so that loader workers can hold it.
    """

    blank_id = BLANK_ID
    sos_eos_id = SOS_EOS_ID
    unk_id = UNK_ID

    def __init__(self, model: bytes, model_path: Path, normalize: str = NONE) -> None:
        """`model` is the serialized model, `model_path` where it came from, `normalize` the name of the rule.

        Raises:
            UserError: not a SentencePiece model, a damaged one, one with other special ids, or no such rule.
        """
        check_rule(normalize, str(model_path.with_name(RULE_NAME)))
        self.model_path = model_path
        self.rule = normalize
        """By which text is written before it is cut into pieces: `text.normalize`."""
        self.fingerprint = _fingerprint(model, normalize)
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self._normalizer = TextNormalizer(model, written=normalize)
            pieces = [self.piece(index) for index in range(self.vocab_size)]
        except (RuntimeError, UnicodeDecodeError):
            raise UserError(f"{model_path}: not a SentencePiece model, or a damaged one") from None
        special = pieces[:3]
        if special != _SPECIAL or self._processor.unk_id() != UNK_ID:
            raise UserError(
                f"{model_path}: pieces 0 to 2 are {special}, expected {_SPECIAL} (0 is the blank, 2 stands "
                "for unknown characters): train it with `kdasr tokens`, or with SentencePiece's "
                f"user_defined_symbols={BLANK},{SOS_EOS} unk_id=2 bos_id=-1 eos_id=-1"
            )

    @classmethod
    def load(cls, path: Path | str, fingerprint: str | None = None, belongs_to: str = "") -> "Tokenizer":
        """Read a `bpe.model` file, or the one in a folder.

        Args:
            path: the file or the folder.
            fingerprint: of the file that is expected, if that is known. It is compared before SentencePiece,
                which checks little of what it is given, sees the file.
            belongs_to: the model that knows the fingerprint, for the message.

        Raises:
            UserError: no such file, another than expected, not a model of this kind, or not the one that
                `tokens.json` beside it describes.
        """
        path = Path(path)
        if path.is_dir():
            path = path / MODEL_NAME
        if not path.is_file():
            raise UserError(f"{path}: no tokenizer model: run `kdasr tokens`")
        content, rule = path.read_bytes(), read_rule(path.parent)
        if fingerprint is not None and _fingerprint(content, rule) != fingerprint:
            raise UserError(
                f"{path}: these tokens do not match the model {belongs_to}, which was trained with others"
            )
        _check_record(path, content)
        return cls(content, path, rule)

    @property
    def vocab_size(self) -> int:
        """Number of pieces, special ones included."""
        return self._processor.GetPieceSize()

    @property
    def normalization(self) -> str:
        """The name of the rule by which text is normalized before it is cut into pieces."""
        return self._normalizer.name

    def normalize(self, text: str) -> str:
        """The words that the pieces of `text` spell: what a recognizer is compared with."""
        return self._normalizer(text)

    def encode(self, text: str) -> list[int]:
        """Piece ids of a transcript, normalized; characters never seen in training become `unk_id`."""
        return self._processor.EncodeAsIds(one_space(self._normalizer.write(text)))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some pieces; special ids have none."""
        return self._processor.DecodeIds([int(index) for index in ids if index > self.unk_id])

    def piece(self, index: int) -> str:
        """The piece with this id; `▁` marks the start of a word."""
        return self._processor.IdToPiece(int(index))

    def score(self, index: int) -> float:
        """SentencePiece's score of the piece, its log-probability in a unigram model."""
        return float(self._processor.GetScore(int(index)))

    def serialized(self) -> bytes:
        """The SentencePiece model, as `bpe.model` has it."""
        return bytes(self._processor.serialized_model_proto())


def read_rule(folder: Path) -> str:
    """The rule that the pieces in a folder were made with.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / RULE_NAME
    if not path.is_file():
        return NONE
    try:
        found = read_json(path)["normalize"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path}: damaged: run `kdasr tokens` again") from None
    return str(found)


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    out_dir: Path,
    *,
    at_most: bool = False,
    model_type: str = "unigram",
    normalize: str = NONE,
) -> Tokenizer:
    """Train on transcripts and write `bpe.model` and `tokens.txt` (`symbol id` per line) to `out_dir`.

    Args:
        texts: the transcripts.
        vocab_size: pieces, the three special ones included.
        out_dir: where to write.
        at_most: make fewer pieces when the text does not fill `vocab_size`, instead of refusing.
        model_type: one of `MODEL_TYPES`. The pieces of `char` are all characters, however many.
        normalize: the rule by which text is written first.

    Raises:
        UserError: no text, or a size that the text cannot fill or that cannot hold its characters.
    """
    write = rule_named(normalize)
    # Not a list: SentencePiece has its own copy.
    sentences = (one_space(written) for text in texts if (written := write(text)).strip())
    first = next(sentences, None)
    if first is None:
        raise UserError("no transcripts to train the tokenizer on")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=chain([first], sentences),
            model_writer=model,
            model_type=model_type,
            vocab_size=_MANY if model_type == "char" else vocab_size,
            hard_vocab_limit=model_type != "char" and not at_most,
            character_coverage=1.0,
            max_sentence_length=_LONGEST,
            user_defined_symbols=[BLANK, SOS_EOS],
            unk_id=2,
            bos_id=-1,
            eos_id=-1,
            # One thread: the sums of the EM steps, and so the pieces, do not depend on the machine.
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"vocabulary of {vocab_size} pieces: {_reason(str(error))}") from None
    return write_tokenizer(model.getvalue(), out_dir, normalize)


def write_tokenizer(model: bytes, out_dir: Path, normalize: str = NONE) -> Tokenizer:
    """Write a serialized model, its table and its rule to `out_dir`, the model last.

    Raises:
        UserError: see `Tokenizer`.
    """
    out_dir = Path(out_dir)
    tokenizer = Tokenizer(model, out_dir / MODEL_NAME, normalize)
    table = "".join(f"{tokenizer.piece(index)} {index}\n" for index in range(tokenizer.vocab_size))
    if normalize == NONE:
        (out_dir / RULE_NAME).unlink(missing_ok=True)
    else:
        write_json(out_dir / RULE_NAME, {"normalize": normalize})
    write_text(out_dir / TABLE_NAME, table)
    with atomic_path(out_dir / MODEL_NAME) as temporary:
        temporary.write_bytes(model)
    return tokenizer


def copy_tokenizer(tokenizer: Tokenizer, out_dir: Path) -> None:
    """Write the files of a tokenizer into another folder."""
    write_tokenizer(tokenizer.model_path.read_bytes(), out_dir, tokenizer.rule)


def _fingerprint(model: bytes, normalize: str) -> str:
    rule = b"" if normalize == NONE else b"\n" + normalize.encode()
    return hashlib.sha256(model + rule).hexdigest()


def _check_record(path: Path, content: bytes) -> None:
    """Where `tokens.json` lies beside the model, as `kdasr tokens` leaves them, it says which model it is.

    Raises:
        UserError: another one, or a damaged one.
    """
    record = path.with_name(RECORD_NAME)
    if not record.is_file():
        return
    known = read_object(record).get("model_sha256")
    if known is not None and known != hashlib.sha256(content).hexdigest():
        raise UserError(
            f"{path}: damaged, or not the model that {RECORD_NAME} describes: remove the folder and run "
            "`kdasr tokens`"
        )


def _reason(message: str) -> str:
    """SentencePiece's own words, which name the largest possible size, without its source lines."""
    limit = re.search(r"<= (\d+)", message)
    if "too high" in message and limit:
        return f"too many for these transcripts; the largest size that works is {limit.group(1)}"
    needed = re.search(r"required_chars.*?(\d+) vs (\d+)", message) or re.search(r"(\d+) vs (\d+)", message)
    if needed:
        return f"too few for the characters of these transcripts; at least {needed.group(2)} are needed"
    return re.sub(r"^.*\)\s*\[.*?\]\s*", "", message.strip().splitlines()[-1]) or message.strip()
