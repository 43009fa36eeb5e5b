"""`kdasr prepare`: a corpus in LibriSpeech's layout becomes a data folder, part by part."""

import gzip
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse import CutSet, Recording, RecordingSet, SupervisionSet

from kdasr.common.errors import UserError
from kdasr.common.files import atomic_path, read_object, sha256, write_json
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.bad import BadUtterance, MaxBad, ids_of, report_bad
from kdasr.data.corpus_check import PartListing, find_alignments, find_corpus, list_part
from kdasr.data.features import FeatureStats, utterance_of
from kdasr.data.fingerprint import folder_size
from kdasr.data.folder import RECORD, VERSION, cuts_path, load_record, manifest_path, train_parts
from kdasr.data.librispeech import part_cuts, part_manifests
from kdasr.data.part_features import check_part, settings_key, store_part
from kdasr.data.staging import Staged, Workers
from kdasr.data.text_normalization import one_space
from kdasr.data.tokenizer import RECORD_NAME, Tokenizer, train_tokenizer

log = get_logger(__name__)

STATS = "feature_stats.json"


@dataclass(frozen=True)
class PrepareOptions:
    """What `kdasr prepare` was asked for."""

    corpus_dir: Path
    out_dir: Path
    parts: Sequence[str]
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
    corpus_dir = find_corpus(options.corpus_dir, list(options.parts)).resolve()
    alignments_dir = find_alignments(options.alignments_dir, corpus_dir, list(options.parts)).resolve()
    listings = [
        list_part(corpus_dir, alignments_dir, part, options.jobs, options.keep_empty)
        for part in options.parts
    ]
    record = load_record(options.out_dir) or {"version": VERSION, "parts": {}}
    try:
        for listing in listings:
            if listing.bad:  # before anything is computed
                _report_bad(listing, listing.bad, options)
        with Workers(options.jobs) as workers:
            for listing in listings:
                settings = _settings(listing, corpus_dir, alignments_dir, options)
                if _is_done(record, listing.name, settings, options.out_dir):
                    known = [BadUtterance(*item) for item in record["parts"][listing.name].get("bad", [])]
                    _report_bad(listing, known, options)
                    log.info("%s: already prepared", listing.name)
                else:
                    _prepare_part(listing, settings, options, record, workers)
        _write_stats(options.out_dir, record)
    except OSError as error:
        raise UserError(
            f"{options.out_dir}: cannot be written ({error.strerror or error}). What is done is kept: the "
            "same command goes on from there"
        ) from error


def _report_bad(
    listing: PartListing, bad: Sequence[BadUtterance], options: PrepareOptions
) -> list[BadUtterance]:
    total = len(listing.utterances) + len(listing.bad)
    list_path = options.out_dir / f"bad-{listing.name}.tsv"
    return report_bad(listing.name, bad, total, options.max_bad, list_path)


def _check_options(options: PrepareOptions) -> None:
    if not options.parts:
        raise UserError("--parts: name at least one part, such as 'train-clean-100 dev-clean'")
    unknown = set(options.train_parts or ()) - set(options.parts)
    if unknown:
        raise UserError(f"--train-parts: not among --parts: {', '.join(sorted(unknown))}")
    wrong = [speed for speed in options.speeds if not 0.5 <= speed <= 2.0]
    if wrong or not options.speeds:
        raise UserError(f"--speed: factors between 0.5 and 2, such as 0.9,1.0,1.1; found {wrong or 'none'}")
    if options.jobs < 1:
        raise UserError(f"--jobs: at least 1, found {options.jobs}")


def _settings(
    listing: PartListing, corpus_dir: Path, alignments_dir: Path, options: PrepareOptions
) -> dict[str, Any]:
    return {
        "corpus_dir": str(corpus_dir),
        "alignments_dir": str(alignments_dir),
        "fingerprint": listing.fingerprint,
        "train": options.is_train(listing.name),
        "speeds": options.speeds_of(listing.name),
        "on_the_fly": options.on_the_fly,
        **({"keep_empty": True} if options.keep_empty and listing.empty else {}),
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
    listing: PartListing,
    settings: dict[str, Any],
    options: PrepareOptions,
    record: dict[str, Any],
    workers: Workers,
) -> None:
    """Compute one part beside what is published, then move it into place and record it."""
    started = time.monotonic()
    out_dir, part = options.out_dir.resolve(), listing.name
    key = settings_key(settings)
    with Staged(out_dir / "audio" / part, key) as audio, Staged(out_dir / "fbank" / part, key) as fbank:
        recordings, supervisions, bad = part_manifests(listing, audio.partial, options.jobs)
        cuts = part_cuts(recordings, supervisions, settings["speeds"])
        if options.on_the_fly:
            stats, found = check_part(cuts, workers, settings["train"])
        else:
            stats, found = store_part(cuts, fbank, f"fbank/{part}", workers, options.max_bad.at_once)
        bad = _report_bad(listing, [*listing.bad, *bad, *found], options)
        left_out = ids_of(bad)
        recordings, supervisions = (
            manifest.filter(lambda item: item.id not in left_out) for manifest in (recordings, supervisions)
        )
        cuts = [cut for cut in cuts if utterance_of(cut) not in left_out]
        # From here to the new record the part counts as not prepared.
        if record["parts"].pop(part, None) is not None:
            write_json(out_dir / RECORD, record)
        audio.publish()
        fbank.publish()
        _relocate([*recordings, *(cut.recording for cut in cuts)], out_dir, audio)
        _write_manifests(out_dir, part, recordings, supervisions, CutSet.from_cuts(cuts))
    hours = sum(cut.duration for cut in cuts) / 3600
    record["parts"][part] = {
        "settings": settings,
        "utterances": len(supervisions),
        "bad": [list(utterance) for utterance in bad],
        "empty_transcripts": listing.empty,
        "cuts": len(cuts),
        "hours": round(hours, 4),
        "missing_audio": listing.missing_audio,
        "missing_text": listing.missing_text,
        "unused_audio": [str(path) for path in (*listing.elsewhere, *listing.unused)],
        "stats": stats.to_json(),
        "written": _written(out_dir, part),
    }
    write_json(out_dir / RECORD, record)
    content = f"{len(supervisions)} utterances, {len(cuts)} cuts, {hours:.2f} h"
    kind = "features on the fly" if options.on_the_fly else "features stored"
    log.info("%s: %s, %s, in %.1f s", part, content, kind, time.monotonic() - started)


def _relocate(recordings: Iterable[Recording], out_dir: Path, audio: Staged) -> None:
    """Write paths below the data folder relative to it, so that the folder can be moved."""
    for recording in recordings:
        for source in recording.sources:
            path = Path(source.source)
            if path.is_relative_to(audio.partial):
                path = audio.target / path.relative_to(audio.partial)
            source.source = str(path.relative_to(out_dir) if path.is_relative_to(out_dir) else path)


def _write_manifests(
    out_dir: Path, part: str, recordings: RecordingSet, supervisions: SupervisionSet, cuts: CutSet
) -> None:
    for manifest, path in (
        (recordings, manifest_path(out_dir, "recordings", part)),
        (supervisions, manifest_path(out_dir, "supervisions", part)),
        (cuts, cuts_path(out_dir, part)),
    ):
        # Not Lhotse's own writer: it goes by the suffix, which the temporary name lacks. Without name and
        # time in gzip's header, the same manifest is the same file.
        with (
            atomic_path(path) as temporary,
            temporary.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file,
        ):
            for item in manifest:
                file.write((json.dumps(item.to_dict(), ensure_ascii=False) + "\n").encode())


def _write_stats(out_dir: Path, record: dict[str, Any]) -> None:
    stats = FeatureStats()
    for entry in record["parts"].values():
        if entry["settings"]["train"]:
            stats.merge(FeatureStats.from_json(entry["stats"]))
    if stats.num_frames == 0:
        log.warning("%s: no training part prepared yet, so no %s", out_dir, STATS)
        return
    write_json(out_dir / STATS, stats.summary())


def prepare_tokens(data_dir: Path, vocab_size: int, *, at_most: bool = False) -> Tokenizer:
    """Train the tokenizer of a data folder on its training transcripts, or load the one of the same settings.

    With `at_most`, transcripts that do not fill `vocab_size` give fewer pieces and a warning.

    Raises:
        UserError: no training part is prepared, or the size does not suit the transcripts.
    """
    parts = sorted(train_parts(data_dir))
    if not parts:
        raise UserError(f"{data_dir}: no training part is prepared: run `kdasr prepare` first")
    texts = [
        supervision.text
        for part in parts
        for supervision in SupervisionSet.from_jsonl(manifest_path(data_dir, "supervisions", part))
        if supervision.text
    ]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    settings = {"vocab_size": vocab_size, "at_most": at_most, "parts": parts, "texts_sha256": digest}
    out_dir = Path(data_dir) / "tokens"
    record = out_dir / RECORD_NAME
    if record.is_file() and settings.items() <= read_object(record).items():
        log.info("%s: already trained with %d pieces", out_dir, vocab_size)
        return Tokenizer.load(out_dir)
    with Staged(out_dir) as staged:
        trained = train_tokenizer(texts, vocab_size, staged.partial, at_most=at_most)
        made = trained.vocab_size
        write_json(staged.partial / RECORD_NAME, {**settings, "model_sha256": trained.fingerprint})
        staged.publish()
    tokenizer = Tokenizer.load(out_dir)
    log.info("%s: %d pieces from %d transcripts", out_dir, made, len(texts))
    _log_normalization(tokenizer, texts)
    if made < vocab_size:
        log.warning("%s: the transcripts give no more than %d of %d pieces", out_dir, made, vocab_size)
    return tokenizer


def _log_normalization(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Which transcripts are trained on, and scored, in other letters than those they are written in."""
    pairs = ((one_space(text).strip(), tokenizer.normalize(text)) for text in texts)
    changed = [f"'{before}' as '{after}'" for before, after in pairs if before != after]
    if changed:
        log.info(
            "%d of %d transcripts are normalised by %s: %s",
            len(changed), len(texts), tokenizer.normalization, quote(changed),
        )  # fmt: skip
