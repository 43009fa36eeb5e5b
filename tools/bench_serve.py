"""What the server serves, and what it costs: `make bench-serve`.

First, how many live clients are held: speech at the speed of speech, a packet per chunk of the model,
through `kdasr serve` and through a server with the logic of sherpa-onnx's Python one (`sherpa_server.py`), on
the same bundle. Each server is bound to one core, the clients to the others. A client's latency is from
sending a packet to the reply that it makes possible; so many clients are held when 99 % of their replies come
within a chunk's length.

Second, what the server costs beside the recognizer in it: the same speech through `kdasr serve` and through
the recognizer alone, with so many streams at a time. Counted is CPU time, which other work on the machine
disturbs little.
"""

import argparse
import asyncio
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import websockets
from benchmarking import load_speech, print_rows, require, run_tool
from numpy.typing import NDArray

from kdasr.cli.recognizable import load_recognizable
from kdasr.common.errors import UserError
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.recognition.endpoint import EndpointRules
from kdasr.recognition.recognizer import StreamingRecognizer

PACKET = SAMPLE_RATE // 10
MOST = 2000
"""Clients at a time."""
_TICKS = os.sysconf("SC_CLK_TCK")
_CORES = sorted(os.sched_getaffinity(0))

Wave = NDArray[np.float32]


def kdasr_command(bundle: Path) -> list[str]:
    """Our server."""
    options = ["--port", "0", "--max-streams", str(MOST), "--max-batch", "64"]
    return [sys.executable, "-m", "kdasr", "serve", str(bundle), *options]


def sherpa_command(bundle: Path) -> list[str]:
    """Its peer."""
    return [sys.executable, str(Path(__file__).with_name("sherpa_server.py")), str(bundle)]


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
    """A server in a process of its own, on the first core."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        )
        os.sched_setaffinity(self._process.pid, _CORES[:1])
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        if found is None:
            raise UserError(f"the server does not start: {line.strip() or shlex.join(command)}")
        self.url = found[0].replace("http", "ws")

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        """End it as a user would."""
        self._process.terminate()
        self._process.wait()

    @property
    def cpu_seconds(self) -> float:
        """What the process has used so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident_mib(self) -> float:
        """Memory of the process."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _upload(url: str, wave: Wave) -> str:
    """Send speech at once; the last text that is not empty."""
    last = ""
    async with websockets.connect(url, compression=None) as socket:

        async def receive() -> None:
            nonlocal last
            async for message in socket:
                if message == "Done!":
                    return
                found = re.match(r'\{"text": ?"([^"]+)"', str(message))
                last = found[1] if found else last

        receiver = asyncio.create_task(receive())
        for begin in range(0, len(wave), PACKET):
            await socket.send(wave[begin : begin + PACKET].tobytes())
        await socket.send("Done")
        await receiver
    return last


async def _uploads(url: str, waves: list[Wave]) -> list[str]:
    return list(await asyncio.gather(*(_upload(url, wave) for wave in waves)))


async def _talk(url: str, wave: Wave, chunk: int, start: float) -> list[float]:
    """Speak from `start` on; the latency of each reply, infinite for those that have not come."""
    sent: list[float] = []
    latencies: list[float] = []
    async with websockets.connect(url, compression=None, open_timeout=60) as socket:

        async def receive() -> None:
            async for _ in socket:
                # A window is longer than a chunk: the second packet makes the first reply possible.
                if len(latencies) + 1 < len(sent):
                    latencies.append(time.monotonic() - sent[len(latencies) + 1])

        receiver = asyncio.create_task(receive())
        for number, begin in enumerate(range(0, len(wave) - chunk + 1, chunk)):
            await asyncio.sleep(max(0.0, start + number * chunk / SAMPLE_RATE - time.monotonic()))
            sent.append(time.monotonic())
            await socket.send(wave[begin : begin + chunk].tobytes())
        await asyncio.sleep(chunk / SAMPLE_RATE)
        receiver.cancel()
    return latencies + [float("inf")] * (len(sent) - 1 - len(latencies))


async def _talks(url: str, wave: Wave, chunk: int, count: int) -> list[list[float]]:
    start = time.monotonic() + 0.5 + 0.005 * count
    starts = [start + index / count * chunk / SAMPLE_RATE for index in range(count)]
    return list(await asyncio.gather(*(_talk(url, wave, chunk, at) for at in starts)))


def trial(server: Server, wave: Wave, chunk: int, count: int) -> dict[str, float]:
    """So many live clients at a time; latencies without the first quarter of each, which warms up."""
    before = server.cpu_seconds
    found = asyncio.run(_talks(server.url, wave, chunk, count))
    latencies = np.concatenate([each[len(each) // 4 :] for each in found])
    cores = (server.cpu_seconds - before) / (len(wave) / SAMPLE_RATE)
    p50, p99 = np.percentile(latencies, [50, 99], method="higher")
    return {"clients": count, "p50": float(p50), "p99": float(p99), "cores": cores}


class Search:
    """The most clients that a server holds, found by doubling, then by halving."""

    def __init__(self, server: Server, wave: Wave, chunk: int) -> None:
        self._server, self._wave, self._chunk = server, wave, chunk
        self.tried: list[dict[str, float]] = []
        self.held, self._too_many = 0, MOST + 1
        trial(server, wave, chunk, 8)  # warms up

    def step(self) -> None:
        """Try twice as many as were held, or between those that were held and those that were not."""
        count = max(1, min(max(16, 2 * self.held), (self.held + self._too_many) // 2))
        self.tried.append(trial(self._server, self._wave, self._chunk, count))
        if self.tried[-1]["p99"] < self._chunk / SAMPLE_RATE:
            self.held = count
        else:
            self._too_many = count

    @property
    def clients_per_core(self) -> float:
        """By CPU time, with as many clients as were held, or with the first number."""
        best = next((one for one in self.tried if one["clients"] == self.held), self.tried[0])
        return best["clients"] / best["cores"]


def compare_servers(bundle: Path, wave: Wave, trials: int) -> dict[str, Any]:
    """Live clients held by both servers, which take turns, so that both see the same machine."""
    recognizer = StreamingRecognizer(load_recognizable(bundle, "auto", int8=False, threads=1))
    chunk = round(recognizer.context.chunk * recognizer.geometry.frame_seconds * SAMPLE_RATE)
    if len(_CORES) > 1:
        os.sched_setaffinity(0, _CORES[1:])
    with Server(kdasr_command(bundle)) as ours, Server(sherpa_command(bundle)) as theirs:
        searches = {"kdasr": Search(ours, wave, chunk), "sherpa-onnx": Search(theirs, wave, chunk)}
        for _ in range(trials):
            for search in searches.values():
                search.step()
    os.sched_setaffinity(0, _CORES)
    print(f"live clients held at p99 latency under a chunk ({chunk / SAMPLE_RATE:g} s), one core")
    rows = [
        {"server": name, "held": search.held, "per_core_by_cpu": search.clients_per_core}
        for name, search in searches.items()
    ]
    print_rows(rows)
    return {
        "chunk_seconds": chunk / SAMPLE_RATE,
        "servers": rows,
        "trials": {name: search.tried for name, search in searches.items()},
    }


def cost(bundle: Path, waves: list[Wave]) -> dict[str, Any]:
    """CPU time of the server and of the recognizer alone."""
    audio, rows = sum(map(len, waves)) / SAMPLE_RATE, {}
    with Server(kdasr_command(bundle)) as server:
        for _ in range(2):  # the first warms up
            before = server.cpu_seconds
            served = asyncio.run(_uploads(server.url, waves))
            used = server.cpu_seconds - before
            alone, expected = in_process(bundle, waves)
            rows = {"recognizer alone": alone, "server": used}
        if served != expected:
            raise UserError("the server says something else than the recognizer")
    print(f"{len(waves)} streams at a time, {audio:.0f} s of speech in all")
    print_rows(
        [
            {
                "through": name,
                "cpu_s": used,
                "streams_per_core": audio / used,
                "to_alone": rows["recognizer alone"] / used,
            }
            for name, used in rows.items()
        ]
    )
    return {"streams": len(waves), "streams_per_core": {name: audio / used for name, used in rows.items()}}


def processor() -> str:
    """The processor's name, as the system tells it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--exp", type=Path, default=Path("exp/demo/two-stage/export"), help="exported student"
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data/demo"), help="prepared data, for its dev part"
    )
    parser.add_argument("--streams", type=int, default=64, help="streams at a time in the second part")
    parser.add_argument("--seconds", type=float, default=20.0, help="speech of each")
    parser.add_argument("--trials", type=int, default=10, help="numbers of live clients that are tried")
    parser.add_argument("--out", type=Path, default=Path("exp/bench/serve.json"), help="JSON file to write")
    options = parser.parse_args()
    require(options.exp, options.data)
    torch.set_num_threads(1)
    speech = load_speech(options.data, 120.0)
    length = round(options.seconds * SAMPLE_RATE)
    starts = np.linspace(0, len(speech) - length, options.streams).astype(int)
    result = {"processor": processor(), "cores": len(_CORES), "load_before": os.getloadavg()[0]}
    result |= {"live": compare_servers(options.exp, speech[:length], options.trials)}
    result |= {"cost": cost(options.exp, [speech[start : start + length] for start in starts])}
    write_json(options.out, result)
    print(f"written to {options.out}")


if __name__ == "__main__":
    run_tool(main)
