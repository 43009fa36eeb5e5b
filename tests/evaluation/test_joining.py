"""Utterances joined into streams, and recordings that are read as they are heard."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from streaming_helpers import bursts

from kdasr.common.errors import UserError
from kdasr.data.audio_reading import AudioError
from kdasr.data.tokenizer import Tokenizer
from kdasr.evaluation.evaluate import load_recording
from kdasr.evaluation.joining import Pause, check_minutes, in_order, join, parse_gaps, pauses, plan_streams
from kdasr.evaluation.latency import energy_onset
from kdasr.recognition.audio import AudioFile, check_audio, load_audio
from kdasr.recognition.sources import FileSource, JoinedSource, Piece

WAVES = [bursts(seconds, seed) for seed, seconds in enumerate((0.7, 0.31, 1.2))]


def pieces(waves: list[np.ndarray] = WAVES) -> list[Piece]:
    return [Piece(len(wave), lambda wave=wave: wave) for wave in waves]  # type: ignore[misc]


@pytest.mark.parametrize("pause", [Pause(), Pause(0.25, "quiet"), Pause(0.25, "silence")])
def test_the_joined_audio_is_the_single_ones_at_their_starts(pause: Pause) -> None:
    joined = join(pieces(), pause, [1, 0])
    whole = joined.source[:]
    assert len(whole) == len(joined.source) == sum(map(len, WAVES)) + 2 * pause.num_samples
    rest = np.ones(len(whole), dtype=bool)
    for start, wave in zip(joined.starts, WAVES, strict=True):
        np.testing.assert_array_equal(whole[start : start + len(wave)], wave)
        rest[start : start + len(wave)] = False
    level = {"none": 0.0, "silence": 0.0, "quiet": 0.001}[pause.noise]
    assert rest.sum() == 2 * pause.num_samples
    if pause.num_samples:
        assert np.sqrt(np.square(whole[rest]).mean()) == pytest.approx(level, rel=0.05)


def test_noise_follows_the_seed_and_no_two_pauses_are_alike() -> None:
    pause = Pause(0.1, "quiet")
    first, again, other = (join(pieces(), pause, seed).source[:] for seed in ([1, 0], [1, 0], [1, 1]))
    np.testing.assert_array_equal(first, again)
    starts = [len(WAVES[0]), len(WAVES[0]) + 1600 + len(WAVES[1])]
    gaps = [stream[start : start + 1600] for stream in (first, other) for start in starts]
    assert len({gap.tobytes() for gap in gaps}) == 4


def test_a_joined_stream_is_the_same_in_packets_of_any_size() -> None:
    source = join(pieces(), Pause(0.05, "quiet"), [3]).source
    whole = source[:]
    for packet in (160, 777, 16000, len(whole)):
        packets = [source[start : start + packet] for start in range(0, len(whole), packet)]
        np.testing.assert_array_equal(np.concatenate(packets), whole)
    assert source[len(whole) : len(whole) + 5].shape == (0,)
    np.testing.assert_array_equal(source[100:90], np.zeros(0))


def test_one_piece_is_in_memory_at_a_time() -> None:
    opened: list[int] = []
    source = JoinedSource(
        [Piece(10, lambda i=i: opened.append(i) or np.zeros(10, np.float32)) for i in range(4)]
    )  # type: ignore[misc,func-returns-value]
    for start in range(0, 40, 3):
        source[start : start + 3]
    assert opened == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="piece 0: 9 samples, expected 10"):
        JoinedSource([Piece(10, lambda: np.zeros(9, np.float32))])[:]


def test_streams_hold_all_utterances_in_order() -> None:
    random = np.random.default_rng(0)
    lengths = [int(length) for length in random.integers(16_000, 200_000, 50)] + [2_000_000, 16_000]
    for pause in (Pause(), Pause(3.0, "quiet")):
        streams = plan_streams(lengths, pause, minutes=1.0)
        assert [member for stream in streams for member in stream] == list(range(len(lengths)))
        totals = [sum(lengths[m] for m in s) + (len(s) - 1) * pause.num_samples for s in streams]
        assert [50] in streams
        for number, (stream, total) in enumerate(zip(streams, totals, strict=True)):
            assert total <= 960_000 or stream == [50]
            if number + 1 < len(streams):
                assert total + pause.num_samples + lengths[streams[number + 1][0]] > 960_000
    assert plan_streams([], Pause(), 1.0) == []


def cut(id: str, recording: str = "", start: float = 0.0, speaker: str | None = None, **custom: Any) -> Any:
    said = [SimpleNamespace(speaker=speaker)] if speaker else []
    return SimpleNamespace(
        id=id, recording_id=recording or id, start=start, supervisions=said, custom=custom or None
    )


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        (
            [cut("7-2-0010"), cut("5-1-0000"), cut("7-2-0009"), cut("7-1-0000"), cut("5-1-0001")],
            [2, 0, 1, 4, 3],
        ),
        ([cut("x", "tape", 9.0), cut("7-2-0000"), cut("y", "tape", 1.5)], [2, 0, 1]),
        ([cut("a", speaker="s"), cut("b", speaker="t"), cut("c", speaker="s"), cut("d")], [0, 2, 1, 3]),
        (
            [
                cut("7-2-0001", chapter="x", position=2),
                cut("7-2-0000"),
                cut("y", "t", 1.0, chapter="x"),
                cut("z", "t", 0.5, chapter="x", position=1),
            ],
            [2, 3, 0, 1],
        ),
    ],
    ids=["chapters", "recordings", "speakers", "told"],
)
def test_utterances_are_joined_as_they_were_spoken(cuts: list[Any], expected: list[int]) -> None:
    assert [cuts.index(found) for found in in_order(cuts)] == expected


@pytest.mark.parametrize("position", ["00:10", [1], float("nan")])
def test_a_position_that_is_no_number_is_refused(position: Any) -> None:
    with pytest.raises(UserError, match=r"cut 'a': its custom field 'position' is .*: expected a number"):
        in_order([cut("a", chapter="x", position=position)])


def test_gaps_are_numbers_of_seconds_in_a_reasonable_range() -> None:
    assert parse_gaps("3, 0,0.3 3") == [0.0, 0.3, 3.0]
    assert [str(pause) for pause in pauses([0.0, 1.0])] == ["no pause", "1 s of quiet", "1 s of silence"]
    for text, culprit in (
        ("0,one", "'one' is not a number"),
        ("0.3,-1", "-1: expected 0 to 60"),
        ("61", "61: expected 0 to 60"),
        ("nan", "nan: expected 0 to 60"),
        ("inf", "inf: expected 0 to 60"),
        (" , ", "name at least one"),
    ):
        with pytest.raises(UserError, match=culprit):
            parse_gaps(text)
    for minutes in (0.0, -1.0, float("nan"), 1441.0):
        with pytest.raises(UserError, match="minutes: expected more than 0"):
            check_minutes(minutes)
    for pause in ((-1.0, "quiet"), (0.0, "quiet"), (1.0, "none"), (1.0, "loud")):
        with pytest.raises(UserError, match="gap"):
            Pause(*pause)


def test_a_cut_file_is_named_once_when_it_is_checked_and_then_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, bursts(1.5, 1, 16000), 16000)
    path.write_bytes(path.read_bytes()[:20000])
    seconds = check_audio(path)
    samples, rate = load_audio(path)
    assert len(samples) / rate == seconds < 1.5
    assert caplog.text.count("cut.wav: ends early") == 1


@pytest.mark.parametrize("kind", ["flac", "wav"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_a_file_in_blocks_is_the_whole_file(tmp_path: Path, kind: str, rate: int) -> None:
    path = tmp_path / f"speech.{kind}"
    soundfile.write(path, np.stack([bursts(1.5, 1, rate), bursts(1.5, 2, rate)], axis=1), rate)
    whole, found = load_audio(path)
    assert (found, check_audio(path)) == (rate, 1.5)
    for count in (777, 10**6):
        with AudioFile(path) as file:
            blocks = list(file.blocks(count))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)
        assert all(len(block) == count for block in blocks[:-1])


def test_a_stretch_of_a_file_is_read_when_asked(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "long.flac", bursts(3.0), 16000)
    whole, _ = load_audio(tmp_path / "long.flac")
    source = FileSource(tmp_path / "long.flac", 8000, 30_000)
    for _ in range(2):  # again from the start, after the end
        packets = [source[start : start + 1600] for start in range(0, 30_000, 1600)]
        np.testing.assert_array_equal(np.concatenate(packets), whole[8000:38_000])
    np.testing.assert_array_equal(source[5000:5100], whole[13_000:13_100])
    np.testing.assert_array_equal(source[:], whole[8000:38_000])
    with pytest.raises(AudioError, match=r"long\.flac: ends after sample 48000"):
        FileSource(tmp_path / "long.flac", 8000, 50_000)[:]
    soundfile.write(tmp_path / "other.wav", bursts(1.0, rate=8000), 8000)
    with pytest.raises(UserError, match=r"other\.wav: at 8000 Hz, expected 16000"):
        FileSource(tmp_path / "other.wav", 0, 100)[:]


def test_a_long_cut_is_the_same_whether_it_is_read_at_once_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    from lhotse import Recording

    soundfile.write(tmp_path / "long.wav", bursts(4.0, seed=3), 16000)
    cut = Recording.from_file(tmp_path / "long.wav").to_cut().truncate(offset=0.5, duration=3.0)
    short = load_recording(cut, tokenizer)
    assert isinstance(short.samples_N, np.ndarray)
    monkeypatch.setattr("kdasr.evaluation.evaluate._LONG_SECONDS", 2.0)
    long = load_recording(cut, tokenizer)
    assert isinstance(long.samples_N, FileSource) and long.duration == short.duration == 3.0
    np.testing.assert_array_equal(long.samples_N[:], short.samples_N)
    monkeypatch.setattr("kdasr.evaluation.latency._BLOCK", 1600)
    assert energy_onset(long.samples_N) == energy_onset(short.samples_N) is not None
    soundfile.write(tmp_path / "long.wav", bursts(4.0, seed=3)[:55_700], 16000)
    assert len(load_recording(cut, tokenizer).samples_N) == 47_700  # manifests round, by up to 25 ms
    soundfile.write(tmp_path / "long.wav", bursts(4.0, seed=3)[:55_500], 16000)
    with pytest.raises(AudioError, match=r"long\.wav: ends after sample 55500: cut short"):
        load_recording(cut, tokenizer)
    (tmp_path / "long.wav").unlink()
    with pytest.raises(UserError, match=r"long\.wav: audio of .* not found"):
        load_recording(cut, tokenizer)
