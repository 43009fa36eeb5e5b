"""A part decoded recording by recording: what is done is kept, and a bad recording costs itself."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.common.logging import get_logger
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance
from kdasr.evaluation.evaluate import Record, Recording, make_record
from kdasr.recognition.simulate import Simulation

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.recognition.windows import Windows

log = get_logger(__name__)

Load = Callable[["MonoCut"], Recording]
Decode = Callable[[Iterable[Recording]], Iterator[Sequence[tuple[Recording, Simulation]]]]
"""Gives the results batch by batch: `decode_streaming` or `decode_offline`."""


PARTIAL = "utterances.jsonl.partial"
"""The journal, beside the results."""


def forget(folder: Path) -> None:
    """Remove the journal: the results are written, or are to be made anew."""
    (folder / PARTIAL).unlink(missing_ok=True)


class Journal:
    """The records of a part that is being decoded, a line for each batch, after a line with the settings.

    A batch is there as a whole or not at all, so that those that follow hold what they would have held.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Go on with the file if its settings are these, else begin it anew.

        Raises:
            OSError: it cannot be written.
        """
        self.path = folder / PARTIAL
        self._settings = json.loads(json.dumps(settings))
        self.records: list[Record] = []
        kept = self._read()
        with self.path.open("rb+" if kept else "wb") as file:
            if kept:
                file.truncate(kept)
            else:
                file.write(_line(self._settings))

    def append(self, batch: Sequence[Record]) -> None:
        """Keep the records of a batch.

        Raises:
            OSError: the disk is full.
        """
        with self.path.open("ab") as file:
            file.write(_line(list(batch)))
        self.records += batch

    def _read(self) -> int:
        """The records of whole batches; returns the bytes up to the end of the last one."""
        if not self.path.is_file():
            return 0
        kept = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    value = json.loads(line)
                except ValueError:
                    break
                if not line.endswith(b"\n") or (kept == 0 and value != self._settings):
                    break
                if kept:
                    self.records += value
                kept += len(line)
        return kept


def _line(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def decode_cuts(
    cuts: Sequence["MonoCut"],
    load: Load,
    decode: Decode,
    windows: "Windows | None",
    journal: Journal,
    stop_at_bad: bool = False,
) -> tuple[list[Record], list[BadUtterance]]:
    """Decode the cuts whose records are not in the journal yet.

    Args:
        cuts: all of the part.
        load: makes a recording of a cut (`load_recording`).
        decode: how.
        windows: see `make_record`.
        journal: gets the records of each batch at once.
        stop_at_bad: take no further recordings after one whose audio cannot be used.

    Returns:
        The records of all recordings that can be heard, in their order, and those that cannot.
    """
    done = {record["id"] for record in journal.records}
    if done:
        log.info("%s: goes on after %d of %d utterances", journal.path, len(done), len(cuts))
    bad: list[BadUtterance] = []
    waiting = [cut for cut in cuts if cut.id not in done]
    for batch in decode(sound_recordings(waiting, load, bad, stop_at_bad)):
        journal.append([make_record(recording, simulation, windows) for recording, simulation in batch])
    place = {cut.id: index for index, cut in enumerate(cuts)}
    return sorted(journal.records, key=lambda record: place[record["id"]]), bad


def sound_cuts(
    cuts: Sequence["MonoCut"], load: Load, stop_at_bad: bool = False
) -> tuple[list["MonoCut"], list[BadUtterance]]:
    """The cuts whose audio can be used, and the utterances whose audio cannot; all of it is read once."""
    bad: list[BadUtterance] = []
    heard = {recording.id for recording in sound_recordings(cuts, load, bad, stop_at_bad)}
    return [cut for cut in cuts if cut.id in heard], bad


def sound_recordings(
    cuts: Iterable["MonoCut"], load: Load, bad: list[BadUtterance], stop_at_bad: bool = False
) -> Iterator[Recording]:
    """The recordings whose audio can be used, one at a time; `bad` gets the others."""
    for cut in cuts:
        try:
            yield load(cut)
        except AudioError as error:
            bad.append(BadUtterance(cut.id, str(error.path), error.reason))
            if stop_at_bad:
                return
