"""Telephones, codecs and narrow bands in training: what they take away, and that samples stay in place."""

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.data.augment import generator_for
from kdasr.data.channel_augment import CODECS, AudioChain, ChannelAugment, through_channel
from kdasr.data.data_config import ChannelConfig, DataConfig
from kdasr.data.loading import on_the_fly, train_strategy
from kdasr.testing import dummy_cuts

Samples = NDArray[np.float32]
BAND = (3000.0, 7000.0)


def speech_like(seconds: float, seed: int = 0) -> Samples:
    """Bursts of noise whose spectrum falls with frequency."""
    generator = np.random.default_rng(seed)
    count = round(seconds * 16000)
    spectrum = np.fft.rfft(generator.normal(size=count))
    spectrum /= 1 + np.fft.rfftfreq(count, 1 / 16000) / 500
    wave = np.fft.irfft(spectrum, count) * (np.sin(np.arange(count) / 900) > 0)
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


def power_above(samples_N: Samples, edge_hz: float) -> float:
    spectrum = np.abs(np.fft.rfft(samples_N)) ** 2
    return float(spectrum[np.fft.rfftfreq(len(samples_N), 1 / 16000) > edge_hz].sum())


@pytest.mark.parametrize("amount", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["band", *CODECS])
def test_every_sample_stays_in_its_place(kind: str, amount: float) -> None:
    speech = speech_like(1.7)[:-77]
    heard = through_channel(speech, kind, amount, BAND)
    assert heard.shape == speech.shape and heard.dtype == np.float32
    # The correlation with the original is highest without a shift; on noise, codecs keep no more than this.
    products = np.fft.irfft(np.fft.rfft(heard, 65536) * np.fft.rfft(speech, 65536).conj())
    assert products.argmax() == 0
    assert products[0] / np.sqrt((speech**2).sum() * (heard**2).sum()) > (
        0.5 if kind in ("gsm", "opus") else 0.85
    )
    assert not np.array_equal(heard, speech)


@pytest.mark.parametrize("kind", ["mulaw", "alaw", "gsm"])
def test_a_telephone_has_nothing_above_4_khz(kind: str) -> None:
    speech = speech_like(1.0)
    heard = through_channel(speech, kind, 0.5, BAND)
    assert power_above(heard, 4500) < 1e-3 * power_above(speech, 4500)


@pytest.mark.parametrize(("amount", "edge"), [(0.0, 3000.0), (0.5, 5000.0), (1.0, 7000.0)])
def test_a_band_ends_at_its_edge(amount: float, edge: float) -> None:
    speech = speech_like(1.0)
    heard = through_channel(speech, "band", amount, BAND)
    assert power_above(heard, edge) < 1e-6 * power_above(speech, edge)
    rest = speech - heard
    below = (rest**2).sum() - power_above(rest, 0.9 * edge) * 2 / len(rest)
    assert below < 1e-6 * (speech**2).sum()


def test_speech_beyond_full_scale_is_not_cut() -> None:
    speech = 8 * speech_like(1.0)
    heard = through_channel(speech, "mulaw", 0.5, BAND)
    assert np.abs(heard).max() > 1.5
    assert np.abs(through_channel(np.zeros(160, np.float32), "mulaw", 0.5, BAND)).max() < 1e-3


def test_channels_come_as_often_as_asked() -> None:
    samples = torch.from_numpy(speech_like(0.3))[None]
    augment = ChannelAugment(ChannelConfig(probability=0.4, kinds=["band", "mulaw", "mp3", "opus"]))
    rounds = []
    for _ in range(2):
        augment.generator = generator_for(3)
        rounds.append([augment(samples) for _ in range(60)])
    assert all(torch.equal(one, two) for one, two in zip(*rounds, strict=True))
    changed = [heard for heard in rounds[0] if not torch.equal(heard, samples)]
    assert 12 < len(changed) < 36
    assert all(heard.shape == samples.shape for heard in changed)
    assert augment(samples[:, :0]).shape == (1, 0)


def test_noise_goes_through_the_channel() -> None:
    class Hiss:
        generator = generator_for(0)

        def __call__(self, samples: torch.Tensor) -> torch.Tensor:
            return samples + 0.1 * torch.randn(samples.shape, generator=self.generator)

    chain = AudioChain([Hiss(), ChannelAugment(ChannelConfig(probability=1.0, kinds=["mulaw"]))])
    chain.generator = generator_for(1)
    samples = torch.from_numpy(speech_like(0.5))[None]
    heard = chain(samples)[0].numpy()
    chain.generator = generator_for(1)
    np.testing.assert_array_equal(chain(samples)[0].numpy(), heard)
    hiss = 0.1 * torch.randn(samples.shape, generator=generator_for(1))[0].numpy()
    assert power_above(heard, 4500) < 1e-2 * power_above(hiss, 4500)


def test_channels_need_audio() -> None:
    cuts = dummy_cuts(2)
    config = DataConfig(channel=ChannelConfig(probability=0.5))
    with pytest.raises(UserError, match=r"data\.channel\.probability.*data\.on_the_fly: true"):
        train_strategy(cuts, config)
    config.channel.probability = 1.0
    strategy, transform = train_strategy(cuts, DataConfig(on_the_fly=True, channel=config.channel))
    assert isinstance(transform, AudioChain)
    heard_BTF, lens_B = strategy(cuts)[:2]
    plain_BTF, plain_lens_B = on_the_fly(None)(cuts)[:2]
    assert torch.equal(lens_B, plain_lens_B) and heard_BTF.shape == plain_BTF.shape
    assert all(
        (heard_TF - plain_TF).abs().max() > 1 for heard_TF, plain_TF in zip(heard_BTF, plain_BTF, strict=True)
    )


def test_a_codec_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "check_format", lambda format, subtype: subtype != "OPUS")
    ChannelAugment(ChannelConfig(kinds=["mp3", "band"]))
    with pytest.raises(UserError, match=r"data\.channel\.kinds: opus: libsndfile .* does not have it"):
        ChannelAugment(ChannelConfig(kinds=["mp3", "opus"]))
