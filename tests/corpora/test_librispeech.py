"""What `kdasr prepare` says of a corpus before it computes anything."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from kdasr.common.errors import UserError
from kdasr.corpora.librispeech import find_alignments, find_corpus, list_part
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
    assert {item.header[:2] for item in listing.utterances} == {(16000, 1)}
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


def test_speakers_behind_links_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_corpus(tmp_path / "big", parts=(PART,), speakers=2)
    corpus = tmp_path / "LibriSpeech"
    (corpus / PART).mkdir(parents=True)
    (tmp_path / "big" / PART / "100").rename(corpus / PART / "100")
    (corpus / PART / "101").symlink_to(tmp_path / "big" / PART / "101")
    (corpus / PART / "101" / "again").symlink_to(corpus / PART)
    (corpus / PART / "102").symlink_to(tmp_path / "gone")
    with caplog.at_level(logging.INFO, logger="kdasr"):
        listing = list_part(corpus, corpus, PART)
    expected = [f"{speaker}-1-{index:04d}" for speaker in (100, 101) for index in range(3)]
    assert [item.id for item in listing.utterances] == expected
    assert listing.utterances[-1].audio == corpus / PART / "101" / "1" / "101-1-0002.flac"
    assert f"6 audio files, 2 transcript files; through links: {corpus / PART / '101'}" in caplog.text
    assert f"1 link(s) lead nowhere: {corpus / PART / '102'}" in caplog.text
    assert f"1 link(s) to folders that count already: {corpus / PART / '101' / 'again'}" in caplog.text


def copy_audio(corpus: Path, folder: str, *names: str) -> list[Path]:
    """Other recordings in another folder of the part, as wav."""
    (corpus / PART / folder).mkdir(parents=True)
    copies = [corpus / PART / folder / f"{name}.wav" for name in names]
    for copy in copies:
        soundfile.write(copy, tone(3.0, seed=99), 16000)
    return copies


def test_the_transcripts_own_folder_has_its_audio(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    copies = copy_audio(corpus, "0-degraded", "100-1-0000", "100-1-0001")
    copies += copy_audio(corpus, "100/1/noisy", "100-1-0000")
    copy_audio(corpus, ".Trash", "100-1-0002", "100-1-0003")
    with caplog.at_level(logging.INFO, logger="kdasr"):
        listing = list_part(corpus, corpus, PART)
    assert {item.audio.parent for item in listing.utterances} == {corpus / CHAPTER}
    assert sorted(listing.unused) == sorted(copies)
    assert listing.missing_text == listing.missing_audio == []
    assert (
        f"3 more audio file(s) with the id of an utterance that has its own, not used: {copies[0]}"
        in caplog.text
    )
    assert f"1 hidden, left out: {corpus / PART / '.Trash'}" in caplog.text


def test_audio_in_another_folder_is_nobody_elses(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    (corpus / CHAPTER / "100-1.trans.txt").write_text("0001 ONE\n100-1-0000 TWO\n")
    (foreign,) = copy_audio(corpus, "200/1", "0001")
    listing = list_part(corpus, corpus, PART)
    assert [item.id for item in listing.utterances] == ["100-1-0000"]
    assert listing.missing_audio == ["0001"] and listing.elsewhere == [foreign]
    assert f"but in another folder than it, not used: {foreign}" in caplog.text
    (corpus / CHAPTER / "100-1.trans.txt").write_text("0001 ONE\n")
    with pytest.raises(UserError, match=rf"none of its 1 transcripts has audio .*not theirs: {foreign}"):
        list_part(corpus, corpus, PART)


def test_audio_below_the_transcript_is_found(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1.trans.txt").rename(corpus / PART / "all.trans.txt")
    assert {item.audio.parent for item in list_part(corpus, corpus, PART).utterances} == {corpus / CHAPTER}
    copy_audio(corpus, "0-degraded", "100-1-0000")
    assert {item.audio.parent for item in list_part(corpus, corpus, PART).utterances} == {corpus / CHAPTER}
    (corpus / PART / "all.trans.txt").write_text("one ONE\ntwo TWO\n")
    (one, _), (two,) = copy_audio(corpus, "near", "one", "two"), copy_audio(corpus, "far", "two")
    listing = list_part(corpus, corpus, PART)
    assert [item.audio for item in listing.utterances] == [one]
    assert listing.missing_audio == ["two"] and two in listing.elsewhere


def test_an_id_of_one_part_names_no_speaker(corpus: Path) -> None:
    """Else each utterance would be a speaker of its own, and counted as one where speakers are drawn."""
    soundfile.write(corpus / CHAPTER / "0001.flac", tone(1.0), 16000)
    (corpus / CHAPTER / "other.trans.txt").write_text("0001 ONE\n")
    found = {item.id: item.speaker for item in list_part(corpus, corpus, PART).utterances}
    assert found == {"0001": None, **{f"100-1-000{number}": "100" for number in range(3)}}


def test_a_flac_goes_before_a_wav_which_is_named(corpus: Path, caplog: pytest.LogCaptureFixture) -> None:
    wav = corpus / CHAPTER / "100-1-0000.wav"
    soundfile.write(wav, tone(3.0), 16000)
    listing = list_part(corpus, corpus, PART)
    assert {item.audio.suffix for item in listing.utterances} == {".flac"}
    assert f"not used: {wav}" in caplog.text


@pytest.mark.parametrize("keep", [0, 50, 0.5, -1])
def test_a_truncated_flac_is_named(corpus: Path, keep: float) -> None:
    file = corpus / CHAPTER / "100-1-0001.flac"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else int(keep)])
    listing = list_part(corpus, corpus, PART)
    assert [(item.id, item.audio) for item in listing.bad] == [("100-1-0001", str(file))]
    assert [item.id for item in listing.utterances] == ["100-1-0000", "100-1-0002"]


def test_a_truncated_or_empty_wav_is_named(corpus: Path) -> None:
    for name in ("100-1-0001", "100-1-0002"):
        (corpus / CHAPTER / f"{name}.flac").unlink()
    cut_off, empty = (corpus / CHAPTER / f"100-1-000{index}.wav" for index in (1, 2))
    soundfile.write(cut_off, tone(1.0), 16000)
    cut_off.write_bytes(cut_off.read_bytes()[:-100])
    soundfile.write(empty, np.zeros(0), 16000)
    found = [(item.id, item.reason) for item in list_part(corpus, corpus, PART).bad]
    assert found == [("100-1-0001", "ends early"), ("100-1-0002", "no samples")]


@pytest.mark.parametrize("keep", [False, True])
def test_empty_transcripts_are_left_out_or_kept_and_named(
    corpus: Path, keep: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = corpus / CHAPTER / "100-1.trans.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "", "100-1-0001", "  ", lines[2], ""]))
    (corpus / CHAPTER / "._100-1.trans.txt").write_bytes(b"\0\5\x16\7\0\xff")  # what macOS leaves
    (corpus / CHAPTER / "._100-1-0000.flac").write_bytes(b"\0\5\x16\7\0\xff")
    with caplog.at_level(logging.WARNING, logger="kdasr"):
        listing = list_part(corpus, corpus, PART, keep_empty=keep)
    assert listing.empty == ["100-1-0001"]
    texts = {item.id: item.text for item in listing.utterances}
    assert texts.get("100-1-0001") == ("" if keep else None) and len(texts) == 2 + keep
    assert f"1 empty transcript(s), {'kept' if keep else 'left out'}: 100-1-0001" in caplog.text


def test_a_part_of_empty_transcripts_is_named(corpus: Path) -> None:
    (corpus / CHAPTER / "100-1.trans.txt").write_text("100-1-0000\n100-1-0001\n")
    with pytest.raises(UserError, match=r"dev-clean: all transcripts that have audio are empty: 100-1-0000"):
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
    (corpus / CHAPTER / "100-1.alignment.txt").write_text('100-1-0000 ",A," "0.1,0.2,0.3"\n')
    seen.append(list_part(corpus, corpus, PART).fingerprint)
    (corpus / CHAPTER / "100-1-0000.flac").unlink()
    for number, wave in enumerate((tone(1.3), tone(1.3, seed=1), tone(1.3, seed=1), tone(1.4))):
        file = corpus / CHAPTER / "100-1-0000.wav"
        soundfile.write(file, wave, 16000)
        # Twice of one size: other samples at the same time, and another time for the same samples.
        os.utime(file, ns=(0, 10**18 * (1 + (number == 2))))
        seen.append(list_part(corpus, corpus, PART).fingerprint)
    assert len(set(seen)) == 7
