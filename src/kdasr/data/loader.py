"""Batches for training and validation: planned from an index, made of cuts that are read when needed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, Self

import numpy as np
import torch
from lhotse import CutSet
from lhotse.cut import MixedCut, MonoCut
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import KALDI
from kdasr.common.logging import get_logger
from kdasr.common.signals import leave_group
from kdasr.data.bad import MaxBad
from kdasr.data.batch import MASKED, Batch
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.cut_table import (
    STORED,
    WORDS,
    Columns,
    CutReader,
    CutTable,
    MemoryTable,
    wanted_speeds,
)
from kdasr.data.data_config import DataConfig
from kdasr.data.epoch_plan import EpochPlanner, Item, Planned, Position
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts
from kdasr.data.join import JoinedCuts, check_join_config, rows_of, stand_in, with_cuts
from kdasr.data.loading import train_strategy
from kdasr.data.pace import Pace, pace_of
from kdasr.data.reported import BadAudio, Failure, Made, Reported, good_ones
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.train_share import rows_in_share
from kdasr.data.usable import (
    AT_ONCE,
    USABLE,
    NumFrames,
    Unusable,
    every_frame,
    judge,
    log_unusable,
    report_unusable,
)
from kdasr.data.valid_batches import ValidBatches, valid_batches

__all__ = ["TrainLoader", "Unusable", "ValidBatches", "load_cuts", "report_unusable", "valid_batches"]

# Shapes: N cuts of a table, U of them usable, P of a pool.

log = get_logger(__name__)


class TrainLoader:
    """An endless, shuffled, augmented stream of batches of similar durations.

    The batches of an epoch depend on the cuts, the configuration and `seed`, and not on the number of workers
    or of processes, or on global random states. All ranks see the same number of batches per epoch.
    """

    def __init__(
        self,
        cuts: CutSet | CutTable,
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        word_times: bool = False,
        num_frames: NumFrames = every_frame,
        teacher_features: str = MASKED,
        teacher_kind: str = KALDI,
        pin_memory: bool = False,
    ) -> None:
        """Report and leave out unusable cuts; keep the speed copies that the configuration asks for.

        `word_times`: batches say when the words of their pieces are spoken. `num_frames`: of the encoder that
        trains; an utterance with fewer frames than pieces is unusable. `teacher_features`: one of
        `TEACHER_FEATURES`, or `REMASKED`. `teacher_kind`: of the features that it hears. `pin_memory`:
        batches lie in page-locked memory, for a GPU.

        Raises:
            UserError: nothing left to train on, noise or channels without features on the fly, or no word
                times where they are asked for.
        """
        check_join_config(config.join)
        self._table = _as_table(cuts)
        self._rows_U = usable_rows(self._table, tokenizer, config, num_frames)
        flags_U = self._table.columns.flags_N[self._rows_U]
        if len(self._rows_U) == 0:
            raise UserError("no usable training utterances (see the warnings above)")
        if word_times and not (flags_U & WORDS).any():
            raise UserError(
                "the training utterances have no word times, which objective.rnnt.left_buffer and "
                "right_buffer need: prepare the data with alignments, or leave both out"
            )
        self._bad_audio = BadAudio(len(self._rows_U), MaxBad.parse(config.max_bad), endless=True)
        self._config, self._seed = config, seed
        self._rank, self._world_size = rank, world_size
        self._pin_memory = pin_memory
        self.planner = EpochPlanner(
            len(self._rows_U), seed, config.max_duration, config.num_buckets, self._items
        )
        self._position = Position(run=world_size)
        self._epoch = 0
        self._iterator: Iterator[tuple[Position, int, Batch]] | None = None
        strategy, transform = train_strategy(bool((flags_U & STORED).all()), config)
        maker = BatchMaker(
            strategy,
            tokenizer,
            transform=transform,
            config=config,
            seed=(seed,),
            word_times=word_times,
            teacher_features=teacher_features,
            teacher_kind=teacher_kind,
        )
        self._dataset = PlannedBatches(self._table.reader, Reported(maker))

    @property
    def position(self) -> Position:
        """Where the stream stands."""
        return self._position

    @property
    def epoch(self) -> int:
        """The epoch of the batch handed out last."""
        return self._epoch

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._start()
        self._position, self._epoch, batch = next(self._iterator)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain values, the same on all ranks."""
        place = self._position._asdict()
        return {**place, "world_size": self._world_size, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the batch that `state` was taken at, without making those before it again.

        With the same number of processes the batches that follow are the same bits. With another number
        too, shared among these: every utterance of the epoch still comes once. A state of an earlier
        version, which knew another order, goes on at the begin of its epoch.

        Raises:
            UserError: the state belongs to other data or other settings.
        """
        for key, value in self._identity().items():
            if state.get(key) != value:
                raise UserError(
                    f"cannot resume the data stream: {key} was {state.get(key)} and is {value} now"
                )
        if "pool" in state:
            self._position = Position(*(int(state[name]) for name in Position._fields))
        else:
            self._position = Position(epoch=int(state["epoch"]), run=self._world_size)
            log.warning(
                "the checkpoint is of an earlier version, which had another order of the utterances: epoch "
                "%d begins again",
                self._position.epoch,
            )
        before = state.get("world_size", self._world_size)
        if before != self._world_size and "pool" in state:
            log.info(
                "epoch %d goes on after the batches that %d process(es) have had: each utterance comes once",
                self._position.epoch,
                before,
            )
        self._epoch, self._iterator = self._position.epoch, None

    def _identity(self) -> dict[str, Any]:
        """Plain values that decide what the batches are."""
        return {
            "seed": self._seed,
            "num_cuts": len(self._rows_U),
            "max_duration": self._config.max_duration,
            "num_buckets": self._config.num_buckets,
        }

    def _start(self) -> Iterator[tuple[Position, int, Batch]]:
        workers = self._config.num_workers
        loader = DataLoader(
            self._dataset,
            sampler=_Steps(self),
            batch_size=None,
            num_workers=workers,
            collate_fn=_identity,
            # Its own generator: the default one would draw from the global random state at each start.
            generator=torch.Generator().manual_seed(self._seed),
            prefetch_factor=4 if workers else None,
            worker_init_fn=leave_group,
            pin_memory=self._pin_memory,
        )
        return good_ones(iter(loader), self._bad_audio)

    def pace(self) -> Pace:
        """Of these batches, as if one process had them all: the same on every rank."""
        first = (Step(group[0], after) for group, after in self.planner.steps(Position(), 1))
        epoch = takewhile(lambda step: step.after.epoch == 0, first)
        samples_U = self._table.columns.samples_N[self._rows_U]
        seconds = float(samples_U.sum(dtype=np.int64)) / SAMPLE_RATE
        return pace_of((self._dataset.plan(step).cuts for step in epoch), seconds)

    def steps(self) -> Iterator["Step"]:
        """What this process is to make after the current position, without an end."""
        for group, after in self.planner.steps(self._position, self._world_size):
            yield Step(group[self._rank], after)

    def plans(self) -> Iterator[BatchPlan]:
        """The same with the cuts themselves."""
        return map(self._dataset.plan, self.steps())

    def _items(
        self, places_P: NDArray[np.int32], seed: tuple[int, ...]
    ) -> tuple[Sequence[Item], NDArray[np.float64]]:
        """The utterances of a pool and their seconds; with `data.join` they are joined."""
        rows_P = self._rows_U[places_P]
        seconds_P = self._table.columns.samples_N[rows_P] / SAMPLE_RATE
        if not self._config.join.enabled:
            return rows_P.tolist(), seconds_P
        speakers = (hex(number) if number else None for number in self._table.columns.speakers_N[rows_P])
        cuts = map(stand_in, rows_P.tolist(), seconds_P.tolist(), speakers)
        joined = list(JoinedCuts(cuts, self._config.join, seed))
        return joined, np.array([cut.duration for cut in joined])


@dataclass(frozen=True)
class Step:
    """What a process is to make next, and where the stream stands then."""

    batch: Planned
    after: Position


class PlannedBatches(Dataset[Made | Failure]):
    """Reads the cuts of a plan and makes its batch. Runs in loader workers, which get nothing but plans."""

    def __init__(self, reader: CutReader, maker: Reported) -> None:
        self._reader, self._maker = reader, maker

    def plan(self, step: Step) -> BatchPlan:
        """A plan with the cuts that it is of.

        Raises:
            UserError: they cannot be read.
        """
        items = step.batch.items
        rows = [row for item in items for row in (rows_of(item) if isinstance(item, MixedCut) else [item])]
        cuts = iter(self._reader.read(rows))
        made: list[MonoCut | MixedCut] = []
        for item in items:
            if isinstance(item, MixedCut):
                made.append(with_cuts(item, [next(cuts) for _ in rows_of(item)]))
            else:
                made.append(next(cuts))
        return BatchPlan(step.after.epoch, step.batch.number, CutSet.from_cuts(made))

    def __getitem__(self, step: Step) -> Made | Failure:
        """The position after the batch, its epoch, and the batch itself."""
        try:
            plan = self.plan(step)
        except UserError as error:
            return Failure(str(error))
        made = self._maker[plan]
        if isinstance(made, Failure) or made.item is None:
            return made
        return replace(made, item=(step.after, step.after.epoch, made.item[2]))


class _Steps:
    """`TrainLoader.steps` as the iterable that a DataLoader wants for a sampler."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Step]:
        return self.loader.steps()


def _as_table(cuts: CutSet | CutTable) -> CutTable:
    return MemoryTable(cuts) if isinstance(cuts, CutSet) else cuts


def usable_rows(
    table: CutTable, tokenizer: Tokenizer, config: DataConfig, num_frames: NumFrames
) -> NDArray[np.int32]:
    """The rows of the cuts to train on, (U,); the others are logged.

    Raises:
        UserError: none has a speed that is asked for.
    """
    rows = rows_at_speeds(table.columns, config.speed_perturbation)
    rows = rows_in_share(table, rows, config.train_share)
    pieces = table.pieces(tokenizer)[rows]
    verdict = judge(table.columns.samples_N[rows], pieces, config, num_frames)
    log_unusable(
        verdict,
        pieces,
        config,
        tokenizer,
        lambda some: [cut.id for cut in table.reader.read(rows[list(some)].tolist())],
    )
    return rows[verdict == USABLE]


def rows_at_speeds(columns: Columns, speeds: list[float]) -> NDArray[np.int32]:
    """The rows whose speed is asked for, (U,).

    Raises:
        UserError: none of them has.
    """
    starts = range(0, len(columns.speeds_N), AT_ONCE)
    some_speeds = [columns.speeds_N[start : start + AT_ONCE] for start in starts]
    there = {speed / 1000 for some in some_speeds for speed in np.unique(some).tolist()}
    chosen = np.array([round(1000 * speed) for speed in wanted_speeds(there, speeds)], np.uint16)
    found = [
        (start + np.flatnonzero(np.isin(some, chosen))).astype(np.int32)
        for start, some in zip(starts, some_speeds, strict=True)
    ]
    return np.concatenate(found) if found else np.zeros(0, np.int32)


def _identity(value: Any) -> Any:
    return value
