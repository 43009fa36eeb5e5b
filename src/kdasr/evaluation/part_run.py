"""A part decoded batch by batch: what is done is kept, a bad recording costs itself, processes can share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.common.ranks import Ranks, ShardedJournal
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance
from kdasr.evaluation.batches import BatchDecoder
from kdasr.evaluation.evaluate import Recording

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

log = get_logger(__name__)

Load = Callable[["MonoCut"], Recording]
PARTIAL = "utterances.jsonl.partial"
"""The journal, beside the results; the number of a process follows."""


class Show(Protocol):
    """Shows the progress of some work."""

    def __call__(self, items: Sequence[int], /) -> Iterable[int]: ...


@dataclass(frozen=True)
class PartWork:
    """The batches of a part, and what becomes of each."""

    batches: Sequence[Sequence["MonoCut"]]
    """The same in every process: a batch holds what it would hold if one process decoded all."""
    load: Load
    """Makes a recording of a cut (`load_recording`)."""
    decode: BatchDecoder
    make: Callable[..., Any]
    """From a recording and its `Simulation` to what is kept of it: plain values, such as `make_record`."""
    journal: Path
    """What is done is kept in files of this name."""
    settings: Mapping[str, Any]
    """Plain values that decide the results."""
    ranks: Ranks
    stop_at_bad: bool = False
    """Take no further recordings after one whose audio cannot be used."""


@dataclass(frozen=True)
class PartResults:
    """What is known of a part."""

    items: list[Any] | None
    """What is kept of all recordings that can be used, in their order; None where another process has not
    finished its share or has finished all, and where a bad recording has ended the work."""
    bad: list[BadUtterance]


def decode_batches(
    work: PartWork, is_finished: Callable[[], bool], show: Show = lambda items: items
) -> PartResults:
    """Decode this process's share of the batches that are not in the journal yet.

    Batches with bad audio are tried again, in case it can be read by now.

    Args:
        work: the batches.
        is_finished: whether another process has put all results together. It does so, and removes the
            journal, within `locked` of the journal's folder.
        show: progress.
    """
    with locked(work.journal.parent):
        if not work.ranks.is_alone and is_finished():
            return PartResults(None, [])
        journal = ShardedJournal(work.journal, work.settings, work.ranks)
        done = journal.read(_is_whole)
    whole = {number for number, unit in done.items() if _is_whole(unit)}
    if done:
        log.info("%s: goes on after %d of %d batches", work.journal, len(whole), len(work.batches))
    done.clear()  # it is read again when all is there
    waiting = [number for number in work.ranks.share(range(len(work.batches))) if number not in whole]
    for number in show(waiting):
        bad: list[BadUtterance] = []
        sound = list(sound_recordings(work.batches[number], work.load, bad, work.stop_at_bad))
        if bad and work.stop_at_bad:
            return PartResults(None, bad)
        decoded = work.decode(sound) if sound else []
        items = [work.make(recording, simulation) for recording, simulation in decoded]
        journal.append(number, {"items": items, "bad": [list(utterance) for utterance in bad]})
    units = journal.read(_is_whole)
    found = [BadUtterance(*item) for number in sorted(units) for item in units[number]["bad"]]
    if len(units) < len(work.batches):
        return PartResults(None, found)
    return PartResults([item for number in sorted(units) for item in units[number]["items"]], found)


def _is_whole(unit: Any) -> bool:
    return not unit["bad"]


def sound_cuts(
    cuts: Sequence["MonoCut"], load: Load, stop_at_bad: bool = False
) -> tuple[list["MonoCut"], list[BadUtterance]]:
    """The cuts whose audio can be used, and the utterances whose audio cannot; all of it is read once."""
    bad: list[BadUtterance] = []
    sound = {recording.id for recording in sound_recordings(cuts, load, bad, stop_at_bad)}
    return [cut for cut in cuts if cut.id in sound], bad


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
