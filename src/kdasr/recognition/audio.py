"""Audio files and sample arrays, checked and brought to mono float32 in [-1, 1]."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.audio_reading import (
    HIGHEST_RATE,
    LOWEST_RATE,
    AudioError,
    fault_in_file,
    fault_in_samples,
    open_audio,
    read_block,
)
from kdasr.data.channels import ChannelMixer

log = get_logger(__name__)

Samples = NDArray[np.float32]


class AudioFile:
    """A sound file of any format that libsndfile knows, read in blocks; channels are averaged.

    Of channels that cancel each other the loudest is taken (see `ChannelMixer` and `fault`).
    However long the file, only one block of it is decoded at a time. A wav, ogg or mp3 that is not whole is
    named in the log, and read as far as it can be.
    """

    def __init__(self, path: Path | str, *, warn: bool = True) -> None:
        """
        Args:
            path: the file.
            warn: whether a file that is not whole is named in the log.

        Raises:
            UserError: missing, not audio, or at an impossible rate.
        """
        self.path = Path(path)
        self._mixer = ChannelMixer()
        self._file = open_audio(self.path)
        try:
            self.rate = check_rate(self._file.samplerate, source=f"{self.path}: sample rate")
        except UserError:
            self.close()
            raise
        if warn and (fault := fault_in_file(self.path)):
            log.warning("%s: %s", self.path, fault)

    def read(self, count: int) -> Samples:
        """The next `count` samples, or as many as are left: mono, float32.

        Raises:
            UserError: truncated beyond reading, or non-finite samples.
        """
        samples = read_block(self._file, count, self.path)
        return check_samples(self._mixer.push(samples), source=str(self.path))

    @property
    def fault(self) -> str | None:
        """What is wrong with the channels that were read so far."""
        return self._mixer.fault

    def blocks(self, count: int) -> Iterator[Samples]:
        """The rest of the file, `count` samples at a time.

        Raises:
            UserError: see `read`.
        """
        while len(block := self.read(count)):
            yield block

    def seek(self, position: int) -> None:
        """Go on at sample `position`.

        Raises:
            UserError: the format cannot do that.
        """
        import soundfile

        try:
            self._file.seek(position)
        except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
            raise UserError(f"{self.path}: cannot go to sample {position}: {error}") from None

    def close(self) -> None:
        """Give the file back to the system."""
        self._file.close()

    def __enter__(self) -> "AudioFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_BLOCK = 1 << 18
"""Samples of a file that are read at a time where nothing else decides it."""


def load_audio(path: Path | str) -> tuple[Samples, int]:
    """Read a whole sound file.

    Returns:
        Mono samples (possibly none) and the sample rate in Hz.

    Raises:
        UserError: see `AudioFile`.
    """
    with AudioFile(path) as file:
        blocks = list(file.blocks(_BLOCK))
        if file.fault:
            log.warning("%s: %s", path, file.fault)
        return np.concatenate([np.zeros(0, dtype=np.float32), *blocks]), file.rate


def check_audio(path: Path | str) -> float:
    """Read a sound file to its end without keeping it; its length in seconds.

    What is not whole is named in the log when the file is read again, to be used.

    Raises:
        UserError: see `AudioFile`.
    """
    with AudioFile(path, warn=False) as file:
        return sum(len(block) for block in file.blocks(_BLOCK)) / file.rate


def check_rate(rate: Any, source: str = "sample rate") -> int:
    """A sample rate in Hz as an integer; whole numbers of any numeric type will do.

    Raises:
        UserError: not a whole number, or outside `LOWEST_RATE` to `HIGHEST_RATE`.
    """
    # The range comes before `int`: nan and infinity are not in it.
    is_number = isinstance(rate, int | float | np.integer | np.floating)
    if not is_number or not LOWEST_RATE <= rate <= HIGHEST_RATE or rate != int(rate):
        raise UserError(
            f"{source} {rate!r}: expected a whole number of Hz from {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
        )
    return int(rate)


def check_samples(samples: ArrayLike, source: str = "samples") -> Samples:
    """Samples of one channel as float32 in [-1, 1]; integer types are scaled by their own range.

    That range has to be known, so integers come as an array of 8, 16 or 32 bits: a list of Python integers
    would be taken for 64 bits, next to which speech is silence.

    Raises:
        UserError: several channels, not numbers, integers of another size, non-finite values, or floats that
            hold unscaled integers.
    """
    try:
        array = np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists, tensors on a GPU or with gradients
        raise UserError(f"{source}: not an array of samples: {error}") from None
    if array.ndim != 1:
        raise UserError(f"{source}: expected one channel of samples, got an array of shape {array.shape}")
    if array.dtype.kind in "iu" and (array.itemsize > 4 or not hasattr(samples, "dtype")):
        raise UserError(
            f"{source}: integers of unknown range ({array.dtype}); pass an array of int8, int16 or int32, "
            "or floats in [-1, 1]"
        )
    if array.dtype.kind == "i":
        array = array / -float(np.iinfo(array.dtype).min)
    elif array.dtype.kind == "u":
        middle = (float(np.iinfo(array.dtype).max) + 1) / 2
        array = array / middle - 1.0
    elif array.dtype.kind != "f":
        raise UserError(f"{source}: samples are of type {array.dtype}, not numbers")
    array = array.astype(np.float32, copy=False)
    fault = fault_in_samples(array)
    if fault is not None:
        raise AudioError(source, fault)
    return array
