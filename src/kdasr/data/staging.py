"""How a part is computed: by worker processes, in a folder that appears when it is complete."""

import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import torch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Staged:
    """A folder that is filled under another name; `publish` moves it to its own, replacing a predecessor."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.partial = target.with_name(f".{target.name}.partial")

    def __enter__(self) -> "Staged":
        """Remove what an interrupted run left."""
        shutil.rmtree(self.partial, ignore_errors=True)
        return self

    def publish(self) -> None:
        """Replace `target`; it vanishes when nothing was written."""
        shutil.rmtree(self.target, ignore_errors=True)
        if self.partial.is_dir():
            self.partial.replace(self.target)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)


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
            context.set_forkserver_preload(["kdasr.data.features"])
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=context, initializer=_begin_worker)
        return self._pool.map(function, items)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
