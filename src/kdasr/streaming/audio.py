"""Audio files and sample arrays, checked and brought to mono float32 in [-1, 1]."""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kdasr.common.errors import UserError

Samples = NDArray[np.float32]

_LOUDEST = 16.0
"""Float samples beyond this are integers that nobody scaled; a hot recording stays well below."""


def load_audio(path: Path) -> tuple[Samples, int]:
    """Read a sound file of any format that libsndfile knows; channels are averaged.

    Returns:
        Mono samples (possibly none) and the sample rate in Hz.

    Raises:
        UserError: missing, not audio, truncated beyond reading, or with non-finite samples.
    """
    import soundfile

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such audio file")
    try:
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not readable as audio: {error}") from None
    return check_samples(samples.mean(axis=1, dtype=np.float32), source=str(path)), int(sample_rate)


def check_samples(samples: ArrayLike, source: str = "samples") -> Samples:
    """Samples of one channel as float32 in [-1, 1]; integer types are scaled by their own range.

    Raises:
        UserError: several channels, not numbers, non-finite values, or floats that hold unscaled integers.
    """
    array = np.asarray(samples)
    if array.ndim != 1:
        raise UserError(f"{source}: expected one channel of samples, got an array of shape {array.shape}")
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
