"""Reading audio files whole, whatever their header says of their length, and checking what they hold."""

# Shapes: N samples, C channels.

import errno
import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.data.mp3 import fault_in_mp3, is_mp3
from kdasr.data.ogg import fault_in_ogg
from kdasr.data.wav import fault_in_wav

SAMPLE_RATE = 16000
"""In Hz: what features, models and labelers hear. Files have any."""
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000
"""Sample rates in Hz. A damaged header can name any; a filter for 2 GHz would not fit into memory."""
LOUDEST = 16.0
"""Float samples beyond this are integers that nobody scaled; a hot recording stays well below."""
NOT_READ = (".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm", ".ape", ".wv")
"""Audio that libsndfile does not decode."""
FORMATS = "flac, wav, ogg, opus, mp3, aiff, au, caf, w64 and sph"
_AT_THE_END = 39
"""libsndfile's code where a flac without a length ends as it should; within a frame it has another one."""
_BLOCK = 1 << 16
_NO_LENGTH = 1 << 60


class AudioHeader(NamedTuple):
    """What an audio file says of itself."""

    sample_rate: int
    channels: int
    num_samples: int
    """Of each channel."""
    is_plain: bool = True
    """A flac or wav that says its length, from any place of which others can read."""


class AudioError(UserError):
    """An audio file that cannot be used, and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[Path | str, str]]:
        """Worker processes raise it too."""
        return AudioError, (self.path, self.reason)


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open a file; a wav that says that it has no samples, and has some, has its true length.

    Raises:
        AudioError: missing, not a file, or not audio.
    """
    if not path.is_file():
        what = "a folder or a pipe, where a file is needed" if path.exists() else "no such audio file"
        raise AudioError(path, what)
    try:
        return _open(path)
    except (soundfile.SoundFileError, OSError, TypeError, ValueError) as error:
        raise AudioError(path, _reason(path, error)) from None


def read_block(file: soundfile.SoundFile, count: int, path: Path) -> NDArray[np.float32]:
    """The next `count` samples (N, C) of an open file, fewer or none at its end.

    Of a flac that does not know its length, libsndfile reads the last ones too, but reports an error then
    instead of their number.

    Raises:
        AudioError: the rest cannot be decoded.
    """
    try:
        if file.frames < _NO_LENGTH:
            return file.read(count, dtype="float32", always_2d=True)
        block_NC = np.full((count, file.channels), np.nan, dtype=np.float32)
        try:
            return block_NC[: len(file.read(out=block_NC))]
        except soundfile.LibsndfileError as error:
            if error.code != _AT_THE_END:
                raise
            return block_NC[: int((~np.isnan(block_NC[:, 0])).sum())]
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise AudioError(path, _reason(path, error)) from None


def read_audio(path: Path) -> tuple[NDArray[np.float32], int]:
    """All samples of a file, (N, C), and its sample rate in Hz. No samples are no fault.

    Raises:
        AudioError: missing, not audio, or ending early.
    """
    with open_audio(path) as file:
        blocks = [np.zeros((0, file.channels), dtype=np.float32)]
        while len(block_NC := read_block(file, _BLOCK, path)):
            blocks.append(block_NC)
        samples_NC = np.concatenate(blocks)
        if len(samples_NC) < file.frames < _NO_LENGTH:
            raise AudioError(path, "ends early")
        fault = fault_in_digest(path, samples_NC)
        if fault is not None:
            raise AudioError(path, fault)
        return samples_NC, file.samplerate


def read_header(path: Path) -> AudioHeader:
    """The header of a file that holds samples. The last one is decoded: a truncated file has none.

    Raises:
        AudioError: as `read_audio`, or no samples.
    """
    try:
        fault = fault_in_file(path) if path.is_file() else None
        if fault is not None:
            raise AudioError(path, fault)
        with open_audio(path) as file:
            rate, channels, frames = file.samplerate, file.channels, file.frames
            if not LOWEST_RATE <= rate <= HIGHEST_RATE:
                raise AudioError(
                    path, f"sample rate {rate:,} Hz; expected {LOWEST_RATE:,} to {HIGHEST_RATE:,}"
                )
            # libsndfile cannot go to a place in some wav files, such as GSM's: they are read to their end.
            known = frames < _NO_LENGTH and file.seekable()
            if not known:
                frames = sum(iter(lambda: len(read_block(file, _BLOCK, path)), 0))
            if frames == 0:
                raise AudioError(path, "no samples")
            if known:
                try:
                    file.seek(frames - 1)
                    complete = len(file.read(1)) == 1
                except soundfile.SoundFileError:
                    complete = False
                if not complete:
                    raise AudioError(path, "ends early")
            plain = known and file.format in ("FLAC", "WAV", "WAVEX") and isinstance(file.name, str)
            return AudioHeader(rate, channels, frames, plain)
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise AudioError(path, _reason(path, error)) from None


def write_flac(path: Path, samples_N: NDArray[Any], rate: int) -> None:
    """Write 16-bit samples of one channel, and make sure that they are there.

    Raises:
        OSError: they are not; libsndfile does not say that the disk is full.
    """
    try:
        soundfile.write(path, samples_N, rate, subtype="PCM_16", format="FLAC")
        complete = read_header(path).num_samples == len(samples_N) if len(samples_N) else True
    except (soundfile.SoundFileError, AssertionError, AudioError) as error:
        raise OSError(errno.ENOSPC, "cannot be written as a whole: is the disk full?", str(path)) from error
    if not complete:
        raise OSError(errno.ENOSPC, "cannot be written as a whole: is the disk full?", str(path))


def fault_in_samples(samples: NDArray[np.floating]) -> str | None:
    """Why float samples cannot be audio; None when they can be."""
    if not samples.size:
        return None
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        return "holds samples that are not finite (nan or infinity)"
    if peak > LOUDEST:
        return f"a sample of size {peak:g}; scale float samples to [-1, 1]"
    return None


def fault_in_digest(path: Path, samples_NC: NDArray[np.floating]) -> str | None:
    """Why samples (N, C) are not those whose MD5 digest a flac begins with; None if they are.

    libsndfile does not look at it. A damaged header may say that there are fewer samples, or others. Nothing
    is said of other formats, of other widths than 16 and 24 bits, and of a flac without a digest (zeros, from
    a stream).
    """
    with path.open("rb") as file:
        head = file.read(42)
    if len(head) < 42 or head[:4] != b"fLaC" or head[4] & 0x7F != 0:
        return None
    digest, bits = head[26:42], ((head[20] & 1) << 4 | head[21] >> 4) + 1
    if bits not in (16, 24) or not any(digest):
        return None
    integers = np.rint(samples_NC * np.float32(1 << (bits - 1))).astype("<i4")
    content = integers[..., np.newaxis].view(np.uint8)[..., : bits // 8].tobytes()
    if hashlib.md5(content, usedforsecurity=False).digest() == digest:
        return None
    return "its samples are not those that its MD5 digest is of: damaged"


def fault_in_file(path: Path) -> str | None:
    """What the container of a file (wav, ogg, mp3) says against it, and no decoder does; None if nothing.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(8)
        if head[:4] == b"RIFF":
            return fault_in_wav(file, path.stat().st_size)
        if head[:4] == b"OggS":
            return fault_in_ogg(head + file.read())
        return fault_in_mp3(head + file.read()) if is_mp3(head) else None


def _open(path: Path) -> soundfile.SoundFile:
    """The file; a wav that says that it has no samples and has some is opened with its true length."""
    file = soundfile.SoundFile(str(path))
    if file.frames or file.format not in ("WAV", "WAVEX"):
        return file
    content = path.read_bytes()
    place = content.find(b"data", 12)
    if place < 0 or content[place + 4 : place + 8] != b"\0\0\0\0" or len(content) == place + 8:
        return file
    size = len(content) - place - 8
    if int.from_bytes(content[4:8], "little") == place:  # an empty wav with another chunk behind
        return file
    file.close()
    riff = (len(content) - 8).to_bytes(4, "little")
    whole = content[:4] + riff + content[8 : place + 4] + size.to_bytes(4, "little") + content[place + 8 :]
    return soundfile.SoundFile(io.BytesIO(whole))


def _reason(path: Path, error: Exception) -> str:
    if path.suffix.lower() in NOT_READ:
        return f"{path.suffix} is not read here ({FORMATS} are): convert it"
    if isinstance(error, TypeError):  # it wants to be told the rate and the number of channels
        return "bare samples without a header: convert them to WAV first"
    text = str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error)
    return f"not readable as audio: {text.strip().rstrip('.')}"
