"""uvicorn's connections, with an end to those that say nothing or take nothing."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

REQUEST_SECONDS = 10.0
"""From the connection, or the end of its last response, to a complete request."""
LINGER_SECONDS = 5.0
"""From the end of a WebSocket to the end of its connection, whatever the client has not taken yet."""


class HttpConnection(H11Protocol):
    """Closed when its request does not come."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        before = self.scope
        super().data_received(data)
        if self.scope is not before:
            self._cancel_deadline()

    def on_response_complete(self) -> None:
        """Wait for another request on the same connection, unless it has come already."""
        before = self.scope
        super().on_response_complete()
        if self.scope is before:
            self._set_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _set_deadline(self) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Ended with its stream, even if the client takes nothing any more."""

    _heard_at = 0.0

    def data_received(self, data: bytes) -> None:
        self._heard_at = self.loop.time()
        super().data_received(data)

    def keepalive_timeout(self) -> None:
        """Close the connection of a client that has gone.

        One that has sent something since the ping has not, and neither has one that we do not read from at
        the moment: the answer to a ping comes after all the audio that it had sent before, minutes of it in
        the buffers of the network when the server is busy.
        """
        if self.read_paused or self._heard_at > self.ping_sent_at:
            self.pong_timer = self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()

    def send_receive_event_to_app(self) -> None:
        """Pass a message on; a text that is no UTF-8 ends the connection, and is no error of the server's."""
        try:
            if self.curr_msg_data_type == "text":
                b"".join(self.frames).decode()
        except UnicodeDecodeError:
            self.frames = []
            self.conn.fail(1007, "no UTF-8")
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # Refused by a response of HTTP: an answer, which uvicorn would log as a missing handshake.
            self.handshake_complete = True

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
