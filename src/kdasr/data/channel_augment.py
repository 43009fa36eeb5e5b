"""Training speech as it comes through a telephone, a codec, or a microphone without high frequencies.

A model that has heard wideband speech alone makes several times as many errors on material that was sampled
at 8 kHz. Each transform keeps every sample in its place, so that word times stay true.
"""

# Shapes: N samples, F frequencies.

import io
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.augment import generator_for
from kdasr.data.data_config import ChannelConfig
from kdasr.data.features import SAMPLE_RATE

Samples = NDArray[np.float32]

_ROLL_OFF = 0.08
"""Width of the edge of a band, as a share of its frequency."""


class Codec(NamedTuple):
    """How libsndfile is asked for a lossy codec."""

    rate: int
    format: str
    subtype: str
    compression: tuple[float, float] | None = None
    """Range of the compression level, 0 to 1, where there is one."""


CODECS = {
    "mulaw": Codec(8000, "WAV", "ULAW"),  # G.711, 64 kbit/s: telephones
    "alaw": Codec(8000, "WAV", "ALAW"),
    "gsm": Codec(8000, "WAV", "GSM610"),  # 13 kbit/s
    "mp3": Codec(SAMPLE_RATE, "MP3", "MPEG_LAYER_III", (0.3, 0.95)),  # about 50 to 25 kbit/s
    "opus": Codec(SAMPLE_RATE, "OGG", "OPUS", (0.85, 1.0)),  # about 40 to 8 kbit/s
    "vorbis": Codec(SAMPLE_RATE, "OGG", "VORBIS", (0.3, 1.0)),  # about 60 to 28 kbit/s
}


class AudioTransform(Protocol):
    """Changes the samples, (N,) or (1, N), of an utterance; its random numbers come from `generator`."""

    generator: torch.Generator

    def __call__(self, samples: Tensor) -> Tensor: ...


class AudioChain:
    """Transforms one after another, with one generator."""

    def __init__(self, transforms: Sequence[AudioTransform]) -> None:
        self._transforms = list(transforms)
        self.generator = generator_for(0)

    def __call__(self, samples: Tensor) -> Tensor:
        """The samples after all transforms, same shape."""
        for transform in self._transforms:
            transform.generator = self.generator
            samples = transform(samples)
        return samples


class ChannelAugment:
    """Sends some utterances through a channel, one of `config.kinds` each, all alike likely.

    A transform for Lhotse's `OnTheFlyFeatures`: called with the samples of one utterance, (N,) or (1, N). Set
    `generator` before each batch.
    """

    def __init__(self, config: ChannelConfig) -> None:
        """
        Raises:
            UserError: a codec that this build of libsndfile does not have.
        """
        for kind in config.kinds:
            codec = CODECS.get(kind)
            if codec and not soundfile.check_format(codec.format, codec.subtype):
                version = soundfile.__libsndfile_version__
                raise UserError(f"data.channel.kinds: {kind}: libsndfile {version} does not have it")
        self._config = config
        self.generator = generator_for(0)

    def __call__(self, samples: Tensor) -> Tensor:
        """The samples with or without a channel, same shape."""
        chance, which, amount = torch.rand(3, generator=self.generator).tolist()
        if chance >= self._config.probability or samples.numel() == 0:
            return samples
        kinds = self._config.kinds
        kind = kinds[min(int(which * len(kinds)), len(kinds) - 1)]
        lowest, highest = self._config.band_hz
        heard_N = through_channel(samples.reshape(-1).numpy(), kind, amount, (lowest, highest))
        return torch.from_numpy(heard_N).view_as(samples)


def through_channel(samples_N: Samples, kind: str, amount: float, band_hz: tuple[float, float]) -> Samples:
    """Speech at 16 kHz as a channel leaves it, sample for sample.

    Args:
        samples_N: what goes in.
        kind: `band`, or one of `CODECS`.
        amount: 0 to 1, where in its range of edges or compression levels the channel lies.
        band_hz: that range of edges.
    """
    if kind == "band":
        return _low_pass(samples_N, band_hz[0] + amount * (band_hz[1] - band_hz[0]))
    codec = CODECS[kind]
    resample = _resampler(codec.rate)
    # A codec cuts what is beyond full scale.
    scale = max(1.0, float(np.abs(samples_N).max()))
    sent_N = resample(samples_N / np.float32(scale), SAMPLE_RATE, codec.rate)
    heard_N = resample(_coded(sent_N, codec, amount), codec.rate, SAMPLE_RATE)[: len(samples_N)]
    heard_N = np.pad(heard_N, (0, len(samples_N) - len(heard_N)))
    return (heard_N * np.float32(scale)).astype(np.float32)


def _coded(samples_N: Samples, codec: Codec, amount: float) -> Samples:
    options = {}
    if codec.compression:
        lowest, highest = codec.compression
        options["compression_level"] = lowest + amount * (highest - lowest)
    file = io.BytesIO()
    soundfile.write(file, samples_N, codec.rate, format=codec.format, subtype=codec.subtype, **options)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0]


def _resampler(rate: int) -> Callable[[Samples, int, int], Samples]:
    import torchaudio

    def resample(samples_N: Samples, from_rate: int, to_rate: int) -> Samples:
        tensor = torch.from_numpy(np.ascontiguousarray(samples_N))
        # Steep: the usual filter lets a tenth of what is beyond 4 kHz pass, or come back mirrored.
        return torchaudio.functional.resample(tensor, from_rate, to_rate, lowpass_filter_width=48).numpy()

    return resample if rate != SAMPLE_RATE else lambda samples_N, *_: samples_N


def _low_pass(samples_N: Samples, edge_hz: float) -> Samples:
    """Without what lies above an edge, by a filter without delay."""
    frequency_F = np.fft.rfftfreq(len(samples_N), 1 / SAMPLE_RATE)
    beyond_F = ((frequency_F / edge_hz - 1) / _ROLL_OFF + 1).clip(0, 1)
    spectrum_F = np.fft.rfft(samples_N) * (0.5 + 0.5 * np.cos(np.pi * beyond_F))
    return np.fft.irfft(spectrum_F, len(samples_N)).astype(np.float32)
