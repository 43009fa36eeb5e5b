"""From a part in LibriSpeech's layout to Lhotse manifests and cuts."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from lhotse import AudioSource, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem

from kdasr.common.files import atomic_path
from kdasr.common.logging import get_logger
from kdasr.data.alignments import part_alignments
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import AudioError, fault_in_samples, read_audio, write_flac
from kdasr.data.bad import BadUtterance
from kdasr.data.channels import mix_down
from kdasr.data.corpus_check import PartListing, Utterance
from kdasr.data.features import SAMPLE_RATE

log = get_logger(__name__)


def part_manifests(
    listing: PartListing, converted_dir: Path, jobs: int = 1
) -> tuple[RecordingSet, SupervisionSet, list[BadUtterance]]:
    """Lhotse's manifests of one part, and the utterances whose audio cannot be converted.

    Texts are as they are, audio is at 16 kHz with one channel, and all is sorted by id.

    They are those of `lhotse.recipes.prepare_librispeech`, which finds neither linked folders nor wav files.
    Audio at another rate, with several channels, or in another format than flac and wav is converted once,
    into `converted_dir`, unless it is there already.

    Raises:
        UserError: an alignment file in another form.
    """
    alignments = part_alignments(listing)
    recordings = {utterance.id: _recording(utterance) for utterance in listing.utterances}
    bad: list[BadUtterance] = []
    for converted in _convert(listing, converted_dir, jobs):
        if isinstance(converted, BadUtterance):
            bad.append(converted)
            del recordings[converted.id]
        else:
            recordings[converted.id] = converted
    supervisions = [
        _supervision(utterance, recordings[utterance.id].duration, alignments)
        for utterance in listing.utterances
        if utterance.id in recordings
    ]
    return RecordingSet.from_recordings(recordings.values()), SupervisionSet.from_segments(supervisions), bad


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
    rate, channels, num_samples = utterance.header[:3]
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


def _convert(listing: PartListing, converted_dir: Path, jobs: int) -> list[Recording | BadUtterance]:
    odd = [
        item
        for item in listing.utterances
        if item.header.sample_rate != SAMPLE_RATE or item.header.channels != 1 or not item.header.is_plain
    ]
    if not odd:
        return []
    log.info(
        "%s: converting %d file(s) to 16 kHz mono: %s", listing.name, len(odd), quote(item.id for item in odd)
    )
    narrow = [item.id for item in odd if item.header.sample_rate < SAMPLE_RATE]
    if narrow:
        log.warning(
            "%s: %d file(s) are sampled below 16 kHz, so nothing is in their upper band: %s",
            listing.name, len(narrow), quote(narrow),
        )  # fmt: skip
    converted_dir.mkdir(parents=True, exist_ok=True)
    cancelled: list[str] = []
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        convert = partial(_convert_one, converted_dir=converted_dir, cancelled=cancelled)
        converted = list(pool.map(convert, odd))
    if cancelled:
        log.warning(
            "%s: %d file(s) are not mixed: %s", listing.name, len(cancelled), quote(sorted(cancelled))
        )
    return converted


def _convert_one(utterance: Utterance, converted_dir: Path, cancelled: list[str]) -> Recording | BadUtterance:
    """The converted recording; `cancelled` gets its name when its channels cannot be mixed."""
    import torchaudio

    path = converted_dir / f"{utterance.id}.flac"
    if not path.is_file():
        try:
            samples_NC, rate = read_audio(utterance.audio)
        except AudioError as error:
            return BadUtterance(utterance.id, str(utterance.audio), error.reason)
        fault = "no samples" if not samples_NC.size else fault_in_samples(samples_NC)
        if fault is not None:
            return BadUtterance(utterance.id, str(utterance.audio), fault)
        mixed_N, lost = mix_down(samples_NC)
        if lost:
            cancelled.append(f"{utterance.id} ({lost})")
        mono = torchaudio.functional.resample(torch.from_numpy(mixed_N), rate, SAMPLE_RATE)
        with atomic_path(path) as temporary:
            write_flac(temporary, mono.numpy(), SAMPLE_RATE)
    return Recording.from_file(path, recording_id=utterance.id)
