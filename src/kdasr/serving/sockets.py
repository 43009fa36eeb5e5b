"""The two WebSocket endpoints: from frames to a session's audio, and from its messages to frames."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.decoding.biasing import BiasingGraph, Phrase
from kdasr.decoding.search import GreedyOptions
from kdasr.serving.access import agreed_subprotocol
from kdasr.serving.admission import client_address, refusal
from kdasr.serving.lane import ServedModel
from kdasr.serving.limits import Pace
from kdasr.serving.messages import (
    INTERNAL,
    POLICY,
    UNSUPPORTED,
    MessageError,
    Replies,
    SherpaReplies,
    Start,
    V1Replies,
    decode_samples,
    parse_message,
    parse_start,
)
from kdasr.serving.service import Service
from kdasr.serving.session import Session

log = get_logger(__name__)

SHERPA_END = "Done"


class _Dialect(Protocol):
    """What the two protocols do differently."""

    async def begin(self) -> tuple[Start, Replies]: ...
    def is_end(self, text: str) -> bool: ...


class SherpaDialect:
    """sherpa-onnx's: no greeting, float32 samples, `Done`."""

    async def begin(self) -> tuple[Start, Replies]:
        """There is nothing to agree on."""
        return Start(), SherpaReplies()

    def is_end(self, text: str) -> bool:
        """
        Raises:
            MessageError: another text than `Done`.
        """
        if text.strip() != SHERPA_END:
            raise MessageError("bad_message", "expected binary samples, or the text Done", UNSUPPORTED)
        return True


class V1Dialect:
    """Ours: a start message, samples of its format, an end message."""

    def __init__(self, websocket: WebSocket, service: Service) -> None:
        self._websocket, self._service = websocket, service

    async def begin(self) -> tuple[Start, Replies]:
        """Wait for the start message.

        Raises:
            MessageError: there is none, or it is wrong.
            WebSocketDisconnect: the client has gone.
        """
        limits, models = self._service.limits, self._service.models
        try:
            async with asyncio.timeout(limits.start_seconds):
                message = await self._websocket.receive()
        except TimeoutError:
            raise MessageError("no_start", "no start message came", POLICY) from None
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if message.get("text") is None:
            raise MessageError("no_start", "samples before the start message")
        start = parse_start(parse_message(message["text"], limits), [model.name for model in models], limits)
        chosen = choose(models, start)
        return start, V1Replies(
            {
                "sample_rate": start.sample_rate,
                "format": start.sample_format,
                "models": [{"name": m.name, "chunk": m.chunk_seconds} for m in chosen],
                "idle_seconds": limits.idle_seconds,
                "max_message_bytes": limits.max_message_bytes,
            }
        )

    def is_end(self, text: str) -> bool:
        """
        Raises:
            MessageError: anything but an end message.
        """
        if text.strip() == SHERPA_END:
            return True
        message = parse_message(text, self._service.limits)
        if message["type"] != "end":
            raise MessageError(
                "bad_message", f"after the start, only 'end' is known, not {message['type'][:40]!r}"
            )
        return True


def choose(models: list[ServedModel], start: Start) -> list[ServedModel]:
    """The models that a client asks for; the first unless it names some."""
    return [model for model in models if model.name in start.models] if start.models else models[:1]


async def serve_sherpa(websocket: WebSocket) -> None:
    """The endpoint of `/`."""
    await _serve(websocket, lambda service: SherpaDialect(), SherpaReplies())


async def serve_v1(websocket: WebSocket) -> None:
    """The endpoint of `/v1`."""
    await _serve(websocket, lambda service: V1Dialect(websocket, service), V1Replies())


async def _serve(websocket: WebSocket, make: Callable[[Service], _Dialect], plain: Replies) -> None:
    service: Service = websocket.app.state.service
    refused = refusal(websocket, service)
    if refused is not None:
        await websocket.send_denial_response(refused)
        return
    with service.place(), service.access.addresses.stream(client_address(websocket)):
        await websocket.accept(agreed_subprotocol(websocket.scope["subprotocols"]))
        dialect = make(service)
        try:
            start, replies = await dialect.begin()
            models = choose(service.models, start)
            biasing = await asyncio.to_thread(_biasing, start.phrases, models)
        except WebSocketDisconnect:
            return
        except MessageError as error:
            service.metrics.add_error(error.code)
            await _say(websocket, plain.error(error.code, error.message), service)
            await _close(websocket, error.close, service)
            return
        session = Session(service.engine, service.limits, models, start.sample_rate, biasing)
        with service.listed(session):
            await _run(websocket, session, (dialect, start, replies), service)


def _biasing(phrases: tuple[Phrase, ...], models: list[ServedModel]) -> dict[str, BiasingGraph]:
    """The phrases as each model spells them.

    Raises:
        MessageError: they cannot be spelt, or the search has no alternatives.
    """
    if not phrases:
        return {}
    graphs = {}
    for model in models:
        if isinstance(model.recognizer.search.options, GreedyOptions):
            raise MessageError("bad_phrases", "biasing phrases need a server with --search beam")
        try:
            graphs[model.name] = BiasingGraph.from_phrases(phrases, model.recognizer.tokenizer)
        except UserError as error:
            raise MessageError("bad_phrases", str(error)) from None
    return graphs


async def _run(
    websocket: WebSocket, session: Session, agreed: tuple[_Dialect, Start, Replies], service: Service
) -> None:
    dialect, start, replies = agreed
    reader = asyncio.create_task(_read(websocket, session, dialect, start, service))
    writer = asyncio.create_task(_write(websocket, session, replies, service))
    try:
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (reader, writer):
            task.cancel()
        results = await asyncio.gather(reader, writer, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
            log.error("a connection failed", exc_info=result)
            service.metrics.add_error("internal")
            await _close(websocket, INTERNAL, service)


async def _read(
    websocket: WebSocket, session: Session, dialect: _Dialect, start: Start, service: Service
) -> None:
    """Take what the client sends until it has gone."""
    limits, last_audio = service.limits, time.monotonic()
    pace = Pace(limits.max_messages_per_second)
    while True:
        before_room = time.monotonic()
        await session.room()
        last_audio += time.monotonic() - before_room  # we did not listen
        idle_at = None if session.is_finished else last_audio + limits.idle_seconds
        try:
            async with asyncio.timeout(None if idle_at is None else idle_at - time.monotonic()):
                message: Any = await websocket.receive()
        except TimeoutError:
            session.finish("idle")
            continue
        if message["type"] == "websocket.disconnect":
            return
        await asyncio.sleep(pace.delay(time.monotonic()))
        if session.is_finished:
            continue
        if idle_at is not None and time.monotonic() > idle_at and not message.get("bytes"):
            session.finish("idle")  # messages without audio are no sign of life
            continue
        try:
            if message.get("text") is not None:
                if dialect.is_end(message["text"]):
                    session.finish()
            elif data := message.get("bytes"):
                session.push(decode_samples(data, start.sample_format, limits))
                last_audio = time.monotonic()
        except MessageError as error:
            session.refuse(error)


async def _write(websocket: WebSocket, session: Session, replies: Replies, service: Service) -> None:
    """Send what there is to be said, and close the connection after the last message."""
    greeting = replies.ready()
    if greeting is not None and not await _say(websocket, greeting, service):
        return
    async for text in session.messages(replies):
        if not await _say(websocket, text, service):
            return
    if session.closing.error is not None:
        service.metrics.add_error(session.closing.error)
    await _close(websocket, session.closing.code, service)


async def _say(websocket: WebSocket, text: str, service: Service) -> bool:
    """Whether the client took a message in time and is still there."""
    try:
        async with asyncio.timeout(service.limits.send_seconds):
            await websocket.send_text(text)
    except TimeoutError:
        service.metrics.add_error("slow_client")
        return False
    except (WebSocketDisconnect, RuntimeError):  # RuntimeError: sent after the connection was closed
        return False
    return True


async def _close(websocket: WebSocket, code: int, service: Service) -> None:
    try:
        async with asyncio.timeout(service.limits.send_seconds):
            await websocket.close(code)
    except (TimeoutError, WebSocketDisconnect, RuntimeError):
        pass
