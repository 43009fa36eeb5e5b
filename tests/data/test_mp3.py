"""An mp3 file with a damaged or missing frame is not heard without it."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdasr.data.audio_reading import AudioError, read_audio, read_header
from kdasr.data.mp3 import fault_in_mp3
from kdasr.recognition.audio import load_audio
from kdasr.testing import tone

RATE = 16000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mp3") / "some.mp3"
    soundfile.write(path, tone(2.0, seed=1), RATE, bitrate_mode="CONSTANT", compression_level=0.5)
    return path


@pytest.fixture
def whole(path: Path) -> bytes:
    return path.read_bytes()


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_what_lame_writes_is_whole(rate: int, channels: int, mode: str, tmp_path: Path) -> None:
    """Checksums are LAME's own, of all versions of MPEG and both forms of the header."""
    path = tmp_path / "some.mp3"
    samples = np.stack([tone(0.5, sample_rate=rate)] * channels, axis=1)
    soundfile.write(path, samples, rate, bitrate_mode=mode, compression_level=0.5)
    content = path.read_bytes()
    assert fault_in_mp3(content) is None and len(read_audio(path)[0]) == len(samples)
    assert fault_in_mp3(content[:-1]) == "ends early"
    content = content[:-20] + bytes([content[-20] ^ 1]) + content[-19:]
    assert fault_in_mp3(content) == "damaged: its frames have another checksum"


def test_tags_around_the_frames_are_none_of_them(whole: bytes) -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x02" + bytes([0xFF, 0xFB]) * 65
    for content in (
        tag + whole,
        whole + b"TAG" + bytes(125),
        tag + bytes(7) + whole + b"APETAGEX" + bytes(40),
    ):
        assert fault_in_mp3(content) is None
    assert fault_in_mp3(whole + bytes(500)) is None


def test_frames_that_are_missing_or_too_many_are_counted(whole: bytes) -> None:
    """Without its digest a file still says how many frames it has."""
    size = 360  # 576 samples at 16 kHz and 80 kbit/s
    frames = [whole[place : place + size] for place in range(0, len(whole), size)]
    assert all(frame[:2] == whole[:2] for frame in frames) and len(frames) > 50
    assert fault_in_mp3(b"".join(frames[:-1])) == "ends early"
    assert "its header says" in str(fault_in_mp3(b"".join([*frames, frames[-1]])))
    assert "what follows a frame" in str(fault_in_mp3(b"".join([*frames[:9], b"junk", *frames[9:]])))
    without_header = b"".join(frames[1:])
    assert fault_in_mp3(without_header) is None and fault_in_mp3(without_header[:-1]) == "ends early"


def test_a_header_that_is_damaged_is_noticed(whole: bytes) -> None:
    """A decoder would take the frame for sound, and begin too early."""
    place = whole.index(b"Info")
    for at in (place, place + 5, place + 20, place + 125):
        content = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        assert "its first frame" in str(fault_in_mp3(content)) or "ends early" in str(fault_in_mp3(content))


def test_readers_refuse_or_name_it(whole: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[:-500])
    with pytest.raises(AudioError, match=r"cut\.mp3: ends early"):
        read_header(path)
    samples, _ = load_audio(path)
    assert 0 < len(samples) < 2 * RATE and "cut.mp3: ends early" in caplog.text
