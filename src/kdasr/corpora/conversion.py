"""Audio made what everything here reads: one channel, 16 kHz, 16 bits, in a file of its own."""

# Shapes: N samples, C channels.

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse import Recording
from numpy.typing import NDArray

from kdasr.common.files import atomic_path, safe_name
from kdasr.corpora.remarks import Remarks
from kdasr.data.audio_reading import AudioError, AudioHeader, fault_in_samples, write_flac
from kdasr.data.bad import BadUtterance
from kdasr.data.channels import mix_down
from kdasr.data.features import SAMPLE_RATE

LOW_RATE = "file(s) are sampled below 16 kHz, so nothing is in their upper band"
"""What is said of such audio."""


class Source(NamedTuple):
    """The audio of an utterance that has to be converted."""

    id: str
    """Of the utterance, and of its recording from then on."""
    origin: str
    """What messages name: a file, or what else it comes from."""
    sample_rate: int
    read: Callable[[], tuple[NDArray[np.float32], int]]
    """Gives its samples (N, C) and their rate in Hz, or raises `AudioError`."""


def needs_conversion(header: AudioHeader) -> bool:
    """Whether a file is not what is read in place: flac or wav of one channel at 16 kHz."""
    return header.sample_rate != SAMPLE_RATE or header.channels != 1 or not header.is_plain


def convert_all(
    sources: Sequence[Source], converted_dir: Path, jobs: int, remarks: Remarks
) -> list[Recording | BadUtterance]:
    """The converted recording of each, or what is wrong with it; what is there already is not made again.

    `remarks` gets what was converted, and what is to be known of it.
    """
    if not sources:
        return []
    converted_dir.mkdir(parents=True, exist_ok=True)
    canceled: list[str] = []
    for rate in {source.sample_rate for source in sources}:
        _resampler(rate)  # before there are threads, each of which would make it
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        convert = partial(_convert_one, converted_dir=converted_dir, canceled=canceled)
        converted = list(pool.map(convert, sources))
    remarks.note("file(s) converted to 16 kHz mono", [source.id for source in sources])
    narrow = [source.id for source in sources if source.sample_rate < SAMPLE_RATE]
    remarks.fault(LOW_RATE, narrow)
    remarks.fault("file(s) are not mixed", sorted(canceled))
    return converted


def _convert_one(source: Source, converted_dir: Path, canceled: list[str]) -> Recording | BadUtterance:
    path = converted_dir / f"{safe_name(source.id)}.flac"
    if not path.is_file():
        try:
            samples_NC, rate = source.read()
        except AudioError as error:
            return BadUtterance(source.id, source.origin, error.reason)
        fault = "no samples" if not samples_NC.size else fault_in_samples(samples_NC)
        if fault is not None:
            return BadUtterance(source.id, source.origin, fault)
        mixed_N, lost = mix_down(samples_NC)
        if lost:
            canceled.append(f"{source.id} ({lost})")
        mono = _resampler(rate)(torch.from_numpy(mixed_N))
        with atomic_path(path) as temporary:
            write_flac(temporary, mono.numpy(), SAMPLE_RATE)
    return Recording.from_file(path, recording_id=source.id)


@lru_cache(maxsize=2)
def _resampler(rate: int) -> Any:
    """From a rate to 16 kHz, as `torchaudio.functional.resample` does it, which makes a filter for each file.

    That of a rate with few factors in common, such as 22,254 Hz, takes many seconds and a gigabyte.
    """
    import torchaudio

    return torchaudio.transforms.Resample(rate, SAMPLE_RATE, dtype=torch.float32)
