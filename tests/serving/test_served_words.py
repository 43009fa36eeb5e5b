"""What a server says is what the recognizer says, whoever else is being served."""

import asyncio
import json
import os
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import websockets
from experiment_folder import run, write_experiment
from numpy.typing import NDArray
from serving_helpers import (
    PATIENCE,
    Served,
    as_sherpa,
    of_sherpa,
    received,
    recognized,
    send,
    serving,
    sherpa_stream,
    v1_stream,
)
from streaming_helpers import bursts, make_recognizer
from tone_spotter import WORDS, make_spotter, spoken

from kdasr.cli.serve import command as serve_command
from kdasr.cli.stream import command as stream_command
from kdasr.decoding.biasing import BiasingGraph, Phrase
from kdasr.decoding.search import BeamOptions
from kdasr.nn.context import Context
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.serving.server import Address, listen

CONTEXT = Context(left=8, chunk=4)
RULES = EndpointRules(rule2_min_trailing_silence=0.3, rule3_min_utterance_length=1.2)


def talk(seed: int, seconds: float = 2.5) -> NDArray[np.float32]:
    """Two stretches with silence between them."""
    pause = np.zeros(16000, dtype=np.float32)
    return np.concatenate([bursts(seconds, seed), pause, bursts(seconds / 2, seed + 50)])


@pytest.mark.parametrize("search", [None, BeamOptions(beam=3)], ids=["greedy", "beam"])
def test_served_equals_the_recognizer(search: BeamOptions | None) -> None:
    recognizer = make_recognizer(CONTEXT, search=search, endpoints=RULES)
    audio = talk(1)
    segments = recognized(recognizer, audio)
    assert len(segments) > 1
    assert any(segment.goes_on for segment in segments)
    with serving(recognizer) as served:
        for packet in (160, 1601, len(audio)):
            assert of_sherpa(sherpa_stream(served, audio, packet)) == as_sherpa(segments)
        finals, end = v1_stream(served, audio)
    assert [final["text"] for final in finals] == [segment.text for segment in segments]
    words = [word for final in finals for word in final["words"]]
    expected = [word for segment in segments for word in segment.words]
    shown = [segment.tokens[word.last_token].shown for segment in segments for word in segment.words]
    assert [(w["word"], w["start"], w["end"]) for w in words] == [(w.text, w.start, w.end) for w in expected]
    assert [w["confidence"] for w in words] == pytest.approx([w.confidence for w in expected], abs=1e-3)
    assert [w["shown"] for w in words] == pytest.approx(shown, abs=1e-3)
    assert all(word["latency"] >= 0 and word["final"] for word in words)
    assert end["reason"] == "end"
    assert end["models"][0]["audio"] == pytest.approx(len(audio) / 16000, abs=1e-3)


def test_served_equals_kdasr_stream(tmp_path: Path) -> None:
    folder, rate = write_experiment(tmp_path / "exp"), 22050
    samples = (32767 * bursts(4.0, 3, rate).clip(-1, 1)).astype(np.int16)
    soundfile.write(tmp_path / "talk.wav", samples, rate, subtype="PCM_16")
    output = run(stream_command, folder, tmp_path / "talk.wav", "--endpoints", "--json").output
    expected = [json.loads(line) for line in output.splitlines()]
    assert expected
    recognizer = StreamingRecognizer.load(folder, endpoints=EndpointRules())
    with serving(recognizer) as served:
        finals, _ = v1_stream(served, samples, 1000, sample_rate=rate, format="int16")
    assert [final["text"] for final in finals] == [line["text"] for line in expected]
    assert [final["segment"] for final in finals] == [line["segment"] for line in expected]
    keys = ("word", "start", "end", "confidence")
    assert [tuple(word[key] for key in keys) for final in finals for word in final["words"]] == [
        tuple(word[key] for key in keys) for line in expected for word in line["words"]
    ]


def test_phrases_bias_the_stream_that_sent_them(tmp_path: Path) -> None:
    folder, audio = write_experiment(tmp_path / "exp"), bursts(3.0, 5)
    recognizer = StreamingRecognizer.load(folder, search=BeamOptions(beam=3))
    graph = BiasingGraph.from_phrases([Phrase("SEVEN", 8.0), Phrase("TEN")], recognizer.tokenizer)
    stream = recognizer.create_stream(graph)
    stream.accept_waveform(16000, audio)
    stream.input_finished()
    recognizer.decode_all([stream])
    expected, plain = recognizer.result(stream).text, recognized(recognizer, audio)[0].text
    assert expected != plain
    with serving(recognizer) as served:
        finals, _ = v1_stream(served, audio, phrases=[{"text": "SEVEN", "boost": 8}, "TEN"])
        assert [final["text"] for final in finals] == [expected]
        assert [final["text"] for final in v1_stream(served, audio)[0]] == [plain]


def test_command_serves_until_sigterm_and_sends_the_last_words(tmp_path: Path) -> None:
    folder, audio = write_experiment(tmp_path / "exp"), bursts(1.5, 5)
    with listen(Address(port=0)) as free:
        port = free.getsockname()[1]

    def listens() -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def client() -> list[Any]:
        while not listens():
            time.sleep(0.05)
        with Served(None, port, None).start_v1() as stream:  # type: ignore[arg-type]
            send(stream, audio)
            while not json.loads(stream.recv(PATIENCE)).get("text"):
                pass
            os.kill(os.getpid(), signal.SIGTERM)
            return received(stream)[0]

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client)
        output = run(serve_command, folder, "--port", port).output
        messages = future.result(PATIENCE)
    assert f"student: http://127.0.0.1:{port}/ (this machine alone can connect)" in output
    recognizer = StreamingRecognizer.load(folder, endpoints=EndpointRules())
    heard = audio[: round(16000 * messages[-1]["models"][0]["audio"])]
    assert messages[-1]["reason"] == "shutdown"
    assert messages[-2]["type"] == "final"
    assert messages[-2]["text"] == recognized(recognizer, heard)[-1].text


def test_clients_at_once_equal_one_by_one() -> None:
    recognizer = make_recognizer(CONTEXT, endpoints=RULES)
    talks = [talk(seed, 0.8 + 0.3 * seed) for seed in range(8)]
    with serving(recognizer, max_batch=3) as served, ThreadPoolExecutor(len(talks)) as pool:
        packets = [400 * (1 + seed) for seed in range(len(talks))]
        found = list(pool.map(sherpa_stream, [served] * len(talks), talks, packets))
        rtf = served.service.metrics.text(served.service.now())
    assert [of_sherpa(finals) for finals in found] == [
        as_sherpa(recognized(recognizer, audio)) for audio in talks
    ]
    assert f"kdasr_streams_total {len(talks)}" in rtf


async def _sherpa_client(port: int, samples: NDArray[np.float32]) -> str:
    """The order of messages of sherpa-onnx's example client: samples while results come in, then `Done`."""
    last = ""
    async with websockets.connect(f"ws://127.0.0.1:{port}") as connection:

        async def receive() -> None:
            nonlocal last
            async for message in connection:
                if message == "Done!":
                    return
                last = str(message)

        receiver = asyncio.create_task(receive())
        for start in range(0, len(samples), 8000):
            await connection.send(samples[start : start + 8000].tobytes())
            await asyncio.sleep(0.001)
        await connection.send("Done")
        await receiver
    return last


def test_sherpas_client_gets_its_words() -> None:
    recognizer = make_spotter(CONTEXT)
    audio = spoken([2, 0, 1], [8000, 4000, 6000])
    with serving(recognizer) as served:
        last = json.loads(asyncio.run(_sherpa_client(served.port, audio)))
    assert last["text"] == " ".join([WORDS[2], WORDS[0], WORDS[1]])
    assert last["is_final"] and last["is_eof"] and last["segment"] == 0
    assert list(last) == [
        *("text", "tokens", "timestamps", "ys_probs", "lm_probs", "context_scores"),
        *("segment", "words", "num_trailing_blanks", "start_time", "is_final", "is_eof"),
    ]


def _words(finals: list[dict[str, object]], model: str) -> list[str]:
    return [str(final["text"]) for final in finals if final["model"] == model]


def test_offline_model_answers_at_the_endpoints_of_the_other() -> None:
    models = {
        "student": make_spotter(CONTEXT, endpoints=EndpointRules()),
        "teacher": make_spotter(Context.full()),
    }
    audio = np.concatenate([spoken([2, 0], [8000, 4000]), np.zeros(32000, np.float32), spoken([1], [8000])])
    with serving(models) as served:
        finals, end = v1_stream(served, audio, models=["student", "teacher"])
    assert _words(finals, "student") == [f"{WORDS[2]} {WORDS[0]}", WORDS[1]]
    assert _words(finals, "teacher") == _words(finals, "student")
    starts = {
        name: [word["start"] for final in finals if final["model"] == name for word in final["words"]]
        for name in models
    }
    assert starts["teacher"] == pytest.approx(starts["student"], abs=0.08)
    assert [final["segment"] for final in finals if final["model"] == "teacher"] == [0, 1]
    assert [figures["model"] for figures in end["models"]] == ["student", "teacher"]


def _silent(served: Served) -> None:
    assert [(f["text"], f["is_eof"]) for f in sherpa_stream(served, np.zeros(0, np.float32))] == [("", True)]


def test_stream_without_audio_ends_well() -> None:
    with serving({"a": make_spotter(CONTEXT), "b": make_spotter(Context.full())}) as served:
        _silent(served)
        finals, _ = v1_stream(served, np.zeros(100, np.float32), models=["a", "b"])
        assert finals == []
