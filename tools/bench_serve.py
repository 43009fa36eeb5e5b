"""What the server costs beside the recognizer in it: `make bench-serve`.

The same speech through `kdasr serve` (a process of its own, its clients in this one) and through the
recognizer alone, both with so many streams at a time, greedy search, one thread. Counted is CPU time, which
other work on the machine disturbs little: seconds of audio per second of CPU are the streams that one core
serves when it does nothing else. A second part sends speech at the speed of speech, and reads the chunks'
latency from `/metrics`.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import torch
import websockets
from benchmarking import load_speech, print_rows
from numpy.typing import NDArray

from kdasr.cli.recognizable import load_recognizable
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer

PACKET = SAMPLE_RATE // 10
_TICKS = os.sysconf("SC_CLK_TCK")


def in_process(exp: Path, waves: list[NDArray[np.float32]]) -> tuple[float, list[str]]:
    """CPU seconds of the recognizer alone, and the last segment's text of each stream."""
    bundle = load_recognizable(exp, "auto", int8=False, threads=1)
    recognizer = StreamingRecognizer(bundle, endpoints=EndpointRules())
    streams = [recognizer.create_stream() for _ in waves]
    last = [""] * len(waves)
    started = time.process_time()
    for begin in range(0, max(map(len, waves)), PACKET):
        for stream, wave in zip(streams, waves, strict=True):
            stream.accept_waveform(SAMPLE_RATE, wave[begin : begin + PACKET])
        _note(recognizer, streams, last)
    for stream in streams:
        stream.input_finished(warn=False)
    _note(recognizer, streams, last)
    return time.process_time() - started, last


def _note(recognizer: StreamingRecognizer, streams: list[Any], last: list[str]) -> None:
    for stream, result in recognizer.decode_segments(streams):
        last[streams.index(stream)] = result.text


class Server:
    """`kdasr serve` in a process of its own."""

    def __init__(self, exp: Path, max_streams: int) -> None:
        command = [sys.executable, "-m", "kdasr", "serve", str(exp), "--port", "0"]
        self._process = subprocess.Popen(
            [*command, "--max-streams", str(max_streams), "--max-batch", str(max_streams)],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if found is None:
            raise SystemExit(f"bench_serve.py: the server does not start: {line}")
        self.url = found[0]

    @property
    def cpu_seconds(self) -> float:
        """What the process has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def metric(self, pattern: str) -> float:
        """A number from `/metrics`."""
        with urllib.request.urlopen(f"{self.url}metrics") as response:
            found = re.search(rf"{pattern} (\S+)", response.read().decode())
        return float(found[1]) if found else float("nan")

    def stop(self) -> None:
        """End it as a user would."""
        self._process.terminate()
        self._process.wait()


async def _client(url: str, wave: NDArray[np.float32], delay: float | None) -> str:
    """Send speech (at its speed, from `delay` seconds on, or at once); the last text that is not empty."""
    last = ""
    async with websockets.connect(url.replace("http", "ws"), compression=None) as socket:

        async def receive() -> None:
            nonlocal last
            async for message in socket:
                if message == "Done!":
                    return
                found = re.match(r'\{"text":"([^"]+)"', str(message))
                last = found[1] if found else last

        receiver = asyncio.create_task(receive())
        started = time.monotonic() + (delay or 0.0)
        for begin in range(0, len(wave), PACKET):
            if delay is not None:
                await asyncio.sleep(max(0.0, started + begin / SAMPLE_RATE - time.monotonic()))
            await socket.send(wave[begin : begin + PACKET].tobytes())
        await socket.send("Done")
        await receiver
    return last


async def _clients(url: str, waves: list[NDArray[np.float32]], paced: bool) -> list[str]:
    delays = [index / len(waves) if paced else None for index in range(len(waves))]
    return list(await asyncio.gather(*(_client(url, w, d) for w, d in zip(waves, delays, strict=True))))


def measure(exp: Path, waves: list[NDArray[np.float32]], live: int) -> dict[str, Any]:
    audio = sum(map(len, waves)) / SAMPLE_RATE
    server = Server(exp, max(len(waves), live))
    try:
        rows = []
        for _ in range(2):  # the first warms up
            before = server.cpu_seconds
            served = asyncio.run(_clients(server.url, waves, paced=False))
            used = server.cpu_seconds - before
            alone, expected = in_process(exp, waves)
            rows = [("recognizer alone", alone), ("server", used)]
        if served != expected:
            raise SystemExit("bench_serve.py: the server says something else than the recognizer")
        before = server.cpu_seconds
        asyncio.run(_clients(server.url, waves[:1] * live, paced=True))
        cores = (server.cpu_seconds - before) * SAMPLE_RATE / len(waves[0])
        latency = {
            q: server.metric(rf'kdasr_chunk_latency_seconds\{{.*quantile="{q}"\}}') for q in ("0.5", "0.99")
        }
    finally:
        server.stop()
    print(f"{len(waves)} streams at a time, {audio:.0f} s of speech in all")
    print_rows(
        [
            {
                "through": name,
                "cpu_s": seconds,
                "streams_per_core": audio / seconds,
                "to_alone": alone / seconds,
            }
            for name, seconds in rows
        ]
    )
    median, p99 = latency["0.5"], latency["0.99"]
    print(f"{live} live streams use {cores:.2f} cores; chunk latency p50 {median:.3f}, p99 {p99:.3f} s")
    return {
        "streams": len(waves),
        "streams_per_core": {name: audio / seconds for name, seconds in rows},
        "ratio_to_recognizer": alone / used,
        "live": {"streams": live, "cores": cores, "latency": latency},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--exp", type=Path, default=Path("exp/demo/two-stage/export"), help="system or export"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/demo"), help="prepared data, for its dev part"
    )
    parser.add_argument("--streams", type=int, default=64, help="streams at a time")
    parser.add_argument("--seconds", type=float, default=20.0, help="speech of each")
    parser.add_argument("--live", type=int, default=32, help="streams at the speed of speech")
    parser.add_argument("--out", type=Path, default=Path("exp/bench/serve.json"), help="JSON file to write")
    options = parser.parse_args()
    for folder in (options.exp, options.data):
        if not folder.is_dir():
            raise SystemExit(f"bench_serve.py: there is no {folder}; `make demo` makes one")
    torch.set_num_threads(1)
    speech = load_speech(options.data, 120.0)
    length = round(options.seconds * SAMPLE_RATE)
    starts = np.linspace(0, len(speech) - length, options.streams).astype(int)
    result = measure(options.exp, [speech[start : start + length] for start in starts], options.live)
    write_json(options.out, result)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
