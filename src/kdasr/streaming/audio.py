"""Audio files and sample arrays, checked and brought to mono float32 in [-1, 1]."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.channels import mix_down

log = get_logger(__name__)

Samples = NDArray[np.float32]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz. A damaged header can name any; a filter for 2 GHz would not fit into memory."""
_LOUDEST = 16.0
"""Float samples beyond this are integers that nobody scaled; a hot recording stays well below."""


def load_audio(path: Path, *, warn: bool = True) -> tuple[Samples, int]:
    """Read a sound file of any format that libsndfile knows; channels are averaged.

    Of channels that cancel each other the loudest is taken alone, which is logged unless `warn` says no.

    Returns:
        Mono samples (possibly none) and the sample rate in Hz.

    Raises:
        UserError: missing, not audio, truncated beyond reading, at an impossible rate, or with non-finite
            samples.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such audio file")
    try:
        samples, header_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except TypeError:  # it wants to be told the rate and the number of channels
        raise UserError(f"{path}: bare samples without a header: convert them to WAV first") from None
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not readable as audio: {error}") from None
    rate = check_rate(header_rate, source=f"{path}: sample rate")
    mono, fault = mix_down(samples)
    if fault and warn:
        log.warning("%s: %s", path, fault)
    return check_samples(mono, source=str(path)), rate


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
    if array.size:
        peak = float(np.abs(array).max())
        if not np.isfinite(peak):
            raise UserError(f"{source}: holds samples that are not finite (nan or infinity)")
        if peak > _LOUDEST:
            raise UserError(f"{source}: a sample of size {peak:g}; scale float samples to [-1, 1]")
    return array
