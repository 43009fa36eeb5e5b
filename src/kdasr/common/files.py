"""Writing files so that a reader never sees half of one, and telling them apart."""

import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on failure it is removed.

    The file is flushed to the disk before the replacement, so a full disk or a kill leaves the
    previous `target` as it was. What a kill has left of the temporary file is taken for the next one of this
    `target`, so that such files do not pile up.

    Raises:
        OSError: what the writer raised (for example, no space left on the device); it names `target`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = _open_temporary(target)
    except OSError as error:
        error.filename = str(target)
        raise
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in (None, name):
            error.filename = str(target)
        raise
    finally:
        os.close(handle)


def _open_temporary(target: Path) -> tuple[int, str]:
    """An empty file beside `target`, locked while its handle is open.

    It is always the same one, unless somebody else is writing `target` now, or the file system has no locks.
    """
    name = str(target.with_name(f".{target.name}.0.partial"))
    with suppress(OSError):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Before the lock was ours, another writer may have moved this very file to `target`.
            if os.path.samestat(os.fstat(handle), os.stat(name)):  # noqa: PTH116
                os.truncate(handle, 0)
                return handle, name
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    return tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")


def safe_name(text: str) -> str:
    """A file name for any text: the text itself where it can be one, else with what replaces the rest."""
    if re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", text) and len(text.encode()) <= 150:
        return text
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', text)[:100]}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write_text(target: Path, text: str) -> None:
    """Write `text` to `target` in one step."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON to `target` in one step."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read one JSON value.

    Raises:
        UserError: damaged, or something else than JSON; names the file.
        OSError: it cannot be read.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({first_line(error)}): damaged, or another file") from None


def read_object(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        UserError: damaged, or another kind of value; names the file.
        OSError: it cannot be read.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {value!r:.40}: damaged, or another file")
    return value


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
