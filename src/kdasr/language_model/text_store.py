"""Encoded text in files of the data folder: made once, and mapped by every process that trains on it.

The 40 million sentences of LibriSpeech's LM corpus are 3 GB there; of memory they take the pages that are in
use, which the processes of a machine share.
"""

import atexit
import errno
import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.data.fingerprint import content_print
from kdasr.data.staging import Staged
from kdasr.data.tokenizer import Tokenizer
from kdasr.language_model.text import ColumnWriter, EncodedText, encode_sources, read_columns, text_sources

log = get_logger(__name__)

VERSION = 1
META = "text.json"
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def stored_text(paths: Sequence[str], tokenizer: Tokenizer, max_pieces: int, folder: Path) -> EncodedText:
    """The sentences of some text files, encoded in a subfolder of `folder`, where an earlier call, or another
    process, may have done it. Where nothing can be written they lie in a temporary folder.

    Args:
        paths: files with a sentence per line, gzipped if they end in .gz.
        tokenizer: for the pieces.
        max_pieces: longer sentences are left out.
        folder: for encoded text.

    Raises:
        UserError: no such file, not text, or no usable sentence in it.
    """
    for path in paths:
        if not Path(path).is_file():
            raise UserError(f"{path}: no such text file")
    prints = [content_print(Path(path)) for path in paths]
    key = json.dumps([VERSION, tokenizer.fingerprint, max_pieces, prints])
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            text = _known(folder / name, paths)
            return text or _made(folder / name, paths, tokenizer, max_pieces)
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
    temporary = Path(tempfile.mkdtemp(prefix="kdasr-text-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    log.warning("%s: cannot be written: text is encoded again at each start", folder)
    return _made(temporary / name, paths, tokenizer, max_pieces)


def _known(folder: Path, paths: Sequence[str]) -> EncodedText | None:
    """The text of a folder; None if it is not there as a whole."""
    try:
        meta = read_object(folder / META)
        columns = read_columns(folder)
    except (OSError, UserError, ValueError):
        return None
    if [len(column) for column in columns] != meta.get("lengths"):
        return None
    return EncodedText.of(columns, list(zip(paths, meta["begins"], strict=True)), meta["digest"])


def _made(folder: Path, paths: Sequence[str], tokenizer: Tokenizer, max_pieces: int) -> EncodedText:
    log.info("text is encoded, once: %s", ", ".join(paths))
    with Staged(folder) as staged:
        staged.partial.mkdir(parents=True)
        writer = ColumnWriter(tokenizer.vocab_size, staged.partial)
        begins = encode_sources(text_sources(paths), tokenizer, max_pieces, writer)
        columns = writer.columns()
        digest = EncodedText.of(columns, begins, "").digest()
        lengths = [len(column) for column in columns]
        first_lines = [first for _, first in begins]
        write_json(staged.partial / META, {"lengths": lengths, "begins": first_lines, "digest": digest})
        staged.publish()
    found = _known(folder, paths)
    assert found is not None
    return found
