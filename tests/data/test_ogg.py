"""An ogg file with a damaged page is not heard without that page."""

from pathlib import Path

import pytest
import soundfile

from kdasr.data.audio_reading import AudioError, read_header
from kdasr.data.ogg import fault_in_ogg
from kdasr.testing import tone

SECONDS = 6.0


@pytest.fixture(scope="module", params=["VORBIS", "OPUS"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("ogg") / "some.ogg"
    soundfile.write(path, tone(SECONDS), 16000, format="OGG", subtype=request.param)
    return path.read_bytes()


def pages(content: bytes) -> list[bytes]:
    """The file, cut at the mark with which every page begins."""
    return [b"OggS" + page for page in content.split(b"OggS")[1:]]


def test_a_whole_file_has_no_fault(whole: bytes) -> None:
    assert fault_in_ogg(whole) is None and len(pages(whole)) > 4


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.99])
def test_every_flipped_bit_is_found(whole: bytes, share: float, tmp_path: Path) -> None:
    """Without the page of the last one, libsndfile has fewer samples, and says so nowhere."""
    content = bytearray(whole)
    content[int(share * len(content))] ^= 4
    path = tmp_path / "some.ogg"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="damaged"):
        read_header(path)


def test_what_is_missing_or_too_much_is_named(whole: bytes) -> None:
    *first, last = pages(whole)
    assert fault_in_ogg(b"".join([*first[:-1], last])) == "damaged: a page of the ogg stream is missing"
    assert fault_in_ogg(b"".join(first)) == fault_in_ogg(whole[:-1]) == "ends early"
    assert "several ogg streams" in str(fault_in_ogg(whole + whole))
    assert "what follows a page" in str(fault_in_ogg(whole + b"junk" * 9))
