"""Sorting what does not fit into memory."""

import sqlite3
from collections.abc import Iterator

_AT_ONCE = 4096


class ExternalSort:
    """Pairs of a key and a value, which come back in the order of the keys (bytes by bytes).

    SQLite keeps them in a temporary file, where the variable `SQLITE_TMPDIR` or `TMPDIR` says, and sorts them
    there.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a private file, which is removed when it is closed
        self._database.execute("CREATE TABLE pairs (key BLOB, value BLOB)")
        self._waiting: list[tuple[bytes, bytes | int]] = []

    def add(self, key: bytes, value: bytes | int) -> None:
        """Add a pair.

        Raises:
            OSError: the disk is full.
        """
        self._waiting.append((key, value))
        if len(self._waiting) == _AT_ONCE:
            self._flush()

    def __iter__(self) -> Iterator[tuple[bytes, bytes | int]]:
        """All pairs, once; those of equal keys in the order in which they came.

        Raises:
            OSError: the disk is full.
        """
        self._flush()
        try:
            yield from self._database.execute("SELECT key, value FROM pairs ORDER BY key, rowid")
        except sqlite3.OperationalError as error:
            raise OSError(f"sorting in a temporary file: {error}") from error
        finally:
            self._database.close()

    def __del__(self) -> None:
        self._database.close()

    def _flush(self) -> None:
        try:
            self._database.executemany("INSERT INTO pairs VALUES (?, ?)", self._waiting)
        except sqlite3.OperationalError as error:
            raise OSError(f"sorting in a temporary file: {error}") from error
        self._waiting = []
