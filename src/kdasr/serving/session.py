"""One client's stream as the event loop sees it: what waits to be sent, and when to read no further.

Partial results replace each other while a client does not read them; final ones are kept, and while too many
of them wait, no more audio is read. So a slow client costs a bounded amount of memory and nobody's time.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kdasr.decoding.biasing import BiasingGraph
from kdasr.serving.engine import Ended, Engine, Event, ServedAudio, StreamFailure, Taken
from kdasr.serving.lane import ServedModel, Update
from kdasr.serving.limits import Limits
from kdasr.serving.messages import INTERNAL, INVALID, MessageError, Replies

_MOST_FINALS = 50


@dataclass(frozen=True)
class Closing:
    """How the connection ends."""

    code: int
    """Of the WebSocket."""
    error: str | None = None
    """The error's code; None: the stream came to its end."""


class Session:
    """A stream between its opening and its last message."""

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        models: Sequence[ServedModel],
        rate: int,
        biasing: Mapping[str, BiasingGraph],
    ) -> None:
        self._engine, self._limits = engine, limits
        self._audio = ServedAudio(list(models), rate, self._hear, dict(biasing))
        self._finals: deque[Update] = deque()
        self._latest: dict[str, Update] = {}
        self._over: Ended | MessageError | None = None
        self._news, self._taken = asyncio.Event(), asyncio.Event()
        self._reason = "end"
        self.is_finished = False
        """Whether no more audio is taken."""
        self.queue_seconds = 0.0
        """Audio that waits to be decoded."""
        self.closing = Closing(1000)
        engine.open(self._audio)

    def push(self, samples: Any) -> None:
        """Take samples of the client's rate and format."""
        if len(samples) and not self.is_finished:
            self.queue_seconds += len(samples) / self._audio.rate
            self._engine.push(self._audio, samples)

    def finish(self, reason: str = "end") -> None:
        """No more audio is taken; what there is will be decoded and sent. The first reason counts."""
        if not self.is_finished:
            self.is_finished, self._reason = True, reason
            self._engine.finish(self._audio)
            self._taken.set()

    def refuse(self, error: MessageError) -> None:
        """End the stream with an error, after the results that there are."""
        self.is_finished = True
        self._engine.close(self._audio)
        self._over = self._over or error
        self._news.set()
        self._taken.set()

    def close(self) -> None:
        """Drop whatever is left."""
        self.is_finished = True
        self.queue_seconds = 0.0
        self._engine.close(self._audio)

    async def room(self) -> None:
        """Wait until more audio may be taken."""
        while not self.is_finished and (
            self.queue_seconds > self._limits.max_queue_seconds or len(self._finals) > _MOST_FINALS
        ):
            self._taken.clear()
            await self._taken.wait()

    async def messages(self, replies: Replies) -> AsyncIterator[str]:
        """What the client is to be told, up to the last message; then `closing` says how it ends."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._finals:
                text = replies.update(self._finals.popleft())
                self._taken.set()
                if text is not None:
                    yield text
            latest, self._latest = self._latest, {}
            for update in latest.values():
                text = replies.update(update)
                if text is not None:
                    yield text
            if self._over is not None and not self._finals and not self._latest:
                yield self._last(replies, self._over)
                return

    def _last(self, replies: Replies, over: Ended | MessageError) -> str:
        if isinstance(over, Ended):
            return replies.end(self._reason, over.figures)
        self.closing = Closing(over.close, over.code)
        return replies.error(over.code, over.message)

    def _hear(self, event: Event) -> None:
        """An event of the engine."""
        if isinstance(event, Taken):
            self.queue_seconds = max(0.0, self.queue_seconds - event.seconds)
            self._taken.set()
            return
        if isinstance(event, Update):
            self._keep(event)
        elif isinstance(event, StreamFailure):
            self.is_finished = True
            close = INTERNAL if event.is_ours else INVALID
            self._over = self._over or MessageError(event.code, event.message, close)
            self._taken.set()
        else:
            self._over = self._over or event
        self._news.set()

    def _keep(self, update: Update) -> None:
        before = self._latest.pop(update.model, None)
        if before is not None and before.is_changed:
            update = replace(update, is_changed=True)
        if update.heard.is_final:
            self._finals.append(update)
        else:
            self._latest[update.model] = update
