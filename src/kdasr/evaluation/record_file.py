"""Records in lines of JSON that several processes write, and of which none is lost when a run is stopped."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdasr.common.files import write_text
from kdasr.common.ranks import Ranks
from kdasr.evaluation.long_form import Record

_PARTIAL = ".partial-"
"""Before the number of a process, of several."""


class RecordFile:
    """Records in lines of JSON, one added at a time; those of an earlier run are there again.

    Of several processes each adds to a file of its own, and reads those of all.
    """

    def __init__(self, path: Path, key: Callable[[Record], Any], ranks: Ranks | None = None) -> None:
        """
        Args:
            path: of the file, which need not be there.
            key: what tells records apart.
            ranks: None: there is one process.
        """
        alone = ranks is None or ranks.is_alone
        self._path = path
        self._own = path if ranks is None or alone else path.with_name(f"{path.name}{_PARTIAL}{ranks.rank}")
        self._key = key
        self.records: dict[Any, Record] = {}
        self.reread()
        write_text(
            self._own, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in _read(self._own))
        )

    def reread(self) -> None:
        """Read what all processes have added."""
        for path in (self._path, *sorted(self._path.parent.glob(f"{self._path.name}{_PARTIAL}*"))):
            self.records |= {self._key(record): record for record in _read(path)}

    def add(self, records: Sequence[Record]) -> None:
        """Write some records at the end."""
        with self._own.open("a", encoding="utf-8") as file:
            for record in records:
                self.records[self._key(record)] = record
                file.write(_line(record))

    def finish(self, keys: Iterable[Any]) -> None:
        """Put the records of all processes into one file, in this order."""
        write_text(self._path, "".join(_line(self.records[key]) for key in keys))
        forget_shares(self._path)


def _read(path: Path) -> Iterator[Record]:
    """The records of a file up to one that is not whole."""
    # Bytes: a line may be cut in the middle of a letter, and a transcript may hold other separators of lines
    # than the newline.
    for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


def forget_shares(path: Path) -> None:
    """Remove what each of several processes has added."""
    for share in path.parent.glob(f"{path.name}{_PARTIAL}*"):
        share.unlink(missing_ok=True)
