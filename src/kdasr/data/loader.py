"""Batches for training and validation: Lhotse samples, this file makes it exactly resumable."""

import random
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from lhotse import CutSet
from lhotse.cut import MixedCut, MonoCut
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.bad import MaxBad
from kdasr.data.batch import MASKED, Batch
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.batch_stream import BatchStream
from kdasr.data.data_config import DataConfig
from kdasr.data.folder import load_cuts
from kdasr.data.join import JoinedCuts, check_join_config
from kdasr.data.loading import train_strategy
from kdasr.data.pace import Pace, pace_of
from kdasr.data.reported import BadAudio, Reported, good_ones
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import NumFrames, Unusable, every_frame, report_unusable
from kdasr.data.valid_batches import ValidBatches, valid_batches
from kdasr.data.word_times import aligned_words

__all__ = ["TrainLoader", "Unusable", "ValidBatches", "load_cuts", "report_unusable", "valid_batches"]

log = get_logger(__name__)

COPY = re.compile(r"_dup\d+$")
"""The end of the ids of Lhotse's copies."""


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
        num_frames: NumFrames = every_frame,
        teacher_features: str = MASKED,
        pin_memory: bool = False,
    ) -> None:
        """Report and leave out unusable cuts; keep the speed copies that the configuration asks for.

        `word_times`: batches say when the words of their pieces are spoken. `num_frames`: of the encoder that
        trains; an utterance with fewer frames than pieces is unusable. `teacher_features`: one of
        `TEACHER_FEATURES`. `pin_memory`: batches lie in page-locked memory, for a GPU.

        Raises:
            UserError: nothing left to train on, noise or channels without features on the fly, or no word
                times where they are asked for.
        """
        super().__init__()
        check_join_config(config.join)
        cuts = select_speeds(cuts, config.speed_perturbation)
        cuts, _ = report_unusable(cuts, tokenizer, config, num_frames)
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
        self._bad_audio = BadAudio(len(cuts), MaxBad.parse(config.max_bad))
        self._named_like_copies = {cut.id for cut in cuts if COPY.search(cut.id)}
        self._config = config
        self._seed, self._rank, self._world_size = seed, rank, world_size
        self._pin_memory = pin_memory
        strategy, transform = train_strategy(self._cuts, config)
        self._dataset = BatchMaker(
            strategy,
            tokenizer,
            transform=transform,
            config=config,
            seed=(seed, rank),
            word_times=word_times,
            teacher_features=teacher_features,
        )

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
            Reported(self._dataset),
            sampler=_Plans(self),
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            # Its own generator: the default one would draw from the global random state at each start.
            generator=torch.Generator().manual_seed(self._seed),
            prefetch_factor=4 if workers else None,
            pin_memory=self._pin_memory,
        )
        return good_ones(iter(loader), self._bad_audio)

    def plans(self) -> Iterator[BatchPlan]:
        """The endless sequence of batch contents after the current position."""
        epoch, last = self._position
        while True:
            for index, cuts in enumerate(self._sampler(epoch)):
                if index > last:
                    yield BatchPlan(epoch, index, CutSet.from_cuts(map(self._with_own_id, cuts)))
            epoch, last = epoch + 1, -1

    def _with_own_id(self, cut: MonoCut | MixedCut) -> MonoCut | MixedCut:
        """Without the suffix that Lhotse gives a cut which serves several processes at the end of an epoch:
        labels are found by ids."""
        if COPY.search(cut.id) is None or cut.id.rpartition("+")[2] in self._named_like_copies:
            return cut
        return cut.with_id(COPY.sub("", cut.id))

    def pace(self) -> Pace:
        """Of these batches, as if one process had them all: the same on every rank."""
        return pace_of(self._sampler(0, rank=0, world_size=1), sum(cut.duration for cut in self._cuts))

    def _sampler(
        self, epoch: int, *, rank: int | None = None, world_size: int | None = None
    ) -> DynamicBucketingSampler:
        """The batches of an epoch, of this rank or of another one; with `data.join`, of utterances that are
        joined anew."""
        rank = self._rank if rank is None else rank
        world_size = self._world_size if world_size is None else world_size
        config, shuffled = self._config, list(self._cuts)
        # All of them, not the window that a sampler keeps: parts, speakers and speeds lie one after another.
        random.Random(f"{self._seed}:{epoch}").shuffle(shuffled)
        cuts = CutSet.from_cuts(shuffled)
        if config.join.enabled:
            cuts = CutSet(JoinedCuts(shuffled, config.join, (self._seed, epoch)))
            # Lhotse wants at least a cut per bucket; of joined ones there are at least so many.
            fewest = max(1, len(shuffled) // config.join.max_utterances)
            config = replace(config, num_buckets=min(config.num_buckets, fewest))
        sampler = _sampler(cuts, config, self._seed, rank, world_size)
        sampler.set_epoch(epoch)
        return sampler


class _Plans:
    """`TrainLoader.plans` as the iterable that a DataLoader wants for a sampler."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[BatchPlan]:
        return self.loader.plans()


def _sampler(
    cuts: CutSet, config: DataConfig, seed: int, rank: int, world_size: int
) -> DynamicBucketingSampler:
    num_buckets = config.num_buckets if cuts.is_lazy else min(config.num_buckets, len(cuts))
    longest = max(cut.duration for cut in cuts) if num_buckets < 2 else 0.0
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


def _identity(value: Any) -> Any:
    return value
