"""How a part is computed: by worker processes, in a folder that appears when it is complete."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch

from kdasr.common.errors import UserError
from kdasr.common.files import write_text

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Staged:
    """A folder that is filled under another name; `publish` moves it to its own, replacing a predecessor.

    With a key, what a run has left is kept until it is published, for other runs of the same key.
    """

    def __init__(self, target: Path, key: str | None = None) -> None:
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial")
        self.notes = target.with_name(f".{target.name}.notes")
        """A folder for what the next run has to know of what is there; it is never published."""
        self._key = key

    def __enter__(self) -> "Staged":
        """Remove what an interrupted run with another key left."""
        if self._key is None or not self.is_known():
            self._remove()
            if self._key is not None:
                write_text(self.notes / "key", self._key)
        return self

    def is_known(self) -> bool:
        """Whether a run of the same key has left something, or is at work."""
        file = self.notes / "key"
        return file.is_file() and file.read_text(encoding="utf-8") == self._key

    def publish(self) -> None:
        """Replace `target`; it vanishes when nothing was written."""
        shutil.rmtree(self.target, ignore_errors=True)
        if self.partial.is_dir():
            self.partial.replace(self.target)
        self._remove()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._key is None:
            self._remove()

    def _remove(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        shutil.rmtree(self.notes, ignore_errors=True)


class Workers:
    """A process pool that starts at the first task worth it, and is shared by all parts."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def map(self, function: Callable[[ItemT], ResultT], items: Sequence[ItemT]) -> Iterator[ResultT]:
        """Results in the order of `items`; in this process with one job or one item."""
        if self.jobs == 1 or len(items) == 1:
            return map(function, items)
        if self._pool is None:
            # A fork server has no threads that a fork could cut off, and imports torch once for all workers.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["kdasr.data.part_features"])
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_begin_worker)
        return self._results(self._pool.map(function, items))

    @staticmethod
    def _results(results: Iterator[ResultT]) -> Iterator[ResultT]:
        try:
            yield from results
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out: take fewer --jobs. What is "
                "done is kept: the same command goes on from there"
            ) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
