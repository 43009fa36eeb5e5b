"""Randomness on the data side: masks on features and noise under speech, each from its own generator."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.folders import find_files
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import is_audio, quote
from kdasr.data.channels import mix_down
from kdasr.data.data_config import NoiseConfig, NoiseSource, SpecAugmentConfig
from kdasr.data.features import SAMPLE_RATE

# Shapes: B utterances, T feature frames, F mel bins, M masks, N samples.

log = get_logger(__name__)


def generator_for(*key: int) -> torch.Generator:
    """A CPU generator that depends on nothing but `key` (for example seed, epoch, batch index, rank)."""
    state = np.random.SeedSequence([abs(int(part)) for part in key]).generate_state(2)
    return torch.Generator().manual_seed((int(state[0]) << 31) ^ int(state[1]))


def spec_augment(
    features_BTF: Tensor, lens_B: Tensor, config: SpecAugmentConfig, generator: torch.Generator
) -> Tensor:
    """Mask stretches of time and of frequency (SpecAugment, Park et al. 2019), without time warping.

    A mask holds the utterance's mean of each bin: close to zero once the model has normalized its input.
    Time masks lie within the valid frames, at most `max_time_fraction` of them each; padding stays as it
    was. Widths and positions are uniform.
    """
    batch_size, num_frames, num_bins = features_BTF.shape
    lens = lens_B.to(torch.float32)

    def masked(count: int, widest_B1: Tensor, extent_B1: Tensor, size: int) -> Tensor:
        """(B, size) True where one of `count` masks lies, each in [0, extent)."""
        width_BM = (torch.rand(batch_size, count, generator=generator) * (widest_B1 + 1)).floor()
        width_BM = torch.minimum(width_BM, widest_B1)
        start_BM = (torch.rand(batch_size, count, generator=generator) * (extent_B1 - width_BM + 1)).floor()
        start_BM = torch.minimum(start_BM, extent_B1 - width_BM)
        place = torch.arange(size)
        inside = (place >= start_BM[..., None]) & (place < (start_BM + width_BM)[..., None])
        return inside.any(dim=1)

    extent_B1 = lens[:, None]
    time_BT = masked(
        config.num_time_masks, (extent_B1 * config.max_time_fraction).floor(), extent_B1, num_frames
    )
    bins_B1 = torch.full((batch_size, 1), float(num_bins))
    freq_BF = masked(config.num_freq_masks, bins_B1.clamp(max=config.max_freq_bins), bins_B1, num_bins)
    valid_BT = torch.arange(num_frames) < extent_B1
    mean_BF = torch.einsum("btf,bt->bf", features_BTF, valid_BT.to(features_BTF.dtype))
    mean_BF = mean_BF / lens.clamp(min=1)[:, None]
    mask_BTF = (time_BT[:, :, None] | freq_BF[:, None, :]) & valid_BT[:, :, None]
    return torch.where(mask_BTF, mean_BF[:, None, :], features_BTF)


class Recordings(NamedTuple):
    """The files of a noise source, and how it is used."""

    source: NoiseSource
    files: list[Path]


class NoiseMixer:
    """Adds random stretches of random noise recordings at a random signal-to-noise ratio.

    A transform for Lhotse's `OnTheFlyFeatures`: called with the samples of one utterance, (1, N). Set
    `generator` before each batch.
    """

    def __init__(self, config: NoiseConfig) -> None:
        """Raises:
        UserError: `musan_dir` or a source in it is missing or holds no wav or flac files, or `snr_db` is not
            a range.
        """
        assert config.musan_dir is not None
        root = Path(config.musan_dir)
        if not root.is_dir():
            raise UserError(f"data.noise.musan_dir: {root}: no such folder")
        alone = NoiseSource("noise" if (root / "noise").is_dir() else ".", snr_db=config.snr_db)
        self.sources = [_recordings_of(source, root) for source in config.sources or [alone]]
        self.probability = config.probability
        self.generator = generator_for(0)

    @property
    def files(self) -> list[Path]:
        """The recordings of all sources."""
        return [file for source in self.sources for file in source.files]

    def __call__(self, samples: Tensor) -> Tensor:
        """The samples with or without noise, same shape."""
        chance, which, offset, level = torch.rand(4, generator=self.generator).tolist()
        if chance >= self.probability or samples.numel() == 0:
            return samples
        source, files = self._chosen()
        places = [(which, offset)]
        fewest, most = source.count
        if most > 1:
            more = int(torch.randint(fewest, most + 1, (1,), generator=self.generator)) - 1
            places += [(one, other) for one, other in torch.rand(more, 2, generator=self.generator).tolist()]
        noise_N = torch.zeros(samples.shape[-1])
        for one, begin in places:
            stretch_N = _stretch(files[min(int(one * len(files)), len(files) - 1)], begin, len(noise_N))
            # Alike loud: each by itself has a power of 1.
            noise_N = noise_N + stretch_N / stretch_N.square().mean().sqrt().clamp(min=_SILENCE)
        snr_db = source.snr_db[0] + level * (source.snr_db[1] - source.snr_db[0])
        power = samples.square().mean()
        noise_power = noise_N.square().mean()
        if noise_power <= 0 or power <= 0:
            return samples
        gain = torch.sqrt(power / noise_power / 10 ** (snr_db / 10))
        return samples + gain * noise_N

    def _chosen(self) -> Recordings:
        """One of the sources, by their weights."""
        if len(self.sources) == 1:
            return self.sources[0]
        weights = torch.tensor([recordings.source.weight for recordings in self.sources])
        return self.sources[int(torch.multinomial(weights, 1, generator=self.generator))]


_SILENCE = 1e-8
"""Root mean square of a recording that is silent."""


def _recordings_of(source: NoiseSource, root: Path) -> Recordings:
    folder = root / source.folder
    if not folder.is_dir():
        raise UserError(f"data.noise.sources: {folder}: no such folder")
    found = find_files(folder, is_audio)
    if not found.files:
        raise UserError(f"data.noise.musan_dir: {folder}: no wav or flac files")
    log.info("%s: %d noise recordings", folder, len(found.files))
    if found.broken:
        log.warning("%s: %d link(s) lead nowhere: %s", folder, len(found.broken), quote(found.broken))
    for name, values in (("snr_db", source.snr_db), ("count", source.count)):
        if len(values) != 2 or values[0] > values[1]:
            raise UserError(f"data.noise.{name}: expected [lowest, highest], found {values}")
    return Recordings(source, found.files)


def _stretch(file: Path, offset: float, num_samples: int) -> Tensor:
    """`num_samples` of `file` from a random place on, repeated when it is shorter."""
    import torchaudio

    try:
        with soundfile.SoundFile(file) as audio:
            wanted = int(np.ceil(num_samples * audio.samplerate / SAMPLE_RATE)) + 1
            audio.seek(int(offset * max(0, audio.frames - wanted)))
            noise = torch.from_numpy(mix_down(audio.read(wanted, dtype="float32", always_2d=True))[0])
            noise = torchaudio.functional.resample(noise, audio.samplerate, SAMPLE_RATE)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{file}: cannot be read as noise: {error}") from error
    if noise.numel() == 0:
        return torch.zeros(num_samples)
    return noise.repeat(-(-num_samples // noise.numel()))[:num_samples]
