"""Where the index of a part lies, and how it is made."""

import atexit
import errno
import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.files import read_object
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.common.name_digests import name_digest
from kdasr.data.blocks import BlockReader, BlockWriter, find_blocks
from kdasr.data.cut_check import fault_of
from kdasr.data.cut_index import (
    BLOCKS,
    COPY,
    META,
    VERSION,
    FolderTable,
    IndexWriter,
    PartIndex,
    parsed,
)
from kdasr.data.fingerprint import content_print
from kdasr.data.folder import check_prepared, check_sources, cuts_path, warn_if_changed
from kdasr.data.staging import Staged

log = get_logger(__name__)

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR)


def open_parts(data_dir: Path | str, parts: Sequence[str]) -> FolderTable:
    """The cuts of some prepared parts, with paths that hold from the current directory. Few are read: see
    `open_part`."""
    return FolderTable([open_part(Path(data_dir), part) for part in parts])


def open_part(data_dir: Path, part: str) -> PartIndex:
    """The index of a prepared part; made where there is none, or one of another manifest.

    Where the data folder cannot be written to, it lies in a temporary folder, for this process alone.

    Raises:
        UserError: the part is not prepared, or its manifest is empty or damaged, or its features are gone.
    """
    check_prepared(data_dir, part)
    path, folder = cuts_path(data_dir, part), data_dir / "index" / part
    meta = _known(folder, path)
    if meta is None:
        try:
            with locked(path):
                meta = _known(folder, path) or _made(folder, path)  # another process may have made it
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            temporary = Path(tempfile.mkdtemp(prefix="kdasr-index-"))
            atexit.register(shutil.rmtree, temporary, ignore_errors=True)
            log.warning(
                "%s: cannot be written (%s): the index of '%s' is made again at each start",
                data_dir, error.strerror, part,
            )  # fmt: skip
            folder = temporary / part
            meta = _made(folder, path)
    warn_if_changed(data_dir, part, meta["sha256"])
    index = PartIndex(data_dir, part, folder, meta)
    check_sources(index.reader.read([0])[0], part)
    return index


def _known(folder: Path, manifest: Path) -> dict[str, Any] | None:
    """What the index in a folder says of itself; None if there is none of this manifest."""
    try:
        meta = read_object(folder / META)
    except (OSError, UserError):
        return None
    same = meta.get("version") == VERSION and meta.get("content") == content_print(manifest)
    return meta if same else None


def _made(folder: Path, manifest: Path) -> dict[str, Any]:
    with Staged(folder) as staged:
        staged.partial.mkdir(parents=True)
        meta = _make(staged.partial, manifest)
        staged.publish()
    return meta


def _make(folder: Path, manifest: Path) -> dict[str, Any]:
    """Read a manifest, check its cuts and write their index; and a copy in blocks if it is not in blocks."""
    writer = IndexWriter(folder)
    blocks = find_blocks(manifest)
    is_copy = blocks is None
    if blocks is None:
        log.info("%s: copied in blocks, once, so that single lines can be read", manifest)
        with (folder / COPY).open("wb") as file:
            copy = BlockWriter(file)
            for line in _lines(manifest):
                _add(writer, line, manifest)
                copy.add(line)
            copy.close()
        blocks = find_blocks(folder / COPY)
    else:
        np.save(folder / BLOCKS, blocks, allow_pickle=False)
        for line in BlockReader(manifest, folder / BLOCKS).lines():
            _add(writer, line, manifest)
    assert blocks is not None
    if not len(writer):
        raise UserError(f"{manifest}: no utterances: remove it and run `kdasr prepare`")
    repeated = writer.repeated()
    if repeated:
        _name_repeated(manifest, repeated)
    return writer.close(manifest, blocks, is_copy=is_copy)


def _add(writer: IndexWriter, line: bytes, manifest: Path) -> None:
    cut = parsed(line, manifest)
    fault = fault_of(cut)
    if fault is not None:
        raise UserError(f"{manifest}: cut '{cut.id}': {fault}")
    writer.add(cut)


def _lines(manifest: Path) -> Iterator[bytes]:
    try:
        with gzip.open(manifest) as file:
            for line in file:
                if line.strip():
                    yield line if line.endswith(b"\n") else line + b"\n"
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{manifest}: damaged ({first_line(error)}): remove it and run `kdasr prepare`"
        ) from None


def _name_repeated(manifest: Path, digests: set[int]) -> None:
    """Raise an error that names an id which is there twice, unless only the digests are the same."""
    seen: set[str] = set()
    for line in _lines(manifest):
        name = parsed(line, manifest).id
        if name_digest(name) not in digests:
            continue
        if name in seen:
            raise UserError(f"{manifest}: cut '{name}': its id is there twice")
        seen.add(name)
