"""`kdasr prepare`: a corpus of any kind becomes a data folder, part by part."""

import random
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from lhotse import Recording
from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.files import sha256, write_json
from kdasr.common.logging import get_logger
from kdasr.corpora.base import Corpus, Location, Part, Reading, open_corpus
from kdasr.data.audio_files import quote
from kdasr.data.bad import BadUtterance, MaxBad, ids_of, report_bad
from kdasr.data.features import FeatureStats, utterance_of
from kdasr.data.fingerprint import folder_size
from kdasr.data.folder import (
    RECORD,
    VERSION,
    cuts_path,
    load_record,
    manifest_path,
    old_manifests,
    recorded_normalization,
    write_manifest,
)
from kdasr.data.index_folder import open_part
from kdasr.data.part_features import check_part, settings_key, store_part
from kdasr.data.staging import Staged, Workers
from kdasr.data.text_rules import check_rule

log = get_logger(__name__)

STATS = "feature_stats.json"
_PART_NAME = re.compile(r"\w[\w.+-]*")


@dataclass(frozen=True)
class PrepareOptions:
    """What `kdasr prepare` was asked for."""

    corpus_dir: Path | None
    out_dir: Path
    parts: Sequence[str] = ()
    """None named: all that the corpus has."""
    alignments_dir: Path | None = None
    train_parts: Sequence[str] | None = None
    """None: the parts whose name starts with `train`."""
    speeds: Sequence[float] = (0.9, 1.0, 1.1)
    """Speed factors of the copies in training parts."""
    on_the_fly: bool = False
    """Store no features; training computes them."""
    jobs: int = 1
    max_bad: MaxBad = field(default_factory=MaxBad)
    """Utterances of a part whose audio may be bad; they are left out."""
    keep_empty: bool = False
    """Keep utterances with an empty transcript."""
    corpus: str | None = None
    """The kind of corpus. None: that which takes such a place."""
    cuts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Manifests and folders of cuts, by part."""
    normalize: str | None = None
    """How text is written before it is cut into pieces (see `kdasr.data.text_rules`). None: as the data
    folder says, and in a new one as it is."""

    def open(self) -> Corpus:
        """The corpus, for the parts that are asked for.

        Raises:
            UserError: there is no such corpus or part.
        """
        location = Location(self.corpus_dir, self.alignments_dir, self.cuts)
        return open_corpus(self.corpus, location, self.parts)

    def speeds_of(self, part: str) -> list[float]:
        """Speeds of one part; evaluation parts are never perturbed."""
        return sorted({float(speed) for speed in self.speeds}) if self.is_train(part) else [1.0]

    def is_train(self, part: str) -> bool:
        """Whether `part` is trained on: it gets speed copies and counts in the feature statistics."""
        return part.startswith("train") if self.train_parts is None else part in self.train_parts


def prepare_corpus(options: PrepareOptions) -> None:
    """Check all parts, then prepare those that are new or changed.

    The record in `prepare.json` is written last, so an interrupted part counts as not prepared; what has been
    computed of it is kept. Utterances whose audio cannot be used are left out, named and counted.

    Raises:
        UserError: what is wrong with the corpus or the options, too many bad utterances, a full disk.
    """
    _check_options(options)
    corpus = options.open()
    names = corpus.parts()
    _check_parts(options, names)
    reading = Reading(options.jobs, options.keep_empty)
    parts = [corpus.check(name, reading) for name in names]
    _warn_of_shared(parts, options)
    record = load_record(options.out_dir) or {"version": VERSION, "parts": {}}
    try:
        for part in parts:
            if part.bad:  # before anything is computed
                _report_bad(part, part.bad, options)
        _record_normalization(record, options)
        with Workers(options.jobs) as workers:
            for part in parts:
                settings = _settings(part, corpus, options)
                if _is_done(record, part.name, settings, options.out_dir):
                    known = [BadUtterance(*item) for item in record["parts"][part.name].get("bad", [])]
                    _report_bad(part, known, options)
                    log.info("%s: already prepared", part.name)
                else:
                    _prepare_part(part, settings, options, record, workers)
        _write_stats(options.out_dir, record)
        for part in parts:
            if options.is_train(part.name):
                open_part(options.out_dir, part.name)  # makes its index
    except OSError as error:
        raise UserError(
            f"{options.out_dir}: cannot be written ({error.strerror or error}). What is done is kept: the "
            "same command goes on from there"
        ) from error


def _record_normalization(record: dict[str, Any], options: PrepareOptions) -> None:
    """Note the rule that is asked for; the cuts keep their text as it is, so that it can change."""
    before = recorded_normalization(record)
    rule = options.normalize or before
    if rule == before:
        return
    record["text"] = {"normalize": rule}
    if record["parts"]:
        log.warning(
            "%s: text.normalize was %s and is %s now: run `kdasr tokens` again", options.out_dir, before, rule
        )
        write_json(options.out_dir / RECORD, record)


def _report_bad(part: Part, bad: Sequence[BadUtterance], options: PrepareOptions) -> list[BadUtterance]:
    total = part.num_utterances + len(part.bad)
    return report_bad(part.name, bad, total, options.max_bad, options.out_dir / f"bad-{part.name}.tsv")


def _check_train_parts(options: PrepareOptions, names: Sequence[str]) -> None:
    unknown = set(options.train_parts or ()) - set(names)
    if unknown:
        raise UserError(f"--train-parts: not among the parts: {', '.join(sorted(unknown))}")


def _check_parts(options: PrepareOptions, names: Sequence[str]) -> None:
    _check_train_parts(options, names)
    for name in names:
        if not _PART_NAME.fullmatch(name):
            raise UserError(f"part '{name}': a name has letters, digits, '.', '_', '+' and '-' only")


def _warn_of_shared(parts: Sequence[Part], options: PrepareOptions) -> None:
    """Name ids that several parts have: perhaps the same speech, perhaps only the same name."""
    for one, other in combinations(parts, 2):
        shared = one.ids() & other.ids()
        if shared:
            heard = options.is_train(one.name) != options.is_train(other.name)
            log.warning(
                "%s and %s: %d id(s) are in both%s: %s",
                one.name, other.name, len(shared),
                ", so that perhaps the same speech is trained on and scored" if heard else "",
                quote(sorted(shared)),
            )  # fmt: skip


def _check_options(options: PrepareOptions) -> None:
    if options.parts:
        _check_train_parts(options, options.parts)
    if options.normalize is not None:
        check_rule(options.normalize, "text.normalize")
    wrong = [speed for speed in options.speeds if not 0.5 <= speed <= 2.0]
    if wrong or not options.speeds:
        raise UserError(f"--speed: factors between 0.5 and 2, such as 0.9,1.0,1.1; found {wrong or 'none'}")
    if options.jobs < 1:
        raise UserError(f"--jobs: at least 1, found {options.jobs}")


def _settings(part: Part, corpus: Corpus, options: PrepareOptions) -> dict[str, Any]:
    return {
        **corpus.settings(),
        "fingerprint": part.fingerprint,
        "train": options.is_train(part.name),
        "speeds": options.speeds_of(part.name),
        "on_the_fly": options.on_the_fly,
        **({"keep_empty": True} if options.keep_empty and part.empty else {}),
    }


def _is_done(record: dict[str, Any], part: str, settings: dict[str, Any], out_dir: Path) -> bool:
    """Whether a part was prepared from what is there now, and is still as it was left."""
    entry = record["parts"].get(part)
    if entry is None or entry["settings"] != settings:
        return False
    if entry.get("written") == _written(out_dir, part):
        return True
    log.warning("%s: its files are not as `kdasr prepare` left them: preparing it again", part)
    return False


def _written(out_dir: Path, part: str) -> dict[str, Any]:
    """What there is of a part: to tell whether something was lost or replaced since."""
    path = cuts_path(out_dir, part)
    return {
        "cuts_sha256": sha256(path) if path.is_file() else None,
        "fbank": folder_size(out_dir / "fbank" / part),
        "audio": folder_size(out_dir / "audio" / part),
    }


def _prepare_part(
    checked: Part, settings: dict[str, Any], options: PrepareOptions, record: dict[str, Any], workers: Workers
) -> None:
    """Compute one part beside what is published, then move it into place and record it."""
    started = time.monotonic()
    out_dir, part = options.out_dir.resolve(), checked.name
    key = settings_key(settings)
    with Staged(out_dir / "audio" / part, key) as audio, Staged(out_dir / "fbank" / part, key) as fbank:
        utterances, bad = checked.cuts(audio.partial, options.jobs)
        cuts = at_speeds(utterances, settings["speeds"])
        if options.on_the_fly:
            stats, found = check_part(cuts, workers, settings["train"])
        else:
            stats, found = store_part(cuts, fbank, f"fbank/{part}", workers, options.max_bad.at_once)
        bad = _report_bad(checked, [*checked.bad, *bad, *found], options)
        left_out = ids_of(bad)
        utterances = [cut for cut in utterances if cut.id not in left_out]
        cuts = [cut for cut in cuts if utterance_of(cut) not in left_out]
        # From here to the new record the part counts as not prepared.
        if record["parts"].pop(part, None) is not None:
            write_json(out_dir / RECORD, record)
        audio.publish()
        fbank.publish()
        _relocate((cut.recording for cut in (*utterances, *cuts)), out_dir, audio)
        _write_manifests(out_dir, part, utterances, cuts)
    hours = sum(cut.duration for cut in cuts) / 3600
    record["parts"][part] = {
        "settings": settings,
        "utterances": len(utterances),
        "bad": [list(utterance) for utterance in bad],
        "empty_transcripts": checked.empty,
        "cuts": len(cuts),
        "hours": round(hours, 4),
        **checked.notes(),
        "stats": stats.to_json(),
        "written": _written(out_dir, part),
    }
    write_json(out_dir / RECORD, record)
    content = f"{len(utterances)} utterances, {len(cuts)} cuts, {hours:.2f} h"
    kind = "features on the fly" if options.on_the_fly else "features stored"
    log.info("%s: %s, %s, in %.1f s", part, content, kind, time.monotonic() - started)


def at_speeds(cuts: Sequence[MonoCut], speeds: Sequence[float]) -> list[MonoCut]:
    """A copy of each utterance per speed; `cut.custom["speed"]` says which.

    Several speeds come in a fixed shuffled order, so that a sampler which buffers part of a large set still
    mixes speakers.
    """
    copies = []
    for cut in cuts:
        for speed in speeds:
            copy = cut if speed == 1.0 else cut.perturb_speed(speed)
            copies.append(copy.with_custom("speed", float(speed)))
    if len(speeds) > 1:
        random.Random(len(copies)).shuffle(copies)
    return copies


def _relocate(recordings: Iterable[Recording], out_dir: Path, audio: Staged) -> None:
    """Write paths below the data folder relative to it, so that the folder can be moved."""
    for recording in recordings:
        for source in recording.sources:
            path = Path(source.source)
            if path.is_relative_to(audio.partial):
                path = audio.target / path.relative_to(audio.partial)
            source.source = str(path.relative_to(out_dir) if path.is_relative_to(out_dir) else path)


def _write_manifests(out_dir: Path, part: str, utterances: list[MonoCut], cuts: list[MonoCut]) -> None:
    recordings = {cut.recording.id: cut.recording for cut in utterances}
    supervisions = [supervision for cut in utterances for supervision in cut.supervisions]
    for path in old_manifests(out_dir, part):
        path.unlink()
    write_manifest(manifest_path(out_dir, "recordings", part), recordings.values())
    write_manifest(manifest_path(out_dir, "supervisions", part), supervisions)
    write_manifest(cuts_path(out_dir, part), cuts)


def _write_stats(out_dir: Path, record: dict[str, Any]) -> None:
    stats = FeatureStats()
    for entry in record["parts"].values():
        if entry["settings"]["train"]:
            stats.merge(FeatureStats.from_json(entry["stats"]))
    if stats.num_frames == 0:
        log.warning("%s: no training part prepared yet, so no %s", out_dir, STATS)
        return
    write_json(out_dir / STATS, stats.summary())
