"""A server in a thread of the test's process, and clients of it."""

import json
import signal
import socket as sockets
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from kdasr.common.errors import UserError
from kdasr.recognition.audio import Samples
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.result import Result
from kdasr.serving.access import Access
from kdasr.serving.app import Example, build_app
from kdasr.serving.lane import ServedModel
from kdasr.serving.limits import Limits
from kdasr.serving.server import Address, listen, make_server
from kdasr.serving.service import Service

PATIENCE = 60.0
"""Seconds that a test waits for what must come; a loaded machine is slow, a broken server never answers."""


ANY_PORT = Address(port=0)


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    service: Service
    port: int
    stop: Any
    """Asks it to stop, as a signal would."""
    hurry: Any = None
    """Asks it to stop at once, as a second signal would."""
    has_stopped: Any = None
    """Waits until it has stopped; false: it does not, for so many seconds."""

    def connect(self, path: str = "/", **options: Any) -> AbstractContextManager[ClientConnection]:
        """A WebSocket to it, to be used as a context."""
        return connect(f"ws://127.0.0.1:{self.port}{path}", open_timeout=PATIENCE, max_size=None, **options)

    @contextmanager
    def start_v1(self, **start: Any) -> Iterator[ClientConnection]:
        """A stream on `/v1` whose start message was accepted."""
        with self.connect("/v1") as socket:
            socket.send(json.dumps({"type": "start", **start}))
            assert json.loads(socket.recv(PATIENCE))["type"] == "ready"
            yield socket


def _no_example() -> tuple[Samples, int]:
    raise UserError("no example in this test")


@contextmanager
def serving(
    models: StreamingRecognizer | dict[str, StreamingRecognizer],
    example: Example = _no_example,
    *,
    access: Access | None = None,
    address: Address = ANY_PORT,
    send_buffer: int | None = None,
    **limits: Any,
) -> Iterator[Served]:
    """Serve recognizers by name (one alone is `model`) on a free port.

    `send_buffer`: bytes that the system keeps of what a client has not read.
    """
    named = models if isinstance(models, dict) else {"model": models}
    service = Service([ServedModel(name, entry) for name, entry in named.items()], Limits(**limits), access)
    started = threading.Event()
    with listen(address) as listening:
        if send_buffer is not None:
            listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, send_buffer)
        port = listening.getsockname()[1]
        server = make_server(build_app(service, example), service, address, started.set)

        def stop() -> None:
            server.should_exit = True

        def hurry() -> None:
            server.handle_exit(signal.SIGTERM, None)

        def has_stopped(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            assert started.wait(PATIENCE)
            yield Served(service, port, stop, hurry, has_stopped)
        finally:
            stop()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server does not stop"


def wait_for(holds: Callable[[], bool]) -> None:
    """Wait until something holds that must come to hold."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, "it never came to hold"
        time.sleep(0.01)


def frame(opcode: int, payload: bytes) -> bytes:
    """A masked WebSocket frame; the mask is zero."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return bytes([0x80 | opcode]) + size + bytes(4) + payload


class RawClient(AbstractContextManager["RawClient"]):
    """A WebSocket of which nothing but the handshake is done by itself."""

    def __init__(self, port: int, path: str, receive_buffer: int | None = None) -> None:
        self.raw = sockets.socket()
        if receive_buffer is not None:
            self.raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive_buffer)
        self.raw.settimeout(PATIENCE)
        self.raw.connect(("127.0.0.1", port))
        self.raw.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += self.raw.recv(1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer

    def send(self, data: bytes) -> None:
        """Bytes of frames, whole or not."""
        self.raw.sendall(data)

    def read(self) -> bytes:
        """What messages hold, up to the close frame or, where the server does not wait for us, a reset."""
        found = b""
        with suppress(ConnectionError):
            while True:
                opcode, size = self._exactly(2)
                if size == 126:
                    (size,) = struct.unpack(">H", self._exactly(2))
                found += self._exactly(size)
                if opcode == 0x88:
                    break
        return found

    def _exactly(self, count: int) -> bytes:
        data = self.raw.recv(count, sockets.MSG_WAITALL)
        if len(data) < count:
            raise ConnectionError
        return data

    def __exit__(self, *_: object) -> None:
        self.raw.close()


def send(socket: ClientConnection, samples: NDArray[Any], packet: int = 1600) -> None:
    """Send samples a packet at a time."""
    for start in range(0, len(samples), packet):
        socket.send(samples[start : start + packet].tobytes())


def received(socket: ClientConnection) -> tuple[list[Any], int]:
    """What comes until the connection ends, JSON decoded where it is JSON, and the close code."""
    messages = []
    try:
        while True:
            text = socket.recv(PATIENCE)
            messages.append(text if text == "Done!" else json.loads(text))
    except ConnectionClosed as closed:
        return messages, closed.rcvd.code if closed.rcvd else 1006


def sherpa_stream(served: Served, samples: NDArray[np.float32], packet: int = 1600) -> list[dict[str, Any]]:
    """The final results of a stream on `/`, which must end as sherpa-onnx's server ends it."""
    with served.connect() as socket:
        send(socket, samples, packet)
        socket.send("Done")
        messages, code = received(socket)
    assert messages.pop() == "Done!"
    assert code == 1000
    assert [message["is_eof"] for message in messages] == [False] * (len(messages) - 1) + [True]
    return [message for message in messages if message["is_final"]]


def v1_stream(
    served: Served, samples: NDArray[Any], packet: int = 1600, **start: Any
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The final messages of a stream on `/v1`, and its end message."""
    with served.start_v1(**start) as socket:
        send(socket, samples, packet)
        socket.send('{"type": "end"}')
        messages, code = received(socket)
    assert code == 1000, messages
    return [message for message in messages if message["type"] == "final"], messages[-1]


def recognized(recognizer: StreamingRecognizer, samples: NDArray[Any], rate: int = 16000) -> list[Result]:
    """The segments that the recognizer itself hears, without a server."""
    stream = recognizer.create_stream()
    stream.accept_waveform(rate, samples)
    stream.input_finished()
    return [result for _, result in recognizer.decode_segments([stream])]


def as_sherpa(segments: Sequence[Result]) -> list[tuple[str, int, list[str], list[float], float]]:
    """Text, number, tokens, timestamps and start of segments, as a client on `/` should get them."""
    return [
        (
            result.text,
            result.segment,
            [piece.replace("\u2581", " ") for piece in result.pieces],
            [round(result.frame_seconds * token.frame - result.start, 4) for token in result.tokens],
            result.start,
        )
        for result in segments
    ]


def of_sherpa(finals: Sequence[dict[str, Any]]) -> list[tuple[str, int, list[str], list[float], float]]:
    """The same of what a client got; a segment without a word does not count."""
    keys = ("text", "segment", "tokens", "timestamps", "start_time")
    return [tuple(final[key] for key in keys) for final in finals if final["tokens"]]  # type: ignore[misc]
