"""The utterances of a part, made run by run and written down: nothing of them stays in memory.

Several processes share out the runs, each of which is a file. A run that is done is not made again.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdasr.common.files import atomic_path, read_object, write_json
from kdasr.common.locks import locked
from kdasr.common.ranks import Ranks
from kdasr.common.waiting import wait_until
from kdasr.corpora.base import Part, PartCuts
from kdasr.corpora.remarks import Remarks
from kdasr.data.bad import BadUtterance
from kdasr.data.copies import COUNT, Copies, write_copies
from kdasr.data.folder import line_of
from kdasr.data.runs import RunSizes

RUN_SIZES = RunSizes(usual=256, longest=4096)
"""In utterances."""


class Spooled(NamedTuple):
    """What has become of the utterances of a part."""

    copies: Copies
    bad: list[BadUtterance]
    """Those whose audio could not be converted."""
    remarks: Remarks


class UtteranceSpool:
    """Makes the utterances of a part, and keeps them in a folder."""

    def __init__(self, part: Part, folder: Path, speeds: tuple[float, ...]) -> None:
        self._part, self._folder, self._speeds = part, folder, speeds
        self._runs = RUN_SIZES.runs(part.num_utterances)

    def make(self, converted_dir: Path, jobs: int, ranks: Ranks) -> Spooled:
        """Make this process's share of the utterances, and wait for the others'."""
        (self._folder / "runs").mkdir(parents=True, exist_ok=True)
        count, whole = len(self._runs), self._folder / COUNT
        # Runs that follow each other: what comes before them in the manifests needs not be read then.
        first, last = (count * rank // ranks.world_size for rank in (ranks.rank, ranks.rank + 1))
        for number in range(first, last):
            if not whole.is_file() and not self._record(number).is_file():
                self._write(number, self._part.cuts(self._runs[number], converted_dir, jobs))
        with locked(self._folder / "runs"):
            if not whole.is_file() and all(self._record(number).is_file() for number in range(count)):
                write_copies(self._folder, self._lines(), len(self._speeds), by_id=self._part.by_id)
        wait_until(whole.is_file, f"the other processes' utterances of {self._part.name}")
        return self._spooled(int(json.loads(whole.read_bytes())))

    def _write(self, number: int, made: Iterator[PartCuts]) -> None:
        bad: list[BadUtterance] = []
        remarks = Remarks()
        with atomic_path(self._file(number)) as path, gzip.open(path, "wb", compresslevel=1) as file:
            for some in made:
                file.writelines(map(line_of, some.cuts))
                bad += some.bad
                remarks.merge(some.remarks)
        said = {"bad": [list(utterance) for utterance in bad], "remarks": remarks.to_json()}
        write_json(self._record(number), said)

    def _lines(self) -> Iterator[bytes]:
        for number in range(len(self._runs)):
            with gzip.open(self._file(number)) as file:
                yield from file

    def _spooled(self, count: int) -> Spooled:
        bad: list[BadUtterance] = []
        remarks = Remarks()
        for number in range(len(self._runs)):
            said = read_object(self._record(number))
            bad += [BadUtterance(*item) for item in said["bad"]]
            remarks.merge(Remarks.from_json(said["remarks"]))
        return Spooled(Copies(self._folder, count, self._speeds), bad, remarks)

    def _file(self, number: int) -> Path:
        return self._folder / "runs" / f"{number:06d}.jsonl.gz"

    def _record(self, number: int) -> Path:
        return self._folder / "runs" / f"{number:06d}.json"
