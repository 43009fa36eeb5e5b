"""What `kdasr prepare` says of a corpus before it computes anything."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdasr.common.errors import UserError
from kdasr.data.corpus_check import find_alignments, find_corpus, list_part
from kdasr.testing import tone, write_corpus

PART = "dev-clean"
CHAPTER = Path(PART) / "100" / "1"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """One part, one chapter of three utterances: 100-1-0000 to 100-1-0002."""
    return write_corpus(tmp_path / "LibriSpeech", parts=(PART,), speakers=1)


def test_lists_every_utterance_sorted(corpus: Path) -> None:
    listing = list_part(corpus, corpus, PART)
    assert [item.id for item in listing.utterances] == [f"100-1-{index:04d}" for index in range(3)]
    assert {(item.sample_rate, item.channels) for item in listing.utterances} == {(16000, 1)}
    assert listing.missing_audio == listing.missing_text == []


def test_a_missing_part_names_those_that_are_there(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"no part 'test-clean'.*folders there: dev-clean"):
        find_corpus(corpus, [PART, "test-clean"])
    with pytest.raises(UserError, match="no such corpus folder"):
        find_corpus(corpus / "nowhere", [PART])


def test_the_parent_of_librispeech_will_do(corpus: Path) -> None:
    assert find_corpus(corpus.parent, [PART]) == corpus


def test_alignments_must_be_of_these_parts(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "alignments" / "LibriSpeech" / PART).mkdir(parents=True)
    assert find_alignments(None, corpus, [PART]) == corpus
    assert find_alignments(tmp_path / "alignments", corpus, [PART]).name == "LibriSpeech"
    with pytest.raises(UserError, match="none of the parts"):
        find_alignments(tmp_path / "alignments", corpus, ["test-other"])
    with pytest.raises(UserError, match="no such alignments folder"):
        find_alignments(tmp_path / "nowhere", corpus, [PART])


def test_no_transcripts(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1.trans.txt").unlink()
    with pytest.raises(UserError, match=r"dev-clean: no transcripts"):
        list_part(corpus, corpus, PART)


def test_no_audio_at_all(corpus: Path) -> None:
    for file in (corpus / CHAPTER).glob("*.flac"):
        file.unlink()
    with pytest.raises(UserError, match="none of its 3 transcripts has audio"):
        list_part(corpus, corpus, PART)


def test_gaps_are_reported_by_id(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    (corpus / CHAPTER / "100-1-0001.flac").rename(corpus / CHAPTER / "100-1-0009.flac")
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        listing = list_part(corpus, corpus, PART)
    assert listing.missing_audio == ["100-1-0001"]
    assert listing.missing_text == ["100-1-0009"]
    assert "1 transcript(s) without audio, left out: 100-1-0001" in caplog.text
    assert "1 audio file(s) without transcript, left out: 100-1-0009" in caplog.text


@pytest.mark.parametrize("keep", [0, 50, 0.5, -1])
def test_a_truncated_flac_is_named(corpus: Path, keep: float) -> None:
    file = corpus / CHAPTER / "100-1-0001.flac"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    with pytest.raises(UserError, match=r"1 audio file.*100-1-0001\.flac") as error:
        list_part(corpus, corpus, PART)
    assert "0000" not in str(error.value)


def test_a_truncated_or_empty_wav_is_named(corpus: Path) -> None:
    for name in ("100-1-0001", "100-1-0002"):
        (corpus / CHAPTER / f"{name}.flac").unlink()
    cut_off, empty = (corpus / CHAPTER / f"100-1-000{index}.wav" for index in (1, 2))
    soundfile.write(cut_off, tone(1.0), 16000)
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    soundfile.write(empty, np.zeros(0), 16000)
    with pytest.raises(UserError, match=r"2 audio file.*0001\.wav \(ends early\).*0002\.wav \(no samples\)"):
        list_part(corpus, corpus, PART)


def test_a_line_without_words_is_named(corpus: Path) -> None:
    file = corpus / CHAPTER / "100-1.trans.txt"
    file.write_text(file.read_text() + "100-1-0003\n")
    with pytest.raises(UserError, match=r"100-1\.trans\.txt, line 4: expected '<id> <TRANSCRIPT>'"):
        list_part(corpus, corpus, PART)


def test_a_repeated_id_is_named(corpus: Path) -> None:
    file = corpus / CHAPTER / "100-1.trans.txt"
    file.write_text(file.read_text() + "100-1-0000 AGAIN\n")
    with pytest.raises(UserError, match="'100-1-0000' is also in"):
        list_part(corpus, corpus, PART)


def test_text_that_is_not_unicode_is_named(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1.trans.txt").write_bytes(b"100-1-0000 \xff\xfe\n")
    with pytest.raises(UserError, match=r"100-1\.trans\.txt: not UTF-8"):
        list_part(corpus, corpus, PART)


def test_the_fingerprint_follows_texts_audio_and_alignments(corpus: Path) -> None:
    seen = [list_part(corpus, corpus, PART).fingerprint]
    assert list_part(corpus, corpus, PART, jobs=2).fingerprint == seen[0]
    transcript = corpus / CHAPTER / "100-1.trans.txt"
    transcript.write_text(transcript.read_text().replace("ONE", "TWO").replace("TEN", "SIX"))
    seen.append(list_part(corpus, corpus, PART).fingerprint)
    soundfile.write(corpus / CHAPTER / "100-1-0000.flac", tone(1.3), 16000)
    seen.append(list_part(corpus, corpus, PART).fingerprint)
    (corpus / CHAPTER / "100-1.alignment.txt").write_text('100-1-0000 ",A," "0.1,0.2,0.3"\n')
    seen.append(list_part(corpus, corpus, PART).fingerprint)
    assert len(set(seen)) == 4
