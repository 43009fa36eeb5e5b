"""Whatever one client does, it is told why, and nobody else's words change."""

import contextlib
import json
import logging
import socket as sockets
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from serving_helpers import (
    PATIENCE,
    Served,
    as_sherpa,
    frame,
    of_sherpa,
    received,
    recognized,
    send,
    serving,
    sherpa_stream,
    v1_stream,
    wait_for,
)
from streaming_helpers import bursts, make_recognizer
from tone_spotter import WORDS, make_spotter, spoken
from websockets.exceptions import InvalidStatus

from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.serving import connections

CONTEXT = Context(left=8, chunk=4)
START = '{"type": "start"}'


def floats(*values: float) -> bytes:
    return np.array(values, dtype="<f4").tobytes()


BAD = {
    "text": ("/", ["hello"], "bad_message", 1003),
    "odd": ("/", [b"123"], "bad_length", 1007),
    "nan": ("/", [floats(0.0, float("nan"))], "bad_samples", 1007),
    "infinite": ("/", [floats(float("-inf"))], "bad_samples", 1007),
    "unscaled": ("/", [floats(*[12000.0] * 100)], "bad_samples", 1007),
    "large": ("/", [bytes(6000)], "too_large", 1009),
    "no start": ("/v1", [floats(0.0)], "no_start", 1007),
    "not JSON": ("/v1", ["{"], "bad_message", 1007),
    "deep JSON": ("/v1", ["[" * 3000], "bad_message", 1007),
    "no object": ("/v1", ["[1]"], "bad_message", 1007),
    "wrong type": ("/v1", ['{"type": "end"}'], "no_start", 1007),
    "unknown key": ("/v1", ['{"type": "start", "rate": 1}'], "bad_start", 1007),
    "text rate": ("/v1", ['{"type": "start", "sample_rate": "16k"}'], "bad_start", 1007),
    "rate": ("/v1", ['{"type": "start", "sample_rate": 1e999}'], "bad_start", 1007),
    "odd rate": ("/v1", ['{"type": "start", "sample_rate": 191999}'], "bad_start", 1007),
    "boolean rate": ("/v1", ['{"type": "start", "sample_rate": true}'], "bad_start", 1007),
    "format": ("/v1", ['{"type": "start", "format": ["int16"]}'], "bad_start", 1007),
    "model": ("/v1", ['{"type": "start", "models": ["other"]}'], "bad_start", 1007),
    "phrases": ("/v1", ['{"type": "start", "phrases": {}}'], "bad_phrases", 1007),
    "boost": ("/v1", ['{"type": "start", "phrases": [{"text": "A", "boost": -1}]}'], "bad_phrases", 1007),
    "surrogate": ("/v1", ['{"type": "start", "phrases": ["\\ud800"]}'], "bad_phrases", 1007),
    "greedy": ("/v1", ['{"type": "start", "phrases": ["A"]}'], "bad_phrases", 1007),
    "odd int16": ("/v1", ['{"type": "start", "format": "int16"}', b"123"], "bad_length", 1007),
    "second start": ("/v1", [START, START], "bad_message", 1007),
    "late NaN": ("/v1", [START, floats(*[0.1] * 900), floats(float("nan"))], "bad_samples", 1007),
}


@pytest.fixture(scope="module")
def served() -> Any:
    """One server for all that only one stream suffers from."""
    with serving(make_recognizer(CONTEXT, endpoints=EndpointRules()), max_message_bytes=4096) as server:
        yield server


@pytest.mark.parametrize("case", BAD)
def test_bad_message_ends_its_own_stream(case: str, served: Served, caplog: pytest.LogCaptureFixture) -> None:
    path, messages, error, close = BAD[case]
    neighbor = bursts(1.0, 7)
    with served.connect() as other, served.connect(path) as socket:
        send(other, neighbor[:8000], 800)
        for message in messages:
            socket.send(message)
        answers, code = received(socket)
        send(other, neighbor[8000:], 800)
        other.send("Done")
        finals = [m for m in received(other)[0] if m != "Done!" and m["is_final"]]
    assert answers[-1]["type"] == "error"
    assert (answers[-1]["code"], code) == (error, close)
    assert answers[-1]["message"] and "\n" not in answers[-1]["message"]
    if "rate" in case:
        given = repr(json.loads(messages[0])["sample_rate"])
        assert answers[-1]["message"].startswith(f"sample_rate {given}: expected 8,000 to 192,000 Hz")
    recognizer = served.service.models[0].recognizer
    assert of_sherpa(finals) == as_sherpa(recognized(recognizer, neighbor))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


RAW = {
    "huge": lambda raw: raw.sendall(b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4)),
    "no UTF-8": lambda raw: raw.sendall(frame(1, b"\xff\xfe")),
    "reserved bits": lambda raw: raw.sendall(b"\xf2\x80" + bytes(4)),
    "reset": lambda raw: raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0)),
}


@pytest.mark.parametrize("case", RAW)
def test_broken_connection_frees_its_place(
    case: str, served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    with served.connect() as socket:
        socket.send(bytes(4000))
        RAW[case](socket.socket)
        if case == "reset":
            socket.socket.close()
        else:
            received(socket)
        wait_for(lambda: served.service.num_streams == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"], ids=["first", "second"])
def test_connection_without_a_request_is_closed(before: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with (
        serving(make_spotter(CONTEXT)) as server,
        sockets.create_connection(("127.0.0.1", server.port), PATIENCE) as raw,
    ):
        raw.sendall(before)
        answer = b""
        while before and not answer.endswith(b"]}"):
            answer += raw.recv(4096)
        raw.sendall(b"GET / HTTP/1.1\r\nHost: a")
        with contextlib.suppress(ConnectionResetError):  # closed as well
            assert raw.recv(100) == b""


def test_stream_on_a_connection_with_an_earlier_request_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where both requests come at once."""
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.2)
    with (
        serving(make_spotter(CONTEXT)) as server,
        sockets.create_connection(("127.0.0.1", server.port), PATIENCE) as raw,
    ):
        handshake = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        raw.sendall(
            b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
            b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            + handshake
            + b"\r\n"
        )
        answers = b""
        while b"HTTP/1.1 101" not in answers:
            answers += raw.recv(4096)
        raw.settimeout(0.6)
        with pytest.raises(TimeoutError):
            raw.recv(100)


def test_beyond_max_streams_is_503_until_a_place_is_free(caplog: pytest.LogCaptureFixture) -> None:
    audio = spoken([1, 3], [4000, 6000])
    with serving(make_spotter(CONTEXT), max_streams=2, retry_seconds=7) as server:
        with server.connect() as first, server.connect("/v1"):
            for path in ("/", "/v1"):
                with pytest.raises(InvalidStatus) as refused, server.connect(path):
                    pass
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["Retry-After"] == "7"
                assert json.loads(refused.value.response.body)["code"] == "full"
            send(first, audio)
            first.send("Done")
            assert received(first)[0][-2]["text"] == f"{WORDS[1]} {WORDS[3]}"
        wait_for(lambda: server.service.num_streams == 0)
        assert sherpa_stream(server, audio)[-1]["text"] == f"{WORDS[1]} {WORDS[3]}"
        assert 'kdasr_refused_total{reason="full"} 2' in server.service.metrics.text(server.service.now())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_failing_stream_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recognizer = make_spotter(CONTEXT)
    decode = recognizer.decode_streams

    def failing(streams: Any) -> None:
        if any(stream.seconds > 3 for stream in streams):
            raise RuntimeError("a fault of the model")
        decode(streams)

    monkeypatch.setattr(recognizer, "decode_streams", failing)
    audio = spoken([1, 3], [4000, 6000])
    with serving(recognizer) as server, ThreadPoolExecutor(5) as pool:
        good = [pool.submit(sherpa_stream, server, audio, 800) for _ in range(4)]
        with server.connect() as socket:
            send(socket, np.zeros(64000, np.float32), 800)
            answers, code = received(socket)
        assert [future.result()[-1]["text"] for future in good] == [f"{WORDS[1]} {WORDS[3]}"] * 4
    assert (answers[-1]["code"], code) == ("internal", 1011)
    assert "fault of the model" not in answers[-1]["message"]


def test_idle_stream_is_finished_with_its_words() -> None:
    audio = spoken([1, 3], [4000, 6000])
    with serving(make_spotter(CONTEXT), idle_seconds=0.5) as server, server.start_v1() as socket:
        send(socket, audio)
        messages, code = received(socket)
    assert [m["text"] for m in messages if m["type"] == "final"] == [f"{WORDS[1]} {WORDS[3]}"]
    assert (messages[-1]["type"], messages[-1]["reason"], code) == ("end", "idle", 1000)


def test_stopping_server_finishes_its_streams_and_takes_no_new_ones() -> None:
    audio = np.concatenate([spoken([1, 3], [4000, 6000]), np.zeros(8000, np.float32)])
    with (
        serving(make_spotter(CONTEXT), drain_seconds=PATIENCE) as server,
        server.connect() as sherpa,
        server.start_v1() as ours,
    ):
        send(sherpa, audio)
        send(ours, audio)
        for socket in (sherpa, ours):
            while json.loads(socket.recv(PATIENCE)).get("text") != f"{WORDS[1]} {WORDS[3]}":
                pass
        server.service.is_draining = True
        with pytest.raises(InvalidStatus) as refused, server.connect():
            pass
        assert refused.value.response.status_code == 503
        server.stop()
        theirs, code = received(sherpa)
        messages, _ = received(ours)
    assert (theirs[-1], theirs[-2]["text"], code) == ("Done!", f"{WORDS[1]} {WORDS[3]}", 1000)
    assert messages[-1]["reason"] == "shutdown"
    assert [m["text"] for m in messages if m["type"] == "final"] == [f"{WORDS[1]} {WORDS[3]}"]


def test_second_signal_does_not_wait_for_streams(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recognizer = make_spotter(CONTEXT)
    decode = recognizer.decode_streams
    monkeypatch.setattr(recognizer, "decode_streams", lambda streams: (time.sleep(0.2), decode(streams)))
    with serving(recognizer, drain_seconds=60.0) as served, served.connect() as socket:
        socket.send(np.zeros(8 * 16000, np.float32).tobytes())
        wait_for(lambda: served.service.now().queue_seconds > 0)
        served.stop()
        wait_for(lambda: served.service.is_draining)
        served.hurry()
        assert served.has_stopped(5.0)
    assert "Traceback" not in caplog.text


def test_audio_that_comes_too_fast_waits_at_the_client() -> None:
    recognizer = make_recognizer(CONTEXT, endpoints=EndpointRules())
    audio = np.tile(bursts(2.0, 7), 4)
    most = 0.0
    with serving(recognizer, max_queue_seconds=1.0) as server:
        add = server.service.metrics.add_chunk

        def watched(update: Any) -> None:
            nonlocal most
            most = max(most, server.service.now().queue_seconds)
            add(update)

        server.service.metrics.add_chunk = watched  # type: ignore[method-assign]
        assert of_sherpa(sherpa_stream(server, audio, 4000)) == as_sherpa(recognized(recognizer, audio))
    assert 0 < most <= 1.0 + 0.25 + 0.5


def test_client_that_reads_nothing_costs_one_partial_result() -> None:
    import asyncio

    from kdasr.serving.engine import Ended
    from kdasr.serving.limits import Limits
    from kdasr.serving.messages import V1Replies
    from kdasr.serving.session import Session

    class Engine:
        open = push = finish = close = staticmethod(lambda *_: None)

    updates: list[Any] = []
    with serving(make_spotter(CONTEXT)) as server:
        server.service.metrics.add_chunk = updates.append  # type: ignore[method-assign]
        v1_stream(server, spoken([1, 3], [4000, 6000]))

    async def run() -> list[str]:
        session = Session(Engine(), Limits(), server.service.models, 16000, {})  # type: ignore[arg-type]
        for update in updates[:-1] * 100:
            session._hear(replace(update, heard=replace(update.heard, is_final=False)))
        session._hear(replace(updates[-1], heard=replace(updates[-1].heard, is_final=True)))
        session._hear(Ended([]))
        return [json.loads(text)["type"] async for text in session.messages(V1Replies())]

    assert len(updates) > 3
    assert asyncio.run(run()) == ["final", "end"]
