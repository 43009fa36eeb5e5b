"""What kdasr makes of an audio file, and what another reading says of it."""

# Shapes: N samples, C channels.

import hashlib
import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile

from kdasr.data.audio_reading import read_audio, read_header


def sound(path: Path) -> tuple[int, bytes]:
    """As `kdasr prepare` reads it: header and last sample first, then all of it."""
    read_header(path)
    samples_NC, rate = read_audio(path)
    return rate, samples_NC.tobytes()


def wav_says(content: bytes, value: Any) -> bool:
    """Samples are 16-bit numbers after the header, as many as it says; another header is read by scipy."""
    rate, found = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what scipy warns of is not whole
            told, samples = scipy.io.wavfile.read(io.BytesIO(content))
    except Exception:
        # No PCM of 16 bits by its header: another codec's samples. Else there is nothing that may be read.
        return len(content) > 36 and struct.unpack("<HHIIHH", content[20:36])[::5] != (1, 16)
    if samples.dtype != np.int16:
        return True
    return (told, (samples / np.float32(32768)).tobytes()) == (rate, found)


def flac_says(content: bytes, value: Any) -> bool:
    """STREAMINFO has the MD5 of the samples: those of 16 bits and one channel must have it."""
    rate, found = value
    if content[:4] != b"fLaC" or len(content) < 42:
        return False
    packed = int.from_bytes(content[18:26], "big")
    told_rate, bits = packed >> 44, ((packed >> 36) & 31) + 1
    if bits != 16 or (packed >> 41) & 7:
        return True
    samples = (np.frombuffer(found, dtype=np.float32) * 32768).astype("<i2")
    return told_rate == rate and hashlib.md5(samples.tobytes()).digest() == content[26:42]
