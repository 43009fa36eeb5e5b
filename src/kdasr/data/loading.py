"""Where the features of training utterances come from: stored ones, or audio, changed or not."""

import numpy as np
import torch
from lhotse import CutSet
from lhotse.dataset.input_strategies import BatchIO, OnTheFlyFeatures, PrecomputedFeatures
from lhotse.utils import LOG_EPSILON
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.augment import NoiseMixer
from kdasr.data.channel_augment import AudioChain, AudioTransform, ChannelAugment
from kdasr.data.data_config import DataConfig
from kdasr.data.features import feature_extractor
from kdasr.data.reverb import Reverb

# Shapes: B utterances, T feature frames, F mel bins.

log = get_logger(__name__)


class StoredFeatures(PrecomputedFeatures):
    """Lhotse's stored features read straight into the padded batch, without building padded cuts first."""

    def __call__(self, cuts: CutSet, pad_direction: str | None = "right") -> tuple[Tensor, Tensor]:
        """Features (B, T, F), padded with a low log energy, and their lengths."""
        assert pad_direction == "right"
        arrays = [cut.features.load() for cut in cuts]
        lens_B = torch.tensor([len(array) for array in arrays], dtype=torch.int32)
        features_BTF = np.full((len(arrays), int(lens_B.max()), arrays[0].shape[1]), LOG_EPSILON, np.float32)
        for row, array in zip(features_BTF, arrays, strict=True):
            row[: len(array)] = array
        return torch.from_numpy(features_BTF), lens_B


def on_the_fly(transform: AudioTransform | None) -> OnTheFlyFeatures:
    """Features of audio, which is transformed before if asked for."""
    # One by one: Lhotse's batched extraction reflects the padding into the last frames.
    return OnTheFlyFeatures(
        feature_extractor(), wave_transforms=[transform] if transform else None, use_batch_extract=False
    )


def train_strategy(cuts: CutSet, config: DataConfig) -> tuple[BatchIO, AudioTransform | None]:
    """Where training takes the features of `cuts` from, and what is done to their audio.

    Raises:
        UserError: rooms, noise or channels, and features that are stored without any.
    """
    stored = all(cut.has_features for cut in cuts)
    transforms: list[AudioTransform] = []
    for name, is_wanted, make in (
        ("reverb.probability", config.reverb.probability > 0, lambda: Reverb(config.reverb)),
        ("noise.musan_dir", config.noise.musan_dir is not None, lambda: NoiseMixer(config.noise)),
        ("channel.probability", config.channel.probability > 0, lambda: ChannelAugment(config.channel)),
    ):
        if is_wanted and not config.on_the_fly and stored:
            raise UserError(f"data.{name}: changes audio, not stored features: set data.on_the_fly: true")
        if is_wanted:
            transforms.append(make())
    if transforms:  # noise is where the listener is, and goes through the channel too
        chain = AudioChain(transforms)
        return on_the_fly(chain), chain
    if config.on_the_fly:
        return on_the_fly(None), None
    if not stored:
        log.info("no stored features: computing them from the audio")
        return on_the_fly(None), None
    return StoredFeatures(), None
