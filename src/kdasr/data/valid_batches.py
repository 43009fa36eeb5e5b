"""Batches in a fixed order without augmentation, which several processes can share out among them."""

import random
from collections.abc import Container, Iterator
from copy import copy
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from lhotse import CutSet
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import KALDI
from kdasr.common.signals import leave_group
from kdasr.data.bad import MaxBad
from kdasr.data.batch import Batch
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.cut_table import STORED, CutReader, CutTable, MemoryTable
from kdasr.data.data_config import DataConfig
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.loading import StoredFeatures, on_the_fly
from kdasr.data.reported import BadAudio, Failure, Made, Reported, good_ones
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import USABLE, NumFrames, every_frame, judge, log_unusable

# Shapes: N cuts of a table, U of them usable.


class ValidBatches:
    """The usable cuts in batches of at most `config.max_duration` seconds, padding included.

    Utterances of similar length share a batch; the batches come in a fixed shuffled order, so that the first
    few of them are a fair sample. They can be iterated again and again, and are made by
    `config.num_workers` worker processes.
    """

    def __init__(
        self,
        cuts: CutSet | CutTable,
        tokenizer: Tokenizer,
        config: DataConfig,
        num_frames: NumFrames = every_frame,
        teacher_kind: str = KALDI,
    ) -> None:
        table = MemoryTable(cuts) if isinstance(cuts, CutSet) else cuts
        rows_U = _usable_rows(table, tokenizer, config, num_frames)
        stored = bool((table.columns.flags_N[rows_U] & STORED).all())
        self._bad_audio = BadAudio(len(rows_U), MaxBad.parse(config.max_bad))
        strategy = StoredFeatures() if stored else on_the_fly(None)
        maker = BatchMaker(strategy, tokenizer, teacher_kind=teacher_kind)
        self._dataset = RowBatches(table.reader, Reported(maker))
        self._num_workers = config.num_workers
        self._left_out: Container[int] = ()
        groups = _groups(table.columns.samples_N[rows_U], config.max_duration)
        self._plans = [_Plan(number, rows_U[group]) for number, group in enumerate(groups)]

    def __len__(self) -> int:
        return len(self._plans)

    @property
    def sizes(self) -> list[int]:
        """Utterances of each batch, whether they can be read or not."""
        return [len(plan.rows) for plan in self._plans]

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
        self._bad_audio.total = sum(len(plan.rows) for plan in own)
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


class _Plan(NamedTuple):
    """A batch that is still to be made."""

    number: int
    rows: NDArray[np.int32]


class RowBatches(Dataset[Made | Failure]):
    """Reads the cuts of a plan and makes its batch. Runs in loader workers."""

    def __init__(self, reader: CutReader, maker: Reported) -> None:
        self._reader, self._maker = reader, maker

    def __getitem__(self, plan: _Plan) -> Made | Failure:
        try:
            cuts = self._reader.read(plan.rows.tolist())
        except UserError as error:
            return Failure(str(error))
        return self._maker[BatchPlan(0, plan.number, CutSet.from_cuts(cuts))]


def valid_batches(
    cuts: CutSet | CutTable,
    tokenizer: Tokenizer,
    config: DataConfig,
    num_frames: NumFrames = every_frame,
    teacher_kind: str = KALDI,
) -> ValidBatches:
    """See `ValidBatches`; `teacher_kind`: of the features that a teacher hears."""
    return ValidBatches(cuts, tokenizer, config, num_frames, teacher_kind)


def _usable_rows(
    table: CutTable, tokenizer: Tokenizer, config: DataConfig, num_frames: NumFrames
) -> NDArray[np.int32]:
    # The checkpoint is chosen by all of them, however long.
    pieces_N = table.pieces(tokenizer)
    verdict_N = judge(table.columns.samples_N, pieces_N, config, num_frames, for_training=False)
    names = lambda rows: [cut.id for cut in table.reader.read(list(rows))]  # noqa: E731
    log_unusable(verdict_N, pieces_N, config, tokenizer, names)
    return np.flatnonzero(verdict_N == USABLE).astype(np.int32)


def _groups(samples_U: NDArray[np.int32], max_duration: float) -> list[list[int]]:
    """The places of the utterances of each batch."""
    groups: list[list[int]] = []
    longest = 0.0
    for place in np.argsort(-samples_U.astype(np.int64), kind="stable").tolist():
        if groups and (len(groups[-1]) + 1) * longest <= max_duration:
            groups[-1].append(place)
        else:
            longest = float(samples_U[place]) / SAMPLE_RATE
            groups.append([place])
    random.Random(0).shuffle(groups)
    return groups


def _as_it_is(value: Any) -> Any:
    return value
