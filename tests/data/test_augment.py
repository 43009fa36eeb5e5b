"""Masks and noise: inside the valid frames, within their limits, and from their own generator."""

import logging
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from kdasr.common.errors import UserError
from kdasr.data.augment import NoiseMixer, generator_for, spec_augment
from kdasr.data.data_config import NoiseConfig, NoiseSource, SpecAugmentConfig
from kdasr.testing import dummy_batch, tone

CONFIG = SpecAugmentConfig(num_time_masks=2, max_time_fraction=0.1, num_freq_masks=2, max_freq_bins=20)


def run_lengths(row: torch.Tensor) -> list[int]:
    """Lengths of the stretches of True."""
    return [len(stretch) for stretch in "".join("x" if value else " " for value in row).split()]


def test_masks_keep_to_their_limits_and_to_valid_frames() -> None:
    batch = dummy_batch(batch_size=8, max_frames=200)
    features_BTF, lens_B = batch.features_BTF, batch.feature_lens_B
    some_time, some_freq = 0, 0
    for seed in range(30):
        out_BTF = spec_augment(features_BTF, lens_B, CONFIG, generator_for(seed))
        for features_TF, out_TF, length in zip(features_BTF, out_BTF, lens_B.tolist(), strict=True):
            assert torch.equal(out_TF[length:], features_TF[length:])
            changed_TF = out_TF[:length] != features_TF[:length]
            time_T, freq_F = changed_TF.all(dim=1), changed_TF.all(dim=0)
            assert torch.equal(changed_TF, time_T[:, None] | freq_F[None, :])
            assert all(run <= 2 * (length // 10) for run in run_lengths(time_T))
            assert int(time_T.sum()) <= 2 * (length // 10)
            assert int(freq_F.sum()) <= 40
            some_time, some_freq = some_time + bool(time_T.any()), some_freq + bool(freq_F.any())
    assert some_time > 200
    assert some_freq > 200


def test_a_masked_cell_holds_the_utterances_mean_of_the_bin() -> None:
    batch = dummy_batch(batch_size=2, max_frames=90, padding=50.0)
    out_BTF = spec_augment(batch.features_BTF, batch.feature_lens_B, CONFIG, generator_for(3))
    changed = 0
    for row, length in enumerate(batch.feature_lens_B.tolist()):
        mean_F = batch.features_BTF[row, :length].mean(dim=0)
        for frame, bin_ in (out_BTF[row] != batch.features_BTF[row]).nonzero().tolist():
            assert out_BTF[row, frame, bin_] == pytest.approx(float(mean_F[bin_]), abs=1e-5)
            changed += 1
    assert changed > 0


def test_the_generator_alone_decides() -> None:
    batch = dummy_batch()
    first, again, other = (
        spec_augment(batch.features_BTF, batch.feature_lens_B, CONFIG, generator_for(*key))
        for key in ((1, 2, 3), (1, 2, 3), (1, 2, 4))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_masks_change_nothing() -> None:
    batch = dummy_batch()
    none = SpecAugmentConfig(num_time_masks=0, num_freq_masks=0)
    out_BTF = spec_augment(batch.features_BTF, batch.feature_lens_B, none, generator_for(0))
    assert torch.equal(out_BTF, batch.features_BTF)


def test_very_short_utterances_survive() -> None:
    features_BTF = torch.randn(2, 3, 80)
    out_BTF = spec_augment(features_BTF, torch.tensor([3, 0]), CONFIG, generator_for(0))
    assert out_BTF.isfinite().all()
    assert torch.equal(out_BTF[1], features_BTF[1])


@pytest.fixture
def musan(tmp_path: Path) -> Path:
    """One second of noise at 16 kHz and half a second at 8 kHz, as in MUSAN's layout."""
    folder = tmp_path / "noise" / "free-sound"
    folder.mkdir(parents=True)
    (tmp_path / "music").mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    soundfile.write(folder / "a.wav", noise, 16000)
    soundfile.write(folder / "b.wav", noise[:4000], 8000)
    soundfile.write(tmp_path / "music" / "m.wav", noise, 16000)
    return tmp_path


def test_noise_behind_links_counts_and_hidden_noise_does_not(
    musan: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("c.wav", "._c.wav"):
        soundfile.write(elsewhere / name, np.ones(100) / 2, 16000)
    (musan / "noise" / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(musan)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        mixer = NoiseMixer(NoiseConfig(musan_dir=str(musan)))
    assert sorted(file.name for file in mixer.files) == ["a.wav", "b.wav", "c.wav", "m.wav"]
    assert "4 noise recordings" in caplog.text


@pytest.mark.parametrize("snr_db", [0.0, 15.0])
def test_noise_is_added_at_the_wanted_ratio(musan: Path, snr_db: float) -> None:
    mixer = NoiseMixer(NoiseConfig(musan_dir=str(musan), probability=1.0, snr_db=[snr_db, snr_db]))
    assert [file.name for file in mixer.files] == ["a.wav", "b.wav"]
    samples = torch.from_numpy(tone(2.5))[None]
    for seed in range(6):
        mixer.generator = generator_for(seed)
        noise = mixer(samples) - samples
        ratio = 10 * torch.log10(samples.square().mean() / noise.square().mean())
        assert float(ratio) == pytest.approx(snr_db, abs=0.05)
        assert noise.shape == samples.shape


def test_noise_comes_as_often_as_asked(musan: Path) -> None:
    mixer = NoiseMixer(NoiseConfig(musan_dir=str(musan), probability=0.3))
    mixer.generator = generator_for(0)
    samples = torch.from_numpy(tone(0.2))[None]
    count = sum(not torch.equal(mixer(samples), samples) for _ in range(200))
    assert 40 < count < 80


def test_silence_stays_silent(musan: Path) -> None:
    mixer = NoiseMixer(NoiseConfig(musan_dir=str(musan), probability=1.0))
    assert torch.equal(mixer(torch.zeros(1, 800)), torch.zeros(1, 800))


def test_noise_folders_that_cannot_serve_are_named(musan: Path) -> None:
    with pytest.raises(UserError, match=r"musan_dir.*no such folder"):
        NoiseMixer(NoiseConfig(musan_dir=str(musan / "nowhere")))
    (musan / "empty").mkdir()
    with pytest.raises(UserError, match="no wav or flac"):
        NoiseMixer(NoiseConfig(musan_dir=str(musan / "empty")))
    with pytest.raises(UserError, match="snr_db"):
        NoiseMixer(NoiseConfig(musan_dir=str(musan), snr_db=[20.0, 10.0]))


def test_each_source_of_noise_has_its_own_levels_and_counts(tmp_path: Path) -> None:
    """Noise of one frequency per recording: which were heard, and how loud, is in the spectrum."""
    time = np.arange(16000) / 16000
    tones = {"noise": [500], "speech": [1000, 1500, 2000, 2500, 3000]}
    for part, frequencies in tones.items():
        (tmp_path / part).mkdir()
        for hertz in frequencies:
            loud = 0.01 + 0.1 * (hertz % 1000 == 0)  # all are made alike loud
            soundfile.write(tmp_path / part / f"{hertz}.wav", loud * np.sin(2 * np.pi * hertz * time), 16000)
    sources = [
        NoiseSource("noise", weight=3.0, snr_db=[0.0, 0.0]),
        NoiseSource("speech", snr_db=[12.0, 12.0], count=[3, 5]),
    ]
    mixer = NoiseMixer(NoiseConfig(str(tmp_path), probability=1.0, sources=sources))
    assert len(mixer.files) == 6
    samples = torch.from_numpy(tone(1.0))[None]
    mixer.generator = generator_for(2)
    babble = []
    for _ in range(60):
        noise_N = (mixer(samples) - samples)[0]
        ratio = float(10 * torch.log10(samples.square().mean() / noise_N.square().mean()))
        power = torch.fft.rfft(noise_N).abs()[[500, *tones["speech"]]].square()
        if power[0] > power[1:].sum():
            assert ratio == pytest.approx(0.0, abs=0.05)
        else:
            assert ratio == pytest.approx(12.0, abs=0.05)
            # A recording that was drawn twice is twice as loud, or as soft as the phases make it.
            babble.append(int((power[1:] > 0.02 * power.max()).sum()))
    assert 5 < len(babble) < 26  # a quarter
    assert max(babble) >= 3 and min(babble) >= 1
    with pytest.raises(UserError, match=r"noise\.sources: .*music: no such folder"):
        NoiseMixer(NoiseConfig(str(tmp_path), sources=[NoiseSource("music")]))


def test_one_source_draws_as_the_folder_alone(musan: Path) -> None:
    """A run that began before there were sources goes on to the same bits."""
    samples = torch.from_numpy(tone(0.5))[None]
    heard = []
    for config in (NoiseConfig(str(musan)), NoiseConfig(str(musan), sources=[NoiseSource("noise")])):
        mixer = NoiseMixer(config)
        mixer.generator = generator_for(3)
        heard.append(torch.cat([mixer(samples) for _ in range(5)]))
    assert torch.equal(*heard)
