"""What all connections share: the models, the engine, the places for streams, and who may come."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from kdasr.serving.access import Access
from kdasr.serving.engine import Engine
from kdasr.serving.lane import ServedModel
from kdasr.serving.limits import Limits
from kdasr.serving.metrics import Metrics, Now
from kdasr.serving.session import Session


class Service:
    """The server without its sockets."""

    def __init__(self, models: Sequence[ServedModel], limits: Limits, access: Access | None = None) -> None:
        self.models = list(models)
        self.limits = limits
        self.access = access or Access()
        self.metrics = Metrics([model.name for model in models])
        self.engine = Engine(models, limits, self.metrics)
        self.is_draining = False
        self._places = 0
        self._sessions: set[Session] = set()

    @property
    def num_streams(self) -> int:
        """Places that are taken."""
        return self._places

    @property
    def is_full(self) -> bool:
        """Whether the next client has to wait."""
        return self._places >= self.limits.max_streams

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place for one stream."""
        self._places += 1
        self.metrics.add_stream()
        try:
            yield
        finally:
            self._places -= 1

    @contextmanager
    def listed(self, session: Session) -> Iterator[None]:
        """A session that `drain` finishes."""
        self._sessions.add(session)
        if self.is_draining:
            session.finish("shutdown")
        try:
            yield
        finally:
            self._sessions.discard(session)
            session.close()

    async def drain(self, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Take no new stream, finish those that there are, and wait until their last words are sent.

        `is_urgent`: asked again and again; true: wait no longer.
        """
        self.is_draining = True
        for session in list(self._sessions):
            session.finish("shutdown")
        deadline = time.monotonic() + self.limits.drain_seconds
        while self._sessions and time.monotonic() < deadline and not is_urgent():
            await asyncio.sleep(0.02)

    def now(self) -> Now:
        """What is going on."""
        waiting = sum(session.queue_seconds for session in self._sessions)
        return Now(self._places, self.limits.max_streams, waiting)
