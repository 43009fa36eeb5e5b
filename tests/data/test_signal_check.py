"""What is said of a recording: its level, clipping, its band, and channels that cancel."""

from dataclasses import astuple

import numpy as np
import pytest
from numpy.typing import NDArray

from kdasr.data.channels import ChannelMixer, mix_down
from kdasr.data.signal_check import SignalMeter, measure_signal
from kdasr.recognition.resample import resample

Samples = NDArray[np.float32]


def noise(seconds: float, level_dbfs: float, seed: int = 0) -> Samples:
    """White noise of this power."""
    generator = np.random.default_rng(seed)
    wave = generator.normal(0, 10 ** (level_dbfs / 20), round(seconds * 16000))
    return wave.astype(np.float32)


def square(level_dbfs: float) -> Samples:
    """A square wave, whose power is that of its peaks."""
    return (10 ** (level_dbfs / 20) * np.sign(np.sin(np.arange(16000) / 7))).astype(np.float32)


@pytest.mark.parametrize("level", [-50.0, -36.5, -35.5, -20.0])
def test_the_level_is_that_of_the_speech_without_the_pauses(level: float) -> None:
    pause = noise(3.0, level - 20, seed=1)
    speech = noise(1.0, level)
    for wave in (speech, np.concatenate([pause, speech, pause]), np.concatenate([pause] * 30 + [speech])):
        report = measure_signal(wave)
        assert report.level_dbfs == pytest.approx(level, abs=0.5)
        assert ("too quiet" in report.faults) is (level < -36)
    assert measure_signal(square(-12.0)).level_dbfs == pytest.approx(-12.0, abs=0.01)


def test_a_quiet_recording_is_told_with_its_level() -> None:
    (fault,) = measure_signal(noise(1.0, -46.0)).faults.values()
    assert fault.startswith("too quiet: speech at -46 dBFS")


@pytest.mark.parametrize("wave", [np.zeros(16000, np.float32), noise(1.0, -90.0)])
def test_silence_is_told(wave: Samples) -> None:
    assert list(measure_signal(wave).faults) == ["silent"]


@pytest.mark.parametrize("gain", [0.9, 3.0])
def test_clipping_is_told_with_its_share(gain: float) -> None:
    wave = noise(2.0, -12.0) * gain
    clipped = wave.clip(-1, 1)
    report = measure_signal(clipped)
    assert report.clipped_share == pytest.approx(np.mean(np.abs(wave) >= 0.999), abs=1e-3)
    assert ("clipped" in report.faults) is (gain > 1)
    if gain > 1:
        share = f"{100 * report.clipped_share:.1f} % of the samples at full scale"
        assert report.faults["clipped"].startswith(f"clipped: {share}, speech at ")


@pytest.mark.parametrize(("rate", "is_narrow"), [(8000, True), (16000, False), (48000, False)])
def test_speech_of_a_telephones_band_is_told(rate: int, is_narrow: bool) -> None:
    wave = resample(resample(noise(2.0, -20.0), 16000, rate), rate, 16000)
    assert ("band-limited" in measure_signal(wave).faults) is is_narrow


def test_packets_of_any_size_measure_the_same() -> None:
    wave = np.concatenate([noise(2.3, -50.0), noise(1.1, -20.0, seed=1) * 5])
    whole = measure_signal(wave)
    for size in (1, 160, 1600, 40000):
        meter = SignalMeter()
        for start in range(0, len(wave) if size > 1 else 2000, size):
            meter.add(wave[start : start + size])
        expected = whole if size > 1 else measure_signal(wave[:2000])
        assert astuple(meter.report()) == pytest.approx(astuple(expected))
        assert meter.report() == meter.report()


def test_little_audio_has_no_fault() -> None:
    for count in (0, 1, 511, 4000):
        assert measure_signal(np.zeros(count, np.float32)).faults == {}


def test_channels_that_cancel_leave_the_loudest() -> None:
    speech, other = noise(0.5, -20.0), noise(0.5, -20.0, seed=1)
    for channels in ([speech, speech], [speech, other], [speech, 0 * speech], [speech] * 4, [speech]):
        stacked = np.stack(channels, axis=1)
        mixed, fault = mix_down(stacked)
        assert fault is None
        np.testing.assert_allclose(mixed, stacked.mean(axis=1), atol=1e-7)
    for channels in ([0.9 * speech, -speech], [-0.9 * speech, speech + 0.01 * other]):
        mixed, fault = mix_down(np.stack(channels, axis=1))
        np.testing.assert_array_equal(mixed, channels[1])
        assert fault == "channels cancel when they are mixed: channel 2 of 2 is taken alone"
        mixer = ChannelMixer()
        stacked = np.stack(channels, axis=1)
        blocks = [mixer.push(stacked[start : start + 999]) for start in range(0, len(stacked), 999)]
        np.testing.assert_array_equal(np.concatenate(blocks), channels[1])
        assert mixer.fault == fault
    for empty in (np.zeros((0, 2), np.float32), np.zeros((5, 2), np.float32)):
        mixed, fault = mix_down(empty)
        assert (len(mixed), fault) == (len(empty), None)
