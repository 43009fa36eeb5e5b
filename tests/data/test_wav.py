"""A wav file whose header tells of more or of other samples than it holds is not taken for whole."""

import struct
from pathlib import Path

import pytest
import soundfile

from kdasr.data.audio_reading import AudioError, read_audio, read_header
from kdasr.testing import tone

LIST = b"LIST" + struct.pack("<I", 8) + b"INFOISFT"


def wav(samples: bytes, *, told: int | None = None, padding: bytes = b"", after: bytes = b"") -> bytes:
    """A wav of 8 bits and one channel; `told` is the size of its samples by the header."""
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 16000, 1, 8)
    data = b"data" + struct.pack("<I", len(samples) if told is None else told) + samples + padding + after
    return b"RIFF" + struct.pack("<I", 4 + len(form) + len(data)) + b"WAVE" + form + data


SAMPLES = bytes(100 + index % 50 for index in range(501))


@pytest.mark.parametrize(
    "content",
    [
        wav(SAMPLES[:500]),
        wav(SAMPLES, padding=b"\0"),
        wav(SAMPLES, padding=b"\0", after=LIST),
        wav(SAMPLES, after=LIST),  # some programs forget the padding
        wav(SAMPLES[:500], after=bytes(300)),
        wav(SAMPLES[:500]) + b"ID3\x04" + struct.pack("<I", 4) + b"text",
        wav(SAMPLES, told=0xFFFFFFFF),  # from a pipe
    ],
)
def test_whole_files_are_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "some.wav"
    path.write_bytes(content)
    assert abs(read_header(path).num_samples - 500) <= 1 >= abs(len(read_audio(path)[0]) - 500)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (wav(SAMPLES)[:-9], "ends early"),
        (wav(SAMPLES[:500], told=600), "ends early"),
        (wav(SAMPLES[:500], told=250), "holds more than the samples that its header tells of"),
        (wav(SAMPLES[:500]) * 2, "another wav follows"),
        (wav(SAMPLES[:500]) + b"\xff\xfe\xfd\xfc more", "holds more"),
    ],
)
def test_what_is_missing_or_too_much_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "some.wav"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=rf"some\.wav: .*{fault}"):
        read_header(path)


def test_what_libsndfile_writes_is_whole(tmp_path: Path) -> None:
    for subtype in ("PCM_16", "PCM_24", "FLOAT", "ULAW", "IMA_ADPCM", "GSM610"):
        for kind in ("WAV", "WAVEX"):
            path = tmp_path / f"{subtype}-{kind}.wav"
            if soundfile.check_format(kind, subtype):
                soundfile.write(path, tone(0.1), 16000, subtype=subtype, format=kind)
                header = read_header(path)
                assert len(read_audio(path)[0]) == header.num_samples >= 1600
                assert header.is_plain == (subtype != "GSM610")  # no reader can begin within such a file
