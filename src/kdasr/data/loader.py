"""Batches for training and validation: Lhotse samples and collates, this file makes it exactly resumable."""

import random
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.dataset import DynamicBucketingSampler, K2SpeechRecognitionDataset
from lhotse.dataset.input_strategies import BatchIO, OnTheFlyFeatures, PrecomputedFeatures
from lhotse.utils import LOG_EPSILON
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.augment import NoiseMixer, generator_for, spec_augment
from kdasr.data.batch import Batch
from kdasr.data.config import DataConfig
from kdasr.data.features import feature_extractor
from kdasr.data.folder import load_cuts
from kdasr.data.stream import BatchStream
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import Unusable, cut_text, report_unusable
from kdasr.data.word_times import aligned_words, times_of_pieces

# Shapes: B utterances, T feature frames, F mel bins, S pieces.

__all__ = ["TrainLoader", "Unusable", "ValidBatches", "load_cuts", "report_unusable", "valid_batches"]

log = get_logger(__name__)


class Plan(NamedTuple):
    """What goes into one batch, and its place: the key of its random numbers."""

    epoch: int
    number: int
    cuts: CutSet


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


class _Batches(Dataset[tuple[int, int, Batch]]):
    """From a plan to a batch: features, masks, pieces. Runs in the loader's workers."""

    def __init__(
        self,
        strategy: BatchIO,
        tokenizer: Tokenizer,
        noise: NoiseMixer | None,
        config: DataConfig | None,
        seed: tuple[int, ...],
        word_times: bool,
    ) -> None:
        self.word_times = word_times
        self.dataset = K2SpeechRecognitionDataset(return_cuts=True, input_strategy=strategy)
        self.tokenizer = tokenizer
        self.noise = noise
        self.config = config
        self.seed = seed

    def __getitem__(self, plan: Plan) -> tuple[int, int, Batch]:
        generator = generator_for(*self.seed, plan.epoch, plan.number)
        if self.noise is not None:
            self.noise.generator = generator
        sample = self.dataset[plan.cuts]
        features_BTF = sample["inputs"]
        supervisions = sample["supervisions"]
        lens_B = supervisions["num_frames"].to(torch.int64)
        if self.config is not None and self.config.spec_augment.enabled:
            features_BTF = spec_augment(features_BTF, lens_B, self.config.spec_augment, generator)
        batch = _batch(features_BTF, lens_B, supervisions["cut"], self.tokenizer, self.word_times)
        return plan.epoch, plan.number, batch


def _batch(
    features_BTF: Tensor, lens_B: Tensor, cuts: list[MonoCut], tokenizer: Tokenizer, word_times: bool
) -> Batch:
    texts = [cut_text(cut) for cut in cuts]
    pieces = [tokenizer.encode(text) for text in texts]
    token_lens_B = torch.tensor([len(piece) for piece in pieces], dtype=torch.int64)
    tokens_BS = torch.zeros(len(pieces), int(token_lens_B.max()), dtype=torch.int64)
    for row, piece in zip(tokens_BS, pieces, strict=True):
        row[: len(piece)] = torch.tensor(piece, dtype=torch.int64)
    return Batch(
        features_BTF=features_BTF,
        feature_lens_B=lens_B,
        tokens_BS=tokens_BS,
        token_lens_B=token_lens_B,
        ids=[cut.id for cut in cuts],
        texts=texts,
        audio_seconds=sum(cut.duration for cut in cuts),
        word_times_BS2=_word_times(cuts, pieces, tokenizer) if word_times else None,
    )


def _word_times(cuts: list[MonoCut], pieces: list[list[int]], tokenizer: Tokenizer) -> Tensor:
    times = [
        torch.tensor(times_of_pieces(cut, piece, tokenizer)).view(-1, 2)
        for cut, piece in zip(cuts, pieces, strict=True)
    ]
    return pad_sequence(times, batch_first=True)


class TrainLoader(BatchStream[Batch]):
    """An endless, shuffled, augmented stream of batches of similar durations.

    Batches depend on the cuts, the configuration, `seed`, `rank` and `world_size`, and not on the number
    of workers or on global random states. All ranks see the same number of batches per epoch.
    """

    def __init__(
        self,
        cuts: CutSet,
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        word_times: bool = False,
    ) -> None:
        """Report and leave out unusable cuts; keep the speed copies that the configuration asks for.

        `word_times`: batches say when the words of their pieces are spoken.

        Raises:
            UserError: nothing left to train on, noise without features on the fly, or no word times where
                they are asked for.
        """
        super().__init__()
        cuts, _ = report_unusable(select_speeds(cuts, config.speed_perturbation), tokenizer, config)
        if len(cuts) == 0:
            raise UserError("no usable training utterances (see the warnings above)")
        if not word_times:
            # They would travel to the workers with each batch.
            cuts = CutSet.from_cuts(cut.drop_alignments() for cut in cuts)
        elif not any(aligned_words(cut) for cut in cuts):
            raise UserError(
                "the training utterances have no word times, which objective.rnnt.left_buffer and "
                "right_buffer need: prepare the data with alignments, or leave both out"
            )
        self._cuts = cuts
        self._config = config
        self._seed, self._rank, self._world_size = seed, rank, world_size
        strategy, noise = _train_strategy(self._cuts, config)
        self._dataset = _Batches(strategy, tokenizer, noise, config, (seed, rank), word_times)
        self._sampler = _sampler(self._cuts, config, seed, rank, world_size)

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "world_size": self._world_size,
            "num_cuts": len(self._cuts),
            "max_duration": self._config.max_duration,
            "num_buckets": self._config.num_buckets,
        }

    def _start(self) -> Iterator[tuple[int, int, Batch]]:
        workers = self._config.num_workers
        loader = DataLoader(
            self._dataset,
            sampler=_Plans(self),
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            # Its own generator: the default one would draw from the global random state at each start.
            generator=torch.Generator().manual_seed(self._seed),
            prefetch_factor=4 if workers else None,
        )
        return iter(loader)

    def plans(self) -> Iterator[Plan]:
        """The endless sequence of batch contents after the current position."""
        epoch, last = self._position
        while True:
            self._sampler.set_epoch(epoch)
            for index, cuts in enumerate(self._sampler):
                if index > last:
                    yield Plan(epoch, index, cuts)
            epoch, last = epoch + 1, -1


class _Plans:
    """`TrainLoader.plans` as the iterable that a DataLoader wants for a sampler."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Plan]:
        return self.loader.plans()


class ValidBatches:
    """Batches in a fixed order without augmentation; can be iterated again and again."""

    def __init__(self, cuts: CutSet, tokenizer: Tokenizer, config: DataConfig) -> None:
        cuts, _ = report_unusable(cuts, tokenizer, config)
        stored = all(cut.has_features for cut in cuts)
        self._dataset = _Batches(
            StoredFeatures() if stored else _on_the_fly(None), tokenizer, None, None, (0,), False
        )
        self._plans = [
            Plan(0, index, group) for index, group in enumerate(_groups(cuts, config.max_duration))
        ]

    def __len__(self) -> int:
        return len(self._plans)

    def __iter__(self) -> Iterator[Batch]:
        for plan in self._plans:
            yield self._dataset[plan][2]


def valid_batches(cuts: CutSet, tokenizer: Tokenizer, config: DataConfig) -> ValidBatches:
    """The usable cuts in batches of at most `config.max_duration` seconds, padding included.

    Utterances of similar length share a batch; the batches come in a fixed shuffled order, so that the
    first few of them are a fair sample.
    """
    return ValidBatches(cuts, tokenizer, config)


def _groups(cuts: CutSet, max_duration: float) -> list[CutSet]:
    groups: list[list[MonoCut]] = []
    for cut in sorted(cuts, key=lambda cut: (-cut.duration, cut.id)):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].duration <= max_duration:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    random.Random(0).shuffle(groups)
    return [CutSet.from_cuts(group) for group in groups]


def _sampler(
    cuts: CutSet, config: DataConfig, seed: int, rank: int, world_size: int
) -> DynamicBucketingSampler:
    num_buckets = min(config.num_buckets, len(cuts))
    longest = max(cut.duration for cut in cuts)
    with warnings.catch_warnings():
        # Lhotse would rather have lazy manifests; ours fit in memory.
        warnings.simplefilter("ignore", UserWarning)
        return DynamicBucketingSampler(
            cuts,
            max_duration=config.max_duration,
            num_buckets=num_buckets,
            # Lhotse cannot estimate the bounds of a single bucket: one bound above all durations is that.
            duration_bins=[longest] if num_buckets < 2 else None,
            shuffle=True,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )


def select_speeds(cuts: CutSet, speeds: list[float]) -> CutSet:
    """The cuts whose speed is asked for; a cut that does not say has speed 1."""
    found = {speed_of(cut) for cut in cuts}
    wanted = {float(speed) for speed in speeds}
    if not found & wanted:
        raise UserError(f"data.speed_perturbation: {sorted(wanted)}: the prepared cuts have {sorted(found)}")
    if wanted - found:
        log.info(
            "no copies at speed %s: prepare them with `kdasr prepare --speed`",
            ", ".join(f"{speed:g}" for speed in sorted(wanted - found)),
        )
    return cuts if found <= wanted else CutSet.from_cuts(cut for cut in cuts if speed_of(cut) in wanted)


def speed_of(cut: MonoCut) -> float:
    """The speed factor that `kdasr prepare` noted on the cut."""
    return float((cut.custom or {}).get("speed", 1.0))


def _on_the_fly(noise: NoiseMixer | None) -> OnTheFlyFeatures:
    # One by one: Lhotse's batched extraction reflects the padding into the last frames.
    return OnTheFlyFeatures(
        feature_extractor(), wave_transforms=[noise] if noise else None, use_batch_extract=False
    )


def _train_strategy(cuts: CutSet, config: DataConfig) -> tuple[BatchIO, NoiseMixer | None]:
    stored = all(cut.has_features for cut in cuts)
    if config.noise.musan_dir is not None:
        if not config.on_the_fly and stored:
            raise UserError("data.noise.musan_dir: noise is mixed into audio: set data.on_the_fly: true")
        noise = NoiseMixer(config.noise)
        return _on_the_fly(noise), noise
    if config.on_the_fly:
        return _on_the_fly(None), None
    if not stored:
        log.info("no stored features: computing them from the audio")
        return _on_the_fly(None), None
    return StoredFeatures(), None


def _identity(value: Any) -> Any:
    return value
