"""Listening, and stopping cleanly: what was said before a request to stop is still recognized and sent."""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from kdasr.common.errors import UserError
from kdasr.serving.connections import HttpConnection, WebSocketConnection
from kdasr.serving.service import Service

_RECEIVE_BUFFER = 1 << 18
"""Bytes of a client that the system keeps while we do not read: 4 s of float32 audio. The answer to a ping,
too, comes after all that the client has sent before."""


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str = "127.0.0.1"
    port: int = 6006
    """0: any that is free."""
    certificate: Path | None = None
    """PEM file with the certificate chain; with it, the server speaks TLS alone."""
    key: Path | None = None
    """PEM file with the private key, unless the certificate's file has it too."""

    @property
    def is_local(self) -> bool:
        """Whether it can be reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def url(self, port: int) -> str:
        """For people, with the port that was given."""
        scheme = "http" if self.certificate is None else "https"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{port}/"


def listen(address: Address) -> socket.socket:
    """A socket that listens there.

    Raises:
        UserError: no such address, or the port is taken.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, place = found[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {address.host}: {_reason(error)}") from None
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    try:
        listening.bind(place)
        listening.listen(1024)
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(f"{address.host}, port {address.port}: {_reason(error)}") from None
    return listening


def check_certificate(address: Address) -> None:
    """
    Raises:
        UserError: certificate or key that are none.
    """
    if address.certificate is None:
        return
    try:
        ssl.create_default_context().load_cert_chain(address.certificate, address.key)
    except ssl.SSLError as error:
        raise UserError(
            f"--certificate {address.certificate}: not a certificate with the private key of --key, or with "
            f"one in the same file, in PEM form ({error.reason or error})"
        ) from None
    except OSError as error:
        raise UserError(f"--certificate {address.certificate}: {_reason(error)}") from None


class DrainingServer(uvicorn.Server):
    """uvicorn's server; before it closes connections, their streams are finished."""

    def __init__(self, config: uvicorn.Config, service: Service, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_start = service, on_start

    async def main_loop(self) -> None:
        """Serve until somebody asks to stop, then until the streams have ended."""
        self._on_start()
        await super().main_loop()
        if not self.force_exit:
            await self._service.drain(lambda: self.force_exit)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the connections, and end the application in an orderly way even if nobody wants to wait."""
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves this out then, and shows the traceback of what it cancels
            await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal stops, the second does not wait. Neither is raised again afterwards."""
        self.force_exit = self.should_exit
        self.should_exit = True


def make_server(
    app: Starlette, service: Service, address: Address, on_start: Callable[[], None] = lambda: None
) -> DrainingServer:
    """The server of an application; `on_start` is called when it takes connections.

    Raises:
        UserError: certificate or key that are none.
    """
    limits = service.limits
    config = uvicorn.Config(
        app,
        http=HttpConnection,
        ws=WebSocketConnection,
        # What is too large, but not absurdly so, gets an error message before the close.
        ws_max_size=4 * limits.max_message_bytes,
        ws_ping_interval=limits.ping_seconds,
        ws_ping_timeout=limits.pong_seconds,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ssl_certfile=address.certificate,
        ssl_keyfile=address.key,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    check_certificate(address)
    config.load()
    return DrainingServer(config, service, on_start)


def serve(app: Starlette, service: Service, address: Address, on_start: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        app: from `build_app`.
        service: the same as the application's.
        address: where to listen.
        on_start: called with the server's URL when it takes connections.

    Raises:
        UserError: see `listen` and `make_server`.
    """
    with listen(address) as listening:
        url = address.url(listening.getsockname()[1])
        make_server(app, service, address, lambda: on_start(url)).run(sockets=[listening])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
