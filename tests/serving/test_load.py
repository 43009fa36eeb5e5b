"""Many clients, bad ones among them: nobody else's words change, and memory stays bounded."""

import logging
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving_helpers import (
    PATIENCE,
    RawClient,
    Served,
    as_sherpa,
    frame,
    of_sherpa,
    received,
    recognized,
    serving,
    sherpa_stream,
    wait_for,
)
from streaming_helpers import bursts, make_recognizer
from tone_spotter import WORDS, make_spotter, spoken
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.serving.limits import Pace

CONTEXT = Context(left=8, chunk=4)
CONNECTIONS, FRAMES = 100, 100
ONE_TERABYTE = b"\x82\xff" + struct.pack(">Q", 1 << 40) + bytes(4)
"""The head of a frame."""


def malformed(generator: np.random.Generator) -> bytes:
    """A frame that no client should send, of one of eight kinds."""
    kind = generator.integers(8)
    samples = generator.uniform(-1, 1, 40).astype("<f4")
    if kind < 3:
        samples[7] = (np.nan, np.inf, -np.inf)[kind]
        return frame(2, samples.tobytes())
    if kind == 3:
        return frame(2, samples.tobytes()[: generator.choice([1, 2, 3, 5, 159])])
    return (
        frame(1, generator.choice(["hello", "{", '{"type": "start"}', "\0"]).encode()),
        frame(2, b""),
        frame(2, bytes(5000)),
        frame(2, (3e4 * samples).tobytes()),
    )[kind - 4]


def resident_mib() -> float:
    """Memory of this process, the server included."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def test_ten_thousand_malformed_frames_disturb_nobody(caplog: pytest.LogCaptureFixture) -> None:
    recognizer = make_recognizer(CONTEXT, endpoints=EndpointRules())
    audio, generator = bursts(4.0, 7), np.random.default_rng(5)
    with serving(recognizer, max_message_bytes=4096) as served, served.connect() as neighbor:
        memory = resident_mib()
        for number, heard in enumerate(np.array_split(audio, CONNECTIONS)):
            neighbor.send(heard.tobytes())
            with RawClient(served.port, "/" if number % 3 else "/v1") as client:
                if number % 3 == 0:
                    client.send(frame(1, b'{"type": "start"}'))
                client.send(frame(2, bytes(640)) + b"".join(malformed(generator) for _ in range(FRAMES)))
                if number % 10 == 0:
                    client.send(ONE_TERABYTE)
                answer = client.read()
            assert b'"type":"error"' in answer or (number % 10 == 0 and b"exceeds limit" in answer)
        neighbor.send("Done")
        finals = [message for message in received(neighbor)[0] if message != "Done!" and message["is_final"]]
        assert of_sherpa(finals) == as_sherpa(recognized(recognizer, audio))
        wait_for(lambda: served.service.num_streams == 0)
        grown = resident_mib() - memory
        text = served.service.metrics.text(served.service.now())
    errors = sum(int(line.rsplit(" ", 1)[1]) for line in text.splitlines() if "_errors_total{" in line)
    assert 0.9 * CONNECTIONS <= errors <= CONNECTIONS
    assert grown < 60, f"{grown:.0f} MiB more"
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_twice_as_many_clients_as_places_all_get_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    places = 6
    recognizer = make_recognizer(CONTEXT, endpoints=EndpointRules())
    talks = [bursts(1.0 + 0.2 * seed, seed) for seed in range(2 * places)]
    most, tries = 0, [0] * len(talks)
    everybody = threading.Barrier(len(talks))

    def client(served: Served, number: int) -> list[Any]:
        nonlocal most
        everybody.wait(PATIENCE)
        while True:
            tries[number] += 1
            try:
                finals = sherpa_stream(served, talks[number], 1600)
                most = max(most, served.service.num_streams)
                return of_sherpa(finals)
            except InvalidStatus as refused:
                assert refused.response.status_code == 503
                time.sleep(0.1 * int(refused.response.headers["Retry-After"]))

    with (
        serving(recognizer, max_streams=places, retry_seconds=1) as served,
        ThreadPoolExecutor(len(talks)) as pool,
    ):
        found = list(pool.map(client, [served] * len(talks), range(len(talks))))
        p99 = served.service.metrics.latency_quantiles("model")[0.99]
        wait_for(lambda: served.service.num_streams == 0)
    assert found == [as_sherpa(recognized(recognizer, audio)) for audio in talks]
    assert sum(tries) > len(talks), "nobody was refused"
    assert most <= places
    with capsys.disabled():
        print(f"\n{2 * places} clients on {places} places: p99 chunk latency {p99:.3f} s", end=" ")


def test_client_that_never_reads_is_cut_off_and_costs_nobody() -> None:
    recognizer = make_spotter(CONTEXT)
    words = [seed % 4 for seed in range(40)]
    talk, audio = spoken(words, [4000] * len(words)), spoken([1, 3], [4000, 6000])
    with serving(recognizer, send_buffer=2048, send_seconds=0.5, max_queue_seconds=2.0) as served:
        with RawClient(served.port, "/", receive_buffer=2048) as client:
            client.raw.settimeout(PATIENCE)
            with suppress(ConnectionError):  # when it is cut off
                for start in range(0, 40 * len(talk), 1600):
                    at = start % len(talk)
                    client.send(frame(2, talk[at : at + 1600].tobytes()))
            assert sherpa_stream(served, audio)[-1]["text"] == f"{WORDS[1]} {WORDS[3]}"
            wait_for(lambda: served.service.num_streams == 0)
        text = served.service.metrics.text(served.service.now())
    assert 'kdasr_errors_total{code="slow_client"} 1' in text


def test_half_open_connection_is_found_by_a_ping() -> None:
    with (
        serving(make_spotter(CONTEXT), ping_seconds=0.2, pong_seconds=0.3) as served,
        RawClient(served.port, "/") as client,
    ):  # it answers no ping, as one whose network is gone
        client.send(frame(2, bytes(6400)))
        wait_for(lambda: served.service.num_streams == 1)
        wait_for(lambda: served.service.num_streams == 0)


def test_upload_to_a_busy_server_outlives_its_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a ping comes behind all audio that the client has sent before."""
    recognizer = make_spotter(CONTEXT)
    decode = recognizer.decode_streams

    def busy(streams: Any) -> None:
        time.sleep(0.05)
        decode(streams)

    monkeypatch.setattr(recognizer, "decode_streams", busy)
    words = [seed % 4 for seed in range(10)]
    talk = spoken(words, [4000] * len(words))
    with serving(recognizer, ping_seconds=0.1, pong_seconds=0.2, max_queue_seconds=1.0) as served:
        assert sherpa_stream(served, talk, 800)[-1]["text"] == " ".join(WORDS[word] for word in words)


def test_messages_without_audio_keep_no_stream_alive() -> None:
    with serving(make_spotter(CONTEXT), idle_seconds=0.5) as served, served.connect() as socket:
        messages: list[Any] = []
        reader = threading.Thread(target=lambda: messages.extend(received(socket)[0]))
        reader.start()
        deadline = time.monotonic() + PATIENCE
        with suppress(ConnectionClosed):
            while time.monotonic() < deadline:
                socket.send(b"")
                time.sleep(0.01)
        reader.join(PATIENCE)
    assert messages[-1] == "Done!"


def test_pace_lets_a_burst_through_and_then_its_rate() -> None:
    pace = Pace(10.0)
    assert [pace.delay(5.0) for _ in range(10)] == [0.0] * 10
    delays = [pace.delay(5.0) for _ in range(10)]
    assert delays == pytest.approx(np.arange(1, 11) / 10)
    assert pace.delay(100.0) == 0.0


def test_audio_of_a_flooding_client_is_read_at_its_pace() -> None:
    audio = spoken([1, 3], [4000, 6000])
    with serving(make_spotter(CONTEXT), max_messages_per_second=400.0) as served:
        started = time.monotonic()
        finals = sherpa_stream(served, audio, 25)
        took = time.monotonic() - started
    assert finals[-1]["text"] == f"{WORDS[1]} {WORDS[3]}"
    assert took > len(audio) / 25 / 400 - 1.1
