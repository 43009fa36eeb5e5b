"""Hours of speech in one stream through `kdasr serve`: what the server keeps, and whether words are lost.

    python tools/hours_served.py exp/demo/two-stage/export --data data/demo --hours 2

The utterances of some parts, with pauses of quiet noise between them, are said again and again until the
recording is long enough. It is sent on `/v1` as fast as the server takes it. The server's memory (resident
set) is noted every few minutes of audio; the words, their times and their segments are compared with those of
`kdasr stream` on the same file.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
import soundfile
import websockets
from bench_serve import Server, kdasr_command
from benchmarking import require, run_tool

from kdasr.common.errors import UserError
from kdasr.common.files import write_json
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.folder import load_cuts
from kdasr.evaluation.joining import Pause, in_order

PACKET = SAMPLE_RATE
"""Samples of a message: a second."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.3, 3.0


def write_recording(path: Path, data: Path, parts: list[str], seconds: float) -> float:
    """Write speech of at least so many seconds as 16-bit samples; how many they are."""
    cuts = [cut for part in parts for cut in in_order(list(load_cuts(data, part)))]
    spoken = [np.asarray(cut.load_audio()[0], dtype=np.float32) for cut in cuts]
    if not spoken:
        raise UserError("--parts: give one or more")
    generator, written = np.random.default_rng(0), 0
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, "PCM_16") as file:
        for turn in count():
            for index, samples_N in enumerate(spoken):
                pause = Pause(float(generator.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)), "quiet")
                for part_N in (samples_N, pause.samples((turn, index))):
                    file.write(part_N)
                    written += len(part_N)
                if written >= seconds * SAMPLE_RATE:
                    return written / SAMPLE_RATE
    raise AssertionError


def packets(path: Path) -> Iterator[bytes]:
    """The recording as messages of int16 samples."""
    with soundfile.SoundFile(path) as file:
        for block in file.blocks(PACKET, dtype="int16"):
            yield block.tobytes()


async def stream(server: Server, path: Path, minutes: float) -> tuple[list[dict[str, Any]], list[Any]]:
    """Send a recording; the final results, and (seconds decoded, MiB) every few minutes of it."""
    finals: list[dict[str, Any]] = []
    memory: list[tuple[float, float]] = []
    # No pings: their answers come after all the audio that was sent before them.
    async with websockets.connect(f"{server.url}v1", compression=None, ping_interval=None) as socket:
        await socket.send(json.dumps({"type": "start", "sample_rate": SAMPLE_RATE, "format": "int16"}))

        async def receive() -> None:
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "final":
                    finals.append(message)
                if message["type"] in ("end", "error"):
                    return
                seconds = message.get("decoded", 0.0)
                if seconds >= 60 * minutes * len(memory):
                    memory.append((seconds, server.resident_mib))
                    print(f"  {seconds / 60:6.1f} min  {memory[-1][1]:7.1f} MiB", flush=True)

        receiver = asyncio.create_task(receive())
        for packet in packets(path):
            await socket.send(packet)
        await socket.send('{"type": "end"}')
        await receiver
    return finals, memory


def words_of(segments: list[dict[str, Any]]) -> list[list[tuple[str, float, float]]]:
    """Each segment's words, with their times to the millisecond."""
    return [
        [(word["word"], round(word["start"], 3), round(word["end"], 3)) for word in segment["words"]]
        for segment in segments
        if segment["words"]
    ]


@click.command()
@click.argument("exp", type=click.Path(path_type=Path), default=Path("exp/demo/two-stage/export"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("data/demo"), show_default=True)
@click.option("--parts", default="test-clean test-other", show_default=True)
@click.option("--hours", default=2.0, show_default=True)
@click.option("--every", default=10.0, show_default=True, help="Minutes of audio between two figures.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("exp/bench/hours.json"))
def main(exp: Path, data: Path, parts: str, hours: float, every: float, out: Path) -> None:
    """Print the server's memory along one long stream, and compare its words with those of `kdasr stream`."""
    require(exp, data)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hours.wav"
        seconds = write_recording(path, data, parts.split(), 3600 * hours)
        print(f"one stream of {seconds / 3600:.2f} h, {exp}", flush=True)
        with Server(kdasr_command(exp)) as server:
            began = time.monotonic()
            finals, memory = asyncio.run(stream(server, path, every))
            took, cpu = time.monotonic() - began, server.cpu_seconds
        command = [sys.executable, "-m", "kdasr", "stream", str(exp), str(path), "--endpoints", "--json"]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    served, streamed = words_of(finals), words_of([json.loads(line) for line in lines])
    result = {
        "hours": seconds / 3600,
        "times_real_time": seconds / took,
        "cpu_seconds": cpu,
        "memory_mib": memory,
        "segments": len(served),
        "words": sum(map(len, served)),
        "equal_to_kdasr_stream": served == streamed,
    }
    print(f"{seconds / took:.0f} times real time; {len(served)} segments, {result['words']} words")
    print(f"as `kdasr stream` on the same file, word for word with its times: {served == streamed}")
    write_json(out, result)
    if served != streamed:
        raise UserError("the server says something else than kdasr stream")


if __name__ == "__main__":
    run_tool(main)
