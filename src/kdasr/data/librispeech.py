"""From a part in LibriSpeech's layout to Lhotse manifests and cuts."""

import contextlib
import io
import logging
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import soundfile
import torch
from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.cut import MonoCut
from lhotse.recipes import prepare_librispeech
from lhotse.recipes.librispeech import parse_alignments
from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.corpus_check import PartListing, Utterance, quote
from kdasr.data.features import SAMPLE_RATE

log = get_logger(__name__)


def part_manifests(
    listing: PartListing, corpus_dir: Path, alignments_dir: Path, converted_dir: Path, jobs: int = 1
) -> tuple[RecordingSet, SupervisionSet]:
    """Lhotse's manifests of one part: upper-case texts, 16 kHz mono audio, sorted by id.

    Audio at another rate or with several channels is converted once, into `converted_dir`.

    Raises:
        UserError: an alignment file that does not parse.
    """
    alignments = _check_alignments(listing)
    recordings: dict[str, Recording] = {}
    supervisions: dict[str, SupervisionSegment] = {}
    if any(_is_regular(utterance, corpus_dir / listing.name) for utterance in listing.utterances):
        recordings, supervisions = _recipe(listing.name, corpus_dir, alignments_dir, jobs)
    for utterance in listing.utterances:
        if utterance.id not in recordings:
            recordings[utterance.id] = Recording.from_file(utterance.audio, recording_id=utterance.id)
            supervisions[utterance.id] = _supervision(utterance, recordings[utterance.id], alignments)
    for recording in _convert(listing, converted_dir, jobs):
        recordings[recording.id] = recording
        supervisions[recording.id].duration = recording.duration
    ids = sorted(recordings)
    for supervision in supervisions.values():
        supervision.text = (supervision.text or "").upper()
    return (
        RecordingSet.from_recordings(recordings[name] for name in ids),
        SupervisionSet.from_segments(supervisions[name] for name in ids),
    )


def part_cuts(
    recordings: RecordingSet, supervisions: SupervisionSet, speeds: Sequence[float] = (1.0,)
) -> list[MonoCut]:
    """One cut with one supervision per utterance and speed; `cut.custom["speed"]` says which.

    Alignments lose the silences that LibriSpeech-Alignments writes as empty words. Several speeds come in
    a fixed shuffled order, so that a sampler which buffers part of a large set still mixes speakers.
    """
    recording_of = {recording.id: recording for recording in recordings}
    cuts = []
    for supervision in supervisions:
        if supervision.alignment:
            words = [item for item in supervision.alignment.get("word", []) if item.symbol]
            supervision.alignment = {"word": words}
        recording = recording_of[supervision.recording_id]
        cut = MonoCut(
            id=supervision.id,
            start=0.0,
            duration=recording.duration,
            channel=0,
            supervisions=[supervision],
            recording=recording,
        )
        for speed in speeds:
            copy = cut if speed == 1.0 else cut.perturb_speed(speed)
            cuts.append(copy.with_custom("speed", float(speed)))
    if len(speeds) > 1:
        random.Random(len(cuts)).shuffle(cuts)
    return cuts


def _is_regular(utterance: Utterance, part_dir: Path) -> bool:
    """Whether Lhotse's recipe will find the audio."""
    return utterance.audio == part_dir / Path(utterance.id.replace("-", "/")).parent / f"{utterance.id}.flac"


def _recipe(
    part: str, corpus_dir: Path, alignments_dir: Path, jobs: int
) -> tuple[dict[str, Recording], dict[str, SupervisionSegment]]:
    """Recordings and supervisions by id. The check has reported what the recipe would warn of."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = prepare_librispeech(
                corpus_dir, alignments_dir=alignments_dir, dataset_parts=[part], num_jobs=jobs
            )[part]
    except ValueError:
        # A blank line stops the recipe; it need not stop us.
        return {}, {}
    finally:
        logging.disable(logging.NOTSET)
    return (
        {recording.id: recording for recording in found["recordings"]},
        {supervision.id: supervision for supervision in found["supervisions"]},
    )


def _supervision(
    utterance: Utterance, recording: Recording, alignments: dict[str, list[AlignmentItem]]
) -> SupervisionSegment:
    """What Lhotse's recipe makes of a flac, for the audio that the recipe does not look for."""
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=recording.duration,
        channel=0,
        language="English",
        speaker=utterance.id.partition("-")[0],
        text=utterance.text,
        alignment={"word": alignments[utterance.id]} if utterance.id in alignments else None,
    )


def _check_alignments(listing: PartListing) -> dict[str, list[AlignmentItem]]:
    """Parse every alignment file of the part; count those whose words are not the transcript's."""
    alignments: dict[str, list[AlignmentItem]] = {}
    for file in sorted({item.alignment for item in listing.utterances if item.alignment is not None}):
        try:
            alignments.update(parse_alignments(file))
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: not in the LibriSpeech-Alignments text form: {error}") from None
    texts = {item.id: item.text.upper() for item in listing.utterances}
    different = [
        name
        for name, items in alignments.items()
        if name in texts and " ".join(item.symbol for item in items if item.symbol).upper() != texts[name]
    ]
    if different:
        log.warning(
            "%s: %d alignment(s) whose words are not the transcript's: %s",
            listing.name, len(different), quote(sorted(different)),
        )  # fmt: skip
    unaligned = len(texts) - len(texts.keys() & alignments.keys())
    if unaligned:
        log.info("%s: %d of %d utterances have no word alignment", listing.name, unaligned, len(texts))
    return alignments


def _convert(listing: PartListing, converted_dir: Path, jobs: int) -> list[Recording]:
    odd = [item for item in listing.utterances if item.sample_rate != SAMPLE_RATE or item.channels != 1]
    if not odd:
        return []
    log.info(
        "%s: converting %d file(s) to 16 kHz mono: %s", listing.name, len(odd), quote(item.id for item in odd)
    )
    converted_dir.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        return list(pool.map(partial(_convert_one, converted_dir=converted_dir), odd))


def _convert_one(utterance: Utterance, converted_dir: Path) -> Recording:
    import torchaudio

    try:
        samples, rate = soundfile.read(utterance.audio, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(f"{utterance.audio}: cannot be decoded: {error}") from error
    mono = torch.from_numpy(samples).mean(dim=1)
    mono = torchaudio.functional.resample(mono, rate, SAMPLE_RATE)
    path = converted_dir / f"{utterance.id}.flac"
    soundfile.write(path, mono.numpy(), SAMPLE_RATE, subtype="PCM_16")
    return Recording.from_file(path, recording_id=utterance.id)
