"""Writing files so that a reader never sees half of one, and telling them apart."""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success it replaces `target`, on failure it is removed.

    The file is flushed to the disk before the replacement, so a full disk or a kill leaves the
    previous `target` as it was.

    Raises:
        OSError: what the writer raised (for example, no space left on the device); it names `target`.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".partial")
    except OSError as error:
        error.filename = str(target)
        raise
    os.close(handle)
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
    """Read one JSON value."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
