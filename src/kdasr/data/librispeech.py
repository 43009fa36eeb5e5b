"""From a part in LibriSpeech's layout to Lhotse manifests and cuts."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import soundfile
import torch
from lhotse import AudioSource, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.alignments import part_alignments
from kdasr.data.audio_files import quote
from kdasr.data.channels import mix_down
from kdasr.data.corpus_check import PartListing, Utterance
from kdasr.data.features import SAMPLE_RATE

log = get_logger(__name__)


def part_manifests(
    listing: PartListing, converted_dir: Path, jobs: int = 1
) -> tuple[RecordingSet, SupervisionSet]:
    """Lhotse's manifests of one part: texts as they are, 16 kHz mono audio, sorted by id.

    They are those of `lhotse.recipes.prepare_librispeech`, which finds neither linked folders nor wav files.
    Audio at another rate or with several channels is converted once, into `converted_dir`.

    Raises:
        UserError: an alignment file in another form, or audio that cannot be converted.
    """
    alignments = part_alignments(listing)
    recordings = {utterance.id: _recording(utterance) for utterance in listing.utterances}
    for recording in _convert(listing, converted_dir, jobs):
        recordings[recording.id] = recording
    supervisions = [
        _supervision(utterance, recordings[utterance.id].duration, alignments)
        for utterance in listing.utterances
    ]
    return RecordingSet.from_recordings(recordings.values()), SupervisionSet.from_segments(supervisions)


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


def _recording(utterance: Utterance) -> Recording:
    """What `Recording.from_file` makes of the audio, from the header that was read already."""
    rate, channels, num_samples = utterance.header
    return Recording(
        id=utterance.id,
        sources=[AudioSource("file", list(range(channels)), str(utterance.audio))],
        sampling_rate=rate,
        num_samples=num_samples,
        duration=num_samples / rate,
    )


def _supervision(
    utterance: Utterance, duration: float, alignments: dict[str, list[AlignmentItem]]
) -> SupervisionSegment:
    return SupervisionSegment(
        id=utterance.id,
        recording_id=utterance.id,
        start=0.0,
        duration=duration,
        channel=0,
        speaker=utterance.id.partition("-")[0],
        text=utterance.text,
        alignment={"word": alignments[utterance.id]} if utterance.id in alignments else None,
    )


def _convert(listing: PartListing, converted_dir: Path, jobs: int) -> list[Recording]:
    odd = [
        item
        for item in listing.utterances
        if item.header.sample_rate != SAMPLE_RATE or item.header.channels != 1
    ]
    if not odd:
        return []
    log.info(
        "%s: converting %d file(s) to 16 kHz mono: %s", listing.name, len(odd), quote(item.id for item in odd)
    )
    converted_dir.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        converted = list(pool.map(partial(_convert_one, converted_dir=converted_dir), odd))
    faults = [f"{item.id} ({fault})" for item, (_, fault) in zip(odd, converted, strict=True) if fault]
    if faults:
        log.warning("%s: %d file(s) are not mixed: %s", listing.name, len(faults), quote(faults))
    return [recording for recording, _ in converted]


def _convert_one(utterance: Utterance, converted_dir: Path) -> tuple[Recording, str | None]:
    """The converted recording, and what was wrong with its channels."""
    import torchaudio

    try:
        samples, rate = soundfile.read(utterance.audio, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise UserError(f"{utterance.audio}: cannot be decoded: {error}") from error
    mixed, fault = mix_down(samples)
    mono = torchaudio.functional.resample(torch.from_numpy(mixed), rate, SAMPLE_RATE)
    path = converted_dir / f"{utterance.id}.flac"
    soundfile.write(path, mono.numpy(), SAMPLE_RATE, subtype="PCM_16")
    return Recording.from_file(path, recording_id=utterance.id), fault
