"""What is to be labeled: Lhotse cuts with or without transcripts, Shar folders, or bare audio files."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.folders import find_files
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.corpora.audio_part import Told, audio_part
from kdasr.corpora.base import Part, PartCuts, Reading
from kdasr.corpora.lhotse_cuts import LhotseCuts
from kdasr.corpora.remarks import Remarks
from kdasr.corpora.shar import AUDIO as SHAR_AUDIO
from kdasr.corpora.shar import CUTS as SHAR_CUTS
from kdasr.data.audio_files import is_audio, quote
from kdasr.data.bad import BadUtterance
from kdasr.data.folder import write_manifest
from kdasr.labeling.input_stamps import InputStamps, time_there
from kdasr.labeling.utterances import Utterances, forget_order, has_order, write_order

log = get_logger(__name__)

CUTS, RECORD, STAMPS = "input.jsonl.gz", "input.json", "input-files.jsonl.gz"
OWN_CUTS, DROPPED, LABELS, SUMMARY = "cuts.*.jsonl.gz", "dropped", "labels", "filters.json"
"""In the folder of the labels: manifests of what is kept; folders of what is dropped, and of what labelers
said; what filters did."""
AUDIO, CONVERTED = "audio", "audio.json"
"""Folder of audio that was converted, where it was not one channel of 16 kHz in a file; and the fingerprint
of what it was converted from."""


@dataclass(frozen=True)
class Inputs:
    """The utterances to label."""

    cuts: Utterances
    """Sorted by id, of one channel at 16 kHz, with one supervision each; its text, where there is one, is the
    transcript that labels are compared with."""
    bad: list[BadUtterance]
    """Those whose audio cannot be used, as far as their headers say."""
    fingerprint: str
    """Changes with the cuts and the audio."""
    digest: str
    """Tells one list of utterances from another: see `digest_of`."""


def check_apart(places: Sequence[Path], out: Path) -> None:
    """Refuse a folder of labels that would replace cuts which it did not make, or those to be labeled.

    Args:
        places: what is labeled.
        out: gets `cuts.*.jsonl.gz`, here and in `DROPPED`; what is there of such names is removed.

    Raises:
        UserError: labels would replace something.
    """
    written = {folder.resolve() for folder in (out, out / DROPPED)}
    for place in places:
        is_cuts = place.is_file() and fnmatch(place.name, OWN_CUTS)
        if (place.resolve().parent if is_cuts else place.resolve()) in written:
            raise UserError(f"--cuts {place}: labels in {out} would replace it: give another --out")
    is_ours = (out / LABELS).is_dir() or (out / SUMMARY).is_file()
    if any(out.glob(OWN_CUTS)) and not is_ours:
        raise UserError(f"--out {out}: holds cuts that `kdasr label` has not written: give another --out")


def read_inputs(places: Sequence[Path], work_dir: Path, jobs: int) -> Inputs:
    """Check the cuts and audio files in some places, and convert what cannot be read in place.

    Several processes may call it with the same arguments: one of them does the work. What was checked before
    is checked again only where a file has another size or time than it had then, or files have come or gone.

    Args:
        places: manifests of cuts, Shar folders, or folders of audio files, each of which is an utterance.
        work_dir: where converted audio and the list of cuts are kept.
        jobs: threads.

    Raises:
        UserError: nothing there, or nothing that can be used.
    """
    for place in places:
        if not place.exists():
            raise UserError(f"--cuts {place}: no such file or folder")
    work_dir.mkdir(parents=True, exist_ok=True)
    stamps, begun = InputStamps(work_dir / STAMPS, places), time_there(work_dir)
    with locked(work_dir):
        record, manifest = work_dir / RECORD, work_dir / CUTS
        known = read_object(record) if record.is_file() else {}
        is_whole = "digest" in known and manifest.is_file() and has_order(manifest)
        if not (is_whole and (stamps.are_since(begun) or stamps.hold(_files_at(places, work_dir), jobs))):
            known = _check(places, work_dir, jobs, known, stamps)
    bad = [BadUtterance(*item) for item in known["bad"]]
    return Inputs(Utterances(manifest), bad, known["fingerprint"], known["digest"])


def _check(
    places: Sequence[Path], work_dir: Path, jobs: int, known: dict[str, Any], stamps: InputStamps
) -> dict[str, Any]:
    """Look at everything, and write what has changed; returns the new record."""
    record, manifest = work_dir / RECORD, work_dir / CUTS
    with stamps.taken(_files_at(places, work_dir)) as watch:
        part = _part(places, work_dir, jobs, watch)
        if known.get("fingerprint") != part.fingerprint or not manifest.is_file():
            bad, remarks = list(part.bad), Remarks()
            _forget_audio_of_others(work_dir, part.fingerprint)
            made = part.cuts(range(part.num_utterances), (work_dir / AUDIO).resolve(), jobs)
            record.unlink(missing_ok=True)
            forget_order(manifest)
            write_manifest(manifest, _kept(made, bad, remarks))
            remarks.log(part.name, word_times=False)
            known = {"fingerprint": part.fingerprint, "bad": [list(item) for item in bad]}
        if not has_order(manifest):
            write_order(manifest, jobs)
    if "digest" not in known:  # earlier versions kept none
        known["digest"] = digest_of(Utterances(manifest))
        write_json(record, known)
    return known


def _forget_audio_of_others(work_dir: Path, fingerprint: str) -> None:
    """Remove converted audio unless it is of what is there now: its files are named by the utterances alone,
    and would be taken for those of the new audio."""
    mark = work_dir / CONVERTED
    if not mark.is_file() or read_object(mark).get("fingerprint") != fingerprint:
        shutil.rmtree(work_dir / AUDIO, ignore_errors=True)
        write_json(mark, {"fingerprint": fingerprint})


def _kept(made: Iterable[PartCuts], bad: list[BadUtterance], remarks: Remarks) -> Iterator[MonoCut]:
    """The cuts; `bad` and `remarks` get what else there is."""
    for some in made:
        yield from some.cuts
        bad += some.bad
        remarks.merge(some.remarks)


def _files_at(places: Sequence[Path], work_dir: Path) -> list[Path]:
    """The manifests, archives and audio files in some places, without those that manifests name."""
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
        elif _has_shards(place):
            files += sorted(path for name in (SHAR_CUTS, SHAR_AUDIO) for path in place.glob(f"{name}.*"))
        else:
            files += _audio_files(place, work_dir)
    return files


def _audio_files(place: Path, work_dir: Path) -> list[Path]:
    """The audio files in a folder, without those that were converted from them and may be in it, too."""
    files = find_files(place, is_audio).files
    converted, root = (work_dir / AUDIO).resolve(), place.resolve()
    if not converted.is_relative_to(root):
        return files
    ours = place / converted.relative_to(root)
    return [file for file in files if not file.is_relative_to(ours)]


def _has_shards(folder: Path) -> bool:
    return any(folder.glob(f"{SHAR_CUTS}.*"))


def _part(places: Sequence[Path], work_dir: Path, jobs: int, watch: Callable[[Path], None]) -> Part:
    """All places as one part of a corpus; `watch` is told of the audio files that manifests name."""
    reading = Reading(jobs, keep_empty=True, to_be_labeled=True, watch=watch)
    folders = [place for place in places if place.is_dir() and not _has_shards(place)]
    if not folders:
        return LhotseCuts({"input": list(places)}).check("input", reading)
    if len(folders) < len(places):
        raise UserError(
            "--cuts: either manifests and Shar folders, or folders of audio files; label them apart"
        )
    told = []
    for folder in folders:
        files = _audio_files(folder, work_dir)
        if not files:
            raise UserError(
                f"--cuts {folder}: neither a Shar folder (cuts.000000.jsonl.gz, ...) nor a folder with audio "
                f"files; there: {quote(sorted(path.name for path in folder.iterdir())) or 'nothing'}"
            )
        told += [
            Told("-".join(file.relative_to(folder).with_suffix("").parts), "", file.resolve())
            for file in files
        ]
    return audio_part("input", told, reading)


def digest_of(cuts: Iterable[MonoCut]) -> str:
    """Tells one list of utterances from another: ids, places and lengths, not the transcripts."""
    digest = hashlib.sha256()
    for cut in cuts:
        digest.update(f"{cut.id} {cut.recording.sources[0].source} {cut.start} {cut.duration}\n".encode())
    return digest.hexdigest()
