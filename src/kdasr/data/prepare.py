"""`kdasr prepare`: a corpus in LibriSpeech's layout becomes a data folder, part by part."""

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet, Features, RecordingSet, SupervisionSet
from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.files import atomic_path, read_json, write_json
from kdasr.common.logging import get_logger
from kdasr.data.corpus_check import PartListing, find_alignments, find_corpus, list_part
from kdasr.data.features import FeatureStats, compute_features, load_cut_samples, store_features
from kdasr.data.librispeech import part_cuts, part_manifests
from kdasr.data.tokenizer import Tokenizer, train_tokenizer

log = get_logger(__name__)

RECORD = "prepare.json"
STATS = "feature_stats.json"
VERSION = 1
"""Raised when the content of a data folder changes, so that older folders are prepared again."""
CUTS_PER_TASK = 64
STATS_SAMPLE = 1000
"""Utterances per training part that give the feature statistics when nothing is stored."""


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

    def speeds_of(self, part: str) -> list[float]:
        """Speeds of one part; evaluation parts are never perturbed."""
        return sorted({float(speed) for speed in self.speeds}) if self.is_train(part) else [1.0]

    def is_train(self, part: str) -> bool:
        """Whether `part` is trained on: it gets speed copies and counts in the feature statistics."""
        return part.startswith("train") if self.train_parts is None else part in self.train_parts


def prepare_corpus(options: PrepareOptions) -> None:
    """Check all parts, then prepare those that are new or changed.

    The record in `prepare.json` is written last, so an interrupted part counts as not prepared.

    Raises:
        UserError: what is wrong with the corpus or the options; nothing has been computed then.
    """
    _check_options(options)
    corpus_dir = find_corpus(options.corpus_dir, list(options.parts)).resolve()
    alignments_dir = find_alignments(options.alignments_dir, corpus_dir, list(options.parts)).resolve()
    listings = [list_part(corpus_dir, alignments_dir, part, options.jobs) for part in options.parts]
    record = load_record(options.out_dir) or {"version": VERSION, "parts": {}}
    for listing in listings:
        settings = _settings(listing, corpus_dir, alignments_dir, options)
        if _is_done(record, listing.name, settings, options.out_dir):
            log.info("%s: already prepared", listing.name)
            continue
        if record["parts"].pop(listing.name, None) is not None:
            write_json(options.out_dir / RECORD, record)
        record["parts"][listing.name] = {
            "settings": settings,
            **_prepare_part(listing, corpus_dir, alignments_dir, options),
        }
        write_json(options.out_dir / RECORD, record)
    _write_stats(options.out_dir, record)


def load_record(data_dir: Path) -> dict[str, Any] | None:
    """The content of `prepare.json`, or None when there is none of this version."""
    path = Path(data_dir) / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    return record if record.get("version") == VERSION else None


def cuts_path(data_dir: Path, part: str) -> Path:
    """Where the cuts of a part are."""
    return Path(data_dir) / f"cuts_{part}.jsonl.gz"


def _manifest_path(data_dir: Path, kind: str, part: str) -> Path:
    return Path(data_dir) / "manifests" / f"librispeech_{kind}_{part}.jsonl.gz"


def load_cuts(data_dir: Path | str, part: str) -> CutSet:
    """The cuts of a prepared part, with paths that hold from the current directory.

    Raises:
        UserError: the part has not been prepared; the message names those that have.
    """
    data_dir = Path(data_dir)
    record = load_record(data_dir)
    if record is None:
        raise UserError(f"{data_dir}: not a prepared data folder ({RECORD} is missing): run `kdasr prepare`")
    if part not in record["parts"] or not cuts_path(data_dir, part).is_file():
        raise UserError(
            f"{data_dir}: part '{part}' is not prepared; there are: {', '.join(record['parts']) or 'none'}"
        )
    cuts = CutSet.from_jsonl(cuts_path(data_dir, part))
    for cut in cuts:
        for source in cut.recording.sources:
            source.source = str(data_dir / source.source)
        if cut.features is not None:
            cut.features.storage_path = str(data_dir / cut.features.storage_path)
    return cuts


def train_parts(data_dir: Path | str) -> list[str]:
    """The prepared parts that are trained on."""
    record = load_record(Path(data_dir)) or {"parts": {}}
    return [part for part, entry in record["parts"].items() if entry["settings"]["train"]]


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
    }


def _is_done(record: dict[str, Any], part: str, settings: dict[str, Any], out_dir: Path) -> bool:
    entry = record["parts"].get(part)
    return entry is not None and entry["settings"] == settings and cuts_path(out_dir, part).is_file()


def _prepare_part(
    listing: PartListing, corpus_dir: Path, alignments_dir: Path, options: PrepareOptions
) -> dict[str, Any]:
    """Compute one part beside what is published, then move it into place. Returns its record."""
    started = time.monotonic()
    out_dir, part = options.out_dir.resolve(), listing.name
    audio = _Staged(out_dir / "audio" / part)
    fbank = _Staged(out_dir / "fbank" / part)
    try:
        recordings, supervisions = part_manifests(
            listing, corpus_dir, alignments_dir, audio.partial, options.jobs
        )
        cuts = part_cuts(recordings, supervisions, options.speeds_of(part))
        stats = FeatureStats()
        if not options.on_the_fly:
            features, stats = _compute(cuts, fbank, options.jobs, f"fbank/{part}")
            for cut, manifest in zip(cuts, features, strict=True):
                cut.features = manifest
        elif options.is_train(part):
            stats = _sample_stats(cuts)
        audio.publish()
        fbank.publish()
        _write_manifests(out_dir, part, audio, recordings, supervisions, cuts)
    finally:
        audio.discard()
        fbank.discard()
    hours = sum(cut.duration for cut in cuts) / 3600
    log.info(
        "%s: %d utterances, %d cuts, %.2f h, %s, in %.1f s",
        part, len(listing.utterances), len(cuts), hours,
        "features on the fly" if options.on_the_fly else "features stored", time.monotonic() - started,
    )  # fmt: skip
    return {
        "utterances": len(listing.utterances),
        "cuts": len(cuts),
        "hours": round(hours, 4),
        "missing_audio": listing.missing_audio,
        "missing_text": listing.missing_text,
        "stats": stats.to_json(),
    }


class _Staged:
    """A folder that is filled under another name and appears, or replaces its predecessor, when complete."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial")
        self.discard()

    def publish(self) -> None:
        shutil.rmtree(self.target, ignore_errors=True)
        if self.partial.is_dir():
            self.partial.replace(self.target)

    def discard(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


def _compute(
    cuts: list[MonoCut], fbank: _Staged, jobs: int, published_as: str
) -> tuple[list[Features], FeatureStats]:
    """Features of all cuts, in their order, by `jobs` processes."""
    tasks = [cuts[start : start + CUTS_PER_TASK] for start in range(0, len(cuts), CUTS_PER_TASK)]
    fbank.partial.mkdir(parents=True, exist_ok=True)
    features: list[Features] = []
    stats = FeatureStats()
    if jobs == 1 or len(tasks) == 1:
        results = (store_features(task, fbank.partial, published_as) for task in tasks)
        for manifests, part_stats in results:
            features += manifests
            stats.merge(part_stats)
        return features, stats
    # A fork server is single-threaded and has the heavy imports once, for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kdasr.data.features"])
    with ProcessPoolExecutor(
        min(jobs, len(tasks)), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(store_features, task, fbank.partial, published_as) for task in tasks]
        try:
            for future in futures:
                manifests, part_stats = future.result()
                features += manifests
                stats.merge(part_stats)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return features, stats


def _sample_stats(cuts: list[MonoCut]) -> FeatureStats:
    stats = FeatureStats()
    for cut in cuts[:: max(1, len(cuts) // STATS_SAMPLE)]:
        stats.add(compute_features(load_cut_samples(cut)).numpy())
    return stats


def _write_manifests(
    out_dir: Path,
    part: str,
    audio: _Staged,
    recordings: RecordingSet,
    supervisions: SupervisionSet,
    cuts: list[MonoCut],
) -> None:
    """Paths below the data folder are written relative to it, so that the folder can be moved."""
    for recording in (*recordings, *(cut.recording for cut in cuts)):
        for source in recording.sources:
            path = Path(source.source)
            if path.is_relative_to(audio.partial):
                path = audio.target / path.relative_to(audio.partial)
            source.source = str(path.relative_to(out_dir) if path.is_relative_to(out_dir) else path)
    (out_dir / "manifests").mkdir(parents=True, exist_ok=True)
    for manifest, path in (
        (recordings, _manifest_path(out_dir, "recordings", part)),
        (supervisions, _manifest_path(out_dir, "supervisions", part)),
        (CutSet.from_cuts(cuts), cuts_path(out_dir, part)),
    ):
        # Lhotse goes by the suffixes, which a temporary name must therefore keep.
        with atomic_path(path) as temporary:
            named = temporary.with_name(f"{temporary.name}.jsonl.gz")
            manifest.to_file(named)
            named.replace(temporary)


def _write_stats(out_dir: Path, record: dict[str, Any]) -> None:
    stats = FeatureStats()
    for entry in record["parts"].values():
        if entry["settings"]["train"]:
            stats.merge(FeatureStats.from_json(entry["stats"]))
    if stats.num_frames == 0:
        log.warning("%s: no training part prepared yet, so no %s", out_dir, STATS)
        return
    write_json(out_dir / STATS, stats.summary())


def prepare_tokens(data_dir: Path, vocab_size: int) -> Tokenizer:
    """Train the tokenizer of a data folder on its training transcripts, or load the one of the same settings.

    Raises:
        UserError: no training part is prepared, or the size does not suit the transcripts.
    """
    parts = train_parts(data_dir)
    if not parts:
        raise UserError(f"{data_dir}: no training part is prepared: run `kdasr prepare` first")
    texts = [
        supervision.text or ""
        for part in parts
        for supervision in SupervisionSet.from_jsonl(_manifest_path(data_dir, "supervisions", part))
    ]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    settings = {"vocab_size": vocab_size, "parts": parts, "texts_sha256": digest}
    out_dir = Path(data_dir) / "tokens"
    if (out_dir / "tokens.json").is_file() and read_json(out_dir / "tokens.json") == settings:
        log.info("%s: already trained with %d pieces", out_dir, vocab_size)
        return Tokenizer.load(out_dir)
    tokenizer = train_tokenizer(texts, vocab_size, out_dir)
    write_json(out_dir / "tokens.json", settings)
    log.info("%s: %d pieces from %d transcripts", out_dir, tokenizer.vocab_size, len(texts))
    return tokenizer
