"""Where the data is and how it is served to training."""

from dataclasses import dataclass, field


@dataclass
class SpecAugmentConfig:
    """Masks on log-mel features (Park et al. 2019)."""

    enabled: bool = True
    num_time_masks: int = 2
    max_time_fraction: float = 0.1
    """Longest time mask as a share of the utterance."""
    num_freq_masks: int = 2
    max_freq_bins: int = 20


@dataclass
class NoiseConfig:
    """Noise mixing from a folder of recordings (MUSAN's `noise` part, or any wav files)."""

    musan_dir: str | None = None
    """None: no noise is mixed. Needs features computed on the fly."""
    probability: float = 0.5
    snr_db: list[float] = field(default_factory=lambda: [10.0, 20.0])


@dataclass
class DataConfig:
    """Prepared data and the batches made of it."""

    dir: str = "data"
    """The folder that `kdasr prepare` wrote: manifests, features, tokenizer."""
    train_parts: list[str] = field(default_factory=lambda: ["train-clean-100"])
    dev_parts: list[str] = field(default_factory=lambda: ["dev-clean"])
    vocab_size: int = 500
    """Word pieces, `<blk>`, `<sos/eos>` and `<unk>` included."""
    on_the_fly: bool = False
    """Compute features while training instead of reading the stored ones."""
    speed_perturbation: list[float] = field(default_factory=lambda: [0.9, 1.0, 1.1])
    max_duration: float = 60.0
    """Seconds of audio per batch, padding included."""
    num_buckets: int = 10
    num_workers: int = 0
    min_seconds: float = 0.3
    max_seconds: float = 25.0
    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
