"""`kdasr tokens`: the pieces of a data folder."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from lhotse.serialization import load_jsonl

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, sha256, write_json
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import SHOWN, quote
from kdasr.data.folder import (
    find_manifest,
    holds_something,
    load_record,
    recorded_normalization,
    train_parts,
)
from kdasr.data.index_folder import open_part
from kdasr.data.staging import Staged
from kdasr.data.text_normalization import one_space
from kdasr.data.text_rules import NONE, rule_named
from kdasr.data.token_table import read_model
from kdasr.data.tokenizer import RECORD_NAME, Tokenizer, train_tokenizer, write_tokenizer

log = get_logger(__name__)

_SHOWN_LETTERS, _SHOWN_BEFORE = 60, 20
"""Of a long transcript in the log, and of them before the first that changes."""


@dataclass(frozen=True)
class Pieces:
    """Which pieces `kdasr tokens` makes."""

    vocab_size: int
    """The three special ones included; not of characters."""
    at_most: bool = False
    """Transcripts that do not fill `vocab_size` give fewer pieces and a warning, instead of an error."""
    model_type: str = "unigram"
    """One of `MODEL_TYPES`."""


def prepare_tokens(data_dir: Path, vocab_size: int, *, at_most: bool = False) -> Tokenizer:
    """`train_pieces` of the usual kind."""
    return train_pieces(data_dir, Pieces(vocab_size, at_most))


def train_pieces(data_dir: Path, pieces: Pieces) -> Tokenizer:
    """Train the tokenizer of a data folder on its training transcripts, or load the one of the same settings.

    Text is normalized by the rule that the data folder was prepared for.

    Raises:
        UserError: no training part is prepared, or the size does not suit the transcripts.
    """
    texts, parts = _transcripts(data_dir)
    rule = recorded_normalization(load_record(data_dir))
    count, digest = _described(texts)
    settings = {
        "vocab_size": pieces.vocab_size,
        "at_most": pieces.at_most,
        "parts": parts,
        "texts_sha256": digest,
        **({} if pieces.model_type == "unigram" else {"model_type": pieces.model_type}),
        **({} if rule == NONE else {"normalize": rule}),
    }
    if pieces.model_type == "char":
        settings["vocab_size"] = None

    def make(folder: Path) -> Tokenizer:
        return train_tokenizer(
            texts,
            pieces.vocab_size,
            folder,
            at_most=pieces.at_most,
            model_type=pieces.model_type,
            normalize=rule,
        )

    tokenizer, is_new = _publish(data_dir, settings, make)
    _count_pieces(data_dir, parts, tokenizer)
    made, out_dir = tokenizer.vocab_size, tokenizer.model_path.parent
    if not is_new:
        log.info("%s: already trained with %d pieces", out_dir, made)
        return tokenizer
    log.info("%s: %d pieces from %d transcripts", out_dir, made, count)
    _log_normalization(tokenizer, texts, count)
    if pieces.model_type != "char" and made < pieces.vocab_size:
        log.warning("%s: the transcripts give no more than %d of %d pieces", out_dir, made, pieces.vocab_size)
    return tokenizer


def adopt_pieces(data_dir: Path, source: Path) -> Tokenizer:
    """Use the pieces of a SentencePiece model, or of a `tokens.txt` of characters, for a data folder.

    The log counts the transcripts that they cannot spell.

    Raises:
        UserError: no training part is prepared, or pieces that cannot be used; says why.
    """
    texts, parts = _transcripts(data_dir)
    rule = recorded_normalization(load_record(data_dir))
    model = read_model(source)
    settings = {"from_sha256": hashlib.sha256(model).hexdigest(), "normalize": rule}
    tokenizer, is_new = _publish(data_dir, settings, lambda folder: write_tokenizer(model, folder, rule))
    _count_pieces(data_dir, parts, tokenizer)
    out_dir = tokenizer.model_path.parent
    state = "" if is_new else ", which are there already"
    log.info("%s: %d pieces from %s%s", out_dir, tokenizer.vocab_size, source, state)
    number, unknown = _counted(text for text in texts if tokenizer.unk_id in tokenizer.encode(text))
    if number:
        log.warning(
            "%d of %d transcripts have characters that %s does not know: %s",
            number, sum(1 for _ in texts), source, quote(unknown, number),
        )  # fmt: skip
    return tokenizer


def check_tokens(data_dir: Path, tokenizer: Tokenizer, wanted: str | None) -> None:
    """Refuse pieces that were made by another rule than the data, or the configuration, say.

    Args:
        data_dir: the data folder.
        tokenizer: its own.
        wanted: `text.normalize` of a configuration; None where it says nothing.

    Raises:
        UserError: they differ.
    """
    recorded = recorded_normalization(load_record(data_dir))
    if tokenizer.rule != recorded:
        raise UserError(
            f"{tokenizer.model_path.parent}: made with text.normalize {tokenizer.rule}, {data_dir} was "
            f"prepared with {recorded}: run `kdasr tokens` again"
        )
    if wanted is not None and wanted != recorded:
        raise UserError(
            f"text.normalize is {wanted}, {data_dir} was prepared with {recorded}: run `kdasr prepare "
            f"--normalize {wanted}` and `kdasr tokens`, or change the option"
        )


class Writes(Protocol):
    """What tells how a system writes text: `Tokenizer`, or the pieces of an export."""

    rule: str

    def normalize(self, text: str) -> str: ...


def warn_of_other_text(data_dir: Path, part: str, texts: Iterable[str], tokenizer: Writes) -> int:
    """Log how many transcripts a system writes otherwise than its data folder says, and return how many.

    Args:
        data_dir: the data folder; its rule is that of `kdasr prepare --normalize`.
        part: of the texts, for the log.
        texts: transcripts as they are in the cuts.
        tokenizer: of the system that recognizes the part: its rule is the one that counts.
    """
    rule = recorded_normalization(load_record(data_dir))
    if rule in (NONE, tokenizer.rule):
        return 0
    write, normalize = rule_named(rule), tokenizer.normalize
    total, other = 0, []
    for text in texts:
        total += 1
        if normalize(write(text)) != normalize(text):
            other.append(normalize(text)[:_SHOWN_LETTERS])
    if other:
        log.warning(
            "%s: %s was prepared with text.normalize %s, but the system has text.normalize %s, which counts: "
            "it leaves %d of %d transcripts otherwise, such as '%s'; write them in the cuts as the system "
            "writes, or words that are right count as wrong",
            part, data_dir, rule, tokenizer.rule, len(other), total, other[0],
        )  # fmt: skip
    return len(other)


@dataclass(frozen=True)
class Transcripts:
    """The transcripts in some manifests of supervisions, read anew each time: never all in memory."""

    manifests: Sequence[Path]

    def __iter__(self) -> Iterator[str]:
        for path in self.manifests:
            for supervision in load_jsonl(path):
                if supervision.get("text"):
                    yield supervision["text"]


def _transcripts(data_dir: Path) -> tuple[Transcripts, list[str]]:
    """The transcripts of the training parts, and the names of these."""
    parts = sorted(train_parts(data_dir))
    if not parts:
        raise UserError(f"{data_dir}: no training part is prepared: run `kdasr prepare` first")
    return Transcripts([find_manifest(data_dir, "supervisions", part) for part in parts]), parts


def _described(texts: Iterable[str]) -> tuple[int, str]:
    """How many there are, and the digest of their lines."""
    digest, count = hashlib.sha256(), 0
    for count, text in enumerate(texts, start=1):
        digest.update((text if count == 1 else f"\n{text}").encode())
    return count, digest.hexdigest()


def _counted(texts: Iterable[str]) -> tuple[int, list[str]]:
    """How many there are, and the first few."""
    first: list[str] = []
    count = 0
    for count, text in enumerate(texts, start=1):
        if count <= SHOWN:
            first.append(text)
    return count, first


def _publish(
    data_dir: Path, settings: dict[str, Any], make: Callable[[Path], Tokenizer]
) -> tuple[Tokenizer, bool]:
    """The tokenizer of some settings in `tokens/`, and whether it was made now.

    Raises:
        UserError: `tokens/` holds something that this function did not write.
    """
    out_dir = Path(data_dir) / "tokens"
    record = out_dir / RECORD_NAME
    if holds_something(out_dir) and not record.is_file():
        raise UserError(
            f"{out_dir}: `kdasr tokens` did not write what is there, and replaces no other file; "
            "move it away, and give its model with --from to take its pieces"
        )
    if record.is_file():
        earlier = read_object(record)
        earlier.pop("model_sha256", None)
        if earlier == settings:
            return Tokenizer.load(out_dir), False
    with Staged(out_dir) as staged:
        digest = sha256(make(staged.partial).model_path)
        write_json(staged.partial / RECORD_NAME, {**settings, "model_sha256": digest})
        staged.publish()
    return Tokenizer.load(out_dir), True


def _count_pieces(data_dir: Path, parts: Sequence[str], tokenizer: Tokenizer) -> None:
    """So that training does not have to when it starts."""
    for part in parts:
        open_part(Path(data_dir), part).pieces(tokenizer)


def _log_normalization(tokenizer: Tokenizer, texts: Iterable[str], count: int) -> None:
    """Which of `count` transcripts are trained on, and scored, in other letters than those they have."""
    pairs = ((one_space(text).strip(), tokenizer.normalize(text)) for text in texts)
    number, changed = _counted(_change(*pair) for pair in pairs if pair[0] != pair[1])
    if number:
        log.info(
            "%d of %d transcripts are normalized by %s: %s",
            number, count, tokenizer.normalization, quote(changed, number),
        )  # fmt: skip


def _change(before: str, after: str) -> str:
    """What becomes of a text; of a long one, where it changes first."""
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    begin = max(0, same - _SHOWN_BEFORE) if max(len(before), len(after)) > _SHOWN_LETTERS else 0

    def part(text: str) -> str:
        end = begin + _SHOWN_LETTERS
        return f"{'...' if begin else ''}{text[begin:end]}{'...' if len(text) > end else ''}"

    return f"'{part(before)}' as '{part(after)}'"
