"""Features, sample rates and files: what goes into a stream."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import kaldi_native_fbank as knf
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from numpy.typing import NDArray
from streaming_helpers import GEOMETRY, bursts

from kdasr.common.errors import UserError
from kdasr.data.features import compute_features
from kdasr.models.encoders.base import Geometry
from kdasr.recognition.audio import check_samples, load_audio
from kdasr.recognition.features import OnlineFeatures, compute_frames, samples_for_frame, whole_features
from kdasr.recognition.resample import StreamingResampler, resample


def kaldi_features(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What sherpa-onnx computes: kaldi-native-fbank with its settings."""
    options = knf.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400.0
    fbank = knf.OnlineFbank(options)
    fbank.accept_waveform(16000, samples.tolist())
    fbank.input_finished()
    return np.stack([fbank.get_frame(index) for index in range(fbank.num_frames_ready)])


NO_OVERLAP = Geometry(dim=1, stride=1, overlap=0, hidden=())
"""No silence is needed at the end of its input."""


@pytest.mark.parametrize("num_samples", [80, 100, 239, 240, 400, 1234, 16000, 48077])
@pytest.mark.parametrize("offset", [0.0, 0.02])
def test_features_equal_kaldis_to_the_edges(num_samples: int, offset: float) -> None:
    wave = bursts(4.0, seed=1)[:num_samples] + np.float32(offset)
    wave[500:900] = offset  # the floor of the logarithm is the same too
    expected_TF = kaldi_features(wave)
    np.testing.assert_allclose(whole_features(16000, wave, NO_OVERLAP), expected_TF, atol=2e-3, rtol=0)
    # Trained on, and here with silence after them, which frames that reach beyond the end see.
    inner = max(0, (num_samples - 280) // 160 + 1)
    trained_TF = compute_features(torch.from_numpy(wave)).numpy()
    padded_TF = whole_features(16000, wave, GEOMETRY)
    np.testing.assert_allclose(padded_TF[:inner], trained_TF[:inner], atol=2e-3, rtol=0)
    np.testing.assert_allclose(padded_TF[:inner], expected_TF[:inner], atol=2e-3, rtol=0)


@pytest.mark.parametrize("packet", [31, 777, 400_000])
def test_features_do_not_depend_on_packets_windows_and_other_streams(packet: int) -> None:
    waves = [
        bursts(seconds, seed=seed) for seed, seconds in enumerate([0.02, 1.0, 26.0 if packet > 777 else 0.5])
    ]
    expected = [whole_features(16000, wave, GEOMETRY) for wave in waves]
    streams = [OnlineFeatures(GEOMETRY) for _ in waves]
    found: list[list[NDArray[np.float32]]] = [[] for _ in waves]
    ends = [0] * len(waves)

    def advance() -> None:
        targets = [end + 32 for end in ends]
        compute_frames(streams, targets)
        for number, (stream, target) in enumerate(zip(streams, targets, strict=True)):
            begin, ends[number] = ends[number], min(target, stream.num_ready)
            found[number].append(stream.window(begin, ends[number]))
            stream.discard(ends[number] - 3)

    for start in range(0, max(map(len, waves)), packet):
        memory = np.zeros(packet, np.float32)  # which is used again
        for stream, wave in zip(streams, waves, strict=True):
            part = wave[start : start + packet]
            memory[: len(part)] = part
            stream.accept(16000, memory[: len(part)])
        memory[:] = 0.5
        advance()
    for stream in streams:
        stream.finish()
    while any(end < stream.num_ready for end, stream in zip(ends, streams, strict=True)):
        advance()
    for frames, whole_TF in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.concatenate(frames), whole_TF, atol=1e-5, rtol=0)


def test_a_long_stream_keeps_no_more_than_a_short_one() -> None:
    features = OnlineFeatures(GEOMETRY)
    features.accept(16000, np.tile(bursts(10.0), 6))
    held = []
    for end in range(100, features.num_ready, 100):
        compute_frames([features], [end])
        features.discard(end - 3)
        held.append(sum(packet.nbytes for packet in features._packets))
    assert len(features._known_TF) == 3 and features._known_TF.base is None
    assert held == sorted(held, reverse=True) and held[-1] < 4 * 10 * 16000


@pytest.mark.parametrize("num_frames", range(1, 10))
@pytest.mark.parametrize("tail_seconds", [0.0, 0.1])
@pytest.mark.parametrize(("stride", "overlap"), [(4, 3), (2, 5), (8, 0), (4, 13)])
def test_silence_at_the_end_is_just_enough(
    num_frames: int, tail_seconds: float, stride: int, overlap: int
) -> None:
    geometry = Geometry(dim=1, stride=stride, overlap=overlap, hidden=())
    features = OnlineFeatures(geometry, tail_seconds)
    features.accept(16000, bursts(1.0)[: 160 * num_frames])
    features.finish()
    frames = features.total_encoder_frames
    assert frames is not None and features.num_ready == stride * frames + overlap
    with_tail = num_frames + round(tail_seconds / 0.01)
    assert stride * (frames - 1) < with_tail <= stride * frames


def test_a_frame_is_known_with_its_last_sample_and_not_before() -> None:
    wave = bursts(1.0)
    for frame in (0, 7, 40):
        features = OnlineFeatures(GEOMETRY)
        features.accept(16000, wave[: samples_for_frame(frame) - 1])
        assert features.num_ready == frame
        features.accept(16000, wave[:1])
        assert features.num_ready == frame + 1


def test_discarding_forgets_frames_and_keeps_their_numbers() -> None:
    features = OnlineFeatures(GEOMETRY)
    features.accept(16000, bursts(1.0))
    kept = features.window(40, 60).copy()
    features.discard(40)
    np.testing.assert_array_equal(features.window(40, 60), kept)
    with pytest.raises(AssertionError):
        features.window(39, 60)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 16001])
def test_resampling_in_packets_equals_resampling_the_whole(rate: int) -> None:
    wave = bursts(0.5, seed=2, rate=rate)
    whole = resample(wave, rate, 16000)
    assert len(whole) == -(-len(wave) * 16000 // rate)
    for packet in (1, 100, 441, 3000):
        resampler = StreamingResampler(rate, 16000)
        packets = [resampler.push(wave[start : start + packet]) for start in range(0, len(wave), packet)]
        np.testing.assert_array_equal(np.concatenate([*packets, resampler.flush()]), whole)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_equals_torchaudio(rate: int) -> None:
    wave = bursts(0.5, seed=2, rate=rate)
    expected = torchaudio.functional.resample(torch.from_numpy(wave), rate, 16000).numpy()
    np.testing.assert_allclose(resample(wave, rate, 16000), expected, atol=1e-5)


def test_resampling_keeps_a_tone_and_little_else() -> None:
    for rate in (8000, 44100):
        tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
        expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
        np.testing.assert_allclose(resample(tone, rate, 16000)[200:-200], expected[200:-200], atol=5e-3)


def test_a_long_packet_is_resampled_in_little_memory() -> None:
    """A row of the filter for every output sample would be a hundred times the signal."""
    wave = bursts(10.0, rate=44100)
    resampler = StreamingResampler(44100, 16000)
    tracemalloc.start()
    try:
        resampler.push(wave)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * wave.nbytes


def test_resampling_is_done_as_soon_as_it_can_be() -> None:
    resampler = StreamingResampler(48000, 16000)
    produced = len(resampler.push(bursts(0.1, rate=48000)))
    assert 1600 - 10 < produced < 1600


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_files_at_any_rate_and_in_stereo(tmp_path: Path, rate: int) -> None:
    left, right = bursts(0.3, seed=1, rate=rate), bursts(0.3, seed=2, rate=rate)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), rate, subtype="FLOAT")
    samples, found_rate = load_audio(tmp_path / "stereo.wav")
    assert found_rate == rate
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-6)
    soundfile.write(tmp_path / "mono.flac", left, rate, subtype="PCM_16")
    np.testing.assert_allclose(load_audio(tmp_path / "mono.flac")[0], left, atol=1e-4)


def test_an_empty_file_has_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), 16000)
    samples, rate = load_audio(tmp_path / "empty.wav")
    assert samples.shape == (0,) and rate == 16000


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.wav: no such audio file"):
        load_audio(tmp_path / "gone.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(UserError, match=r"pipe\.wav: a folder or a pipe"):
        load_audio(tmp_path / "pipe.wav")
    (tmp_path / "text.wav").write_text("no sound here")
    with pytest.raises(UserError, match=r"text\.wav: not readable as audio"):
        load_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan, 0.1]), 16000, subtype="FLOAT")
    with pytest.raises(UserError, match=r"nan\.wav: .*not finite"):
        load_audio(tmp_path / "nan.wav")
    soundfile.write(tmp_path / "cut.flac", bursts(1.0), 16000)
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.flac: "):
        load_audio(tmp_path / "cut.flac")


def test_bare_samples_and_impossible_rates_are_named(tmp_path: Path) -> None:
    (tmp_path / "bare.raw").write_bytes(bytes(64))
    with pytest.raises(UserError, match=r"bare\.raw: bare samples without a header"):
        load_audio(tmp_path / "bare.raw")
    soundfile.write(tmp_path / "fast.wav", np.zeros(8), 2**31 - 1)
    with pytest.raises(UserError, match=r"fast\.wav: sample rate 2147483647: expected .* 1,000 to 768,000"):
        load_audio(tmp_path / "fast.wav")


@pytest.mark.parametrize("rate", [0, -1, 999, 768001, 16000.5, np.nan, np.inf, "16000", None, True])
def test_what_is_no_sample_rate_is_refused(rate: Any) -> None:
    with pytest.raises(UserError, match=r"sample rate .*: expected a whole number of Hz"):
        OnlineFeatures(GEOMETRY).accept(rate, bursts(0.1))


@pytest.mark.parametrize("rate", [16000.0, np.int32(16000), np.float32(16000)])
def test_a_rate_may_be_of_any_numeric_type(rate: Any) -> None:
    features = OnlineFeatures(GEOMETRY)
    features.accept(rate, bursts(0.1))
    features.accept(16000, bursts(0.1))
    assert features.num_samples == 3200


def test_a_rate_that_failed_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> None:
        raise MemoryError

    features = OnlineFeatures(GEOMETRY)
    with monkeypatch.context() as patch:
        patch.setattr(StreamingResampler, "_filter", too_large)
        with pytest.raises(MemoryError):
            features.accept(8000, bursts(0.1, rate=8000))
    features.accept(8000, bursts(0.1, rate=8000))
    features.finish()
    assert features.num_samples == 1600


def test_integer_samples_are_scaled() -> None:
    assert check_samples(np.array([-32768, 0, 16384], np.int16)).tolist() == [-1.0, 0.0, 0.5]
    assert check_samples(np.array([-(2**31), 2**30], np.int32)).tolist() == [-1.0, 0.5]
    assert check_samples(np.array([0, 128, 192], np.uint8)).tolist() == [-1.0, 0.0, 0.5]
    assert check_samples([]).dtype == np.float32
    with pytest.raises(UserError, match="not numbers"):
        check_samples(np.array(["a"]))


@pytest.mark.parametrize(
    "samples", [[0, 16384], np.array([0, 2**40]), np.array([1], np.uint64), [np.int16(5)]]
)
def test_integers_of_unknown_range_are_refused(samples: Any) -> None:
    with pytest.raises(UserError, match="call: integers of unknown range"):
        check_samples(samples, source="call")


def test_what_is_no_array_is_refused() -> None:
    for samples in ([[1.0, 2.0], [3.0]], torch.ones(3, requires_grad=True)):
        with pytest.raises(UserError, match="call: not an array"):
            check_samples(samples, source="call")
