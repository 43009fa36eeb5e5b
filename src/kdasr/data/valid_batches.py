"""Batches in a fixed order without augmentation, which several processes can share out among them."""

import random
from collections.abc import Container, Iterator
from copy import copy
from typing import Any, Self

import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from torch.utils.data import DataLoader

from kdasr.common.feature_frames import KALDI
from kdasr.common.signals import leave_group
from kdasr.data.bad import MaxBad
from kdasr.data.batch import Batch
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.data_config import DataConfig
from kdasr.data.loading import StoredFeatures, on_the_fly
from kdasr.data.reported import BadAudio, Reported, good_ones
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import NumFrames, every_frame, report_unusable


class ValidBatches:
    """The usable cuts in batches of at most `config.max_duration` seconds, padding included.

    Utterances of similar length share a batch; the batches come in a fixed shuffled order, so that the first
    few of them are a fair sample. They can be iterated again and again, and are made by
    `config.num_workers` worker processes.
    """

    def __init__(
        self,
        cuts: CutSet,
        tokenizer: Tokenizer,
        config: DataConfig,
        num_frames: NumFrames = every_frame,
        teacher_kind: str = KALDI,
    ) -> None:
        # The checkpoint is chosen by all of them, however long.
        cuts, _ = report_unusable(cuts, tokenizer, config, num_frames, for_training=False)
        stored = all(cut.has_features for cut in cuts)
        self._bad_audio = BadAudio(len(cuts), MaxBad.parse(config.max_bad))
        strategy = StoredFeatures() if stored else on_the_fly(None)
        self._dataset = Reported(BatchMaker(strategy, tokenizer, teacher_kind=teacher_kind))
        self._num_workers = config.num_workers
        self._left_out: Container[int] = ()
        self._plans = [
            BatchPlan(0, index, group) for index, group in enumerate(_groups(cuts, config.max_duration))
        ]

    def __len__(self) -> int:
        return len(self._plans)

    def first(self, count: int | None) -> Self:
        """The first so many of these batches; None: all."""
        few = copy(self)
        few._plans = self._plans[:count]
        return few

    def without(self, numbers: Container[int]) -> Self:
        """These batches without some; the others keep their numbers, and the processes that have them."""
        rest = copy(self)
        rest._left_out = numbers
        return rest

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.share(0, 1))

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, Batch]]:
        """Those of one of `world_size` processes, which alone are made, each with its number among all."""
        own = self._plans[rank::world_size]
        self._bad_audio.total = sum(len(plan.cuts) for plan in own)
        plans = [plan for plan in own if plan.number not in self._left_out]
        loader = DataLoader(
            self._dataset,
            sampler=plans,
            batch_size=None,
            num_workers=min(self._num_workers, len(plans)),
            collate_fn=_as_it_is,
            worker_init_fn=leave_group,
            # Its own generator: the default one would draw from the global random state at each start.
            generator=torch.Generator().manual_seed(0),
        )
        for _, number, batch in good_ones(iter(loader), self._bad_audio):
            yield number, batch


def valid_batches(
    cuts: CutSet,
    tokenizer: Tokenizer,
    config: DataConfig,
    num_frames: NumFrames = every_frame,
    teacher_kind: str = KALDI,
) -> ValidBatches:
    """See `ValidBatches`; `teacher_kind`: of the features that a teacher hears."""
    return ValidBatches(cuts, tokenizer, config, num_frames, teacher_kind)


def _groups(cuts: CutSet, max_duration: float) -> list[CutSet]:
    groups: list[list[MonoCut]] = []
    for cut in sorted(cuts, key=lambda cut: (-cut.duration, cut.id)):
        if groups and (len(groups[-1]) + 1) * groups[-1][0].duration <= max_duration:
            groups[-1].append(cut)
        else:
            groups.append([cut])
    random.Random(0).shuffle(groups)
    return [CutSet.from_cuts(group) for group in groups]


def _as_it_is(value: Any) -> Any:
    return value
