"""Word times of a part: resumable, and no utterance is lost without a word."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.common.errors import UserError
from kdasr.common.failures import is_out_of_memory
from kdasr.common.files import write_text
from kdasr.common.logging import get_logger
from kdasr.common.ranks import ShardedJournal
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import AudioError
from kdasr.data.features import SAMPLE_RATE, load_cut_samples
from kdasr.data.usable import cut_text
from kdasr.evaluation.latency import RefWord
from kdasr.recognition.audio import Samples
from kdasr.self_training.word_times.boundaries import Speech, find_speech, measure_margins, place_words
from kdasr.self_training.word_times.pieces import EmittedWord, NotAlignedError

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

log = get_logger(__name__)

Align = Callable[[Samples, str], list[EmittedWord]]
"""See `PieceAligner`."""


@dataclass(frozen=True)
class PartTimes:
    """What was found of a part."""

    times: dict[str, list[RefWord]]
    """Words by cut."""
    failed: dict[str, str]
    """By cut that could not be aligned: why."""
    lead: float
    """Seconds by which words begin before their first piece is emitted."""
    tail: float
    """Seconds by which words end after their last one."""


def align_part(
    cuts: Sequence["MonoCut"],
    align: Align,
    folder: Path,
    settings: Mapping[str, Any],
    show: Callable[[Sequence["MonoCut"]], Iterator["MonoCut"]] = iter,
) -> PartTimes:
    """The word times of some cuts of one part.

    Args:
        cuts: each with its transcript.
        align: the model.
        folder: gets a journal, from which an interrupted run with the same settings goes on.
        settings: what decides the result.
        show: goes through cuts and shows how far it is.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = ShardedJournal(journal_path(folder), settings)
    done = set(journal.read())  # the rest of it is read again when all is there
    if done:
        log.info("%s: goes on after %d of %d utterances", folder, len(done), len(cuts))
    place = {cut.id: number for number, cut in enumerate(cuts)}
    for cut in show([cut for cut in cuts if place[cut.id] not in done]):
        journal.append(place[cut.id], _record(cut, align))
    return _placed([record for _, record in sorted(journal.read().items())])


def journal_path(folder: Path) -> Path:
    """Of what has been aligned, for `forget_journal`."""
    return folder / "aligned.partial"


def _record(cut: "MonoCut", align: Align) -> dict[str, Any]:
    """One utterance: when its pieces are emitted, and where its speech is; or why that is not known."""
    try:
        if cut.sampling_rate != SAMPLE_RATE:
            cut = cut.resample(SAMPLE_RATE)
        samples_N = load_cut_samples(cut).numpy()
        words = align(samples_N, cut_text(cut))
    except AudioError as error:
        return {"id": cut.id, "failed": error.reason}
    except (NotAlignedError, UserError) as error:
        return {"id": cut.id, "failed": str(error)}
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return {"id": cut.id, "failed": f"out of memory: it lasts {cut.duration:.0f} s"}
    speech = find_speech(samples_N, SAMPLE_RATE)
    return {
        "id": cut.id,
        "words": [[word.word, word.first, word.last] for word in words],
        "speech": [speech.begin, speech.end, speech.duration],
    }


def _placed(records: Sequence[Mapping[str, Any]]) -> PartTimes:
    found = {
        record["id"]: ([EmittedWord(*word) for word in record["words"]], Speech(*record["speech"]))
        for record in records
        if "words" in record
    }
    margins = measure_margins(list(found.values()))
    times = {id: place_words(words, speech, margins) for id, (words, speech) in found.items()}
    failed = {record["id"]: record["failed"] for record in records if "failed" in record}
    return PartTimes(times, failed, margins.lead, margins.tail)


def report_failed(part: str, found: PartTimes, list_path: Path) -> None:
    """Name the utterances that have no times, and write all of them to a file: id and reason."""
    if not found.failed:
        list_path.unlink(missing_ok=True)
        return
    write_text(list_path, "".join(f"{id}\t{reason}\n" for id, reason in sorted(found.failed.items())))
    shown = [f"{id} ({reason})" for id, reason in sorted(found.failed.items())]
    log.warning(
        "%s: %d of %d utterances could not be aligned: %s; all are listed in %s",
        part, len(found.failed), len(found.failed) + len(found.times), quote(shown), list_path,
    )  # fmt: skip
