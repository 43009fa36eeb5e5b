"""A streaming server around sherpa-onnx's Python recognizer: the peer of `make bench-serve`.

The logic of the server that comes with sherpa-onnx's Python examples, written anew: an event loop takes the
clients' samples; a stream with a chunk goes into a queue; tasks collect a batch from it (at most so many
streams, at most so long), decode it in a thread, and wake up the streams' connections, each of which sends
`{"text": ..., "segment": ...}` and queues its stream again while there is more. At an endpoint the stream
is reset; after `Done` 0.3 s of zeros are appended.
"""

import argparse
import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import sherpa_onnx
import websockets

SAMPLE_RATE = 16000
TAIL = np.zeros(round(0.3 * SAMPLE_RATE), dtype=np.float32)


class Server:
    """Batches of one recognizer, and its connections."""

    def __init__(self, recognizer: Any, max_batch: int, max_wait: float) -> None:
        self._recognizer = recognizer
        self._max_batch, self._max_wait = max_batch, max_wait
        self._pool = ThreadPoolExecutor(1)
        self._waiting: asyncio.Queue[tuple[Any, asyncio.Future[None]]] = asyncio.Queue()

    async def decode_batches(self) -> None:
        """Take what waits, a batch at a time, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            if self._waiting.empty():
                await asyncio.sleep(self._max_wait)
            while len(batch) < self._max_batch and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            streams = [stream for stream, _ in batch]
            await loop.run_in_executor(self._pool, self._recognizer.decode_streams, streams)
            for _, decoded in batch:
                decoded.set_result(None)

    async def serve(self, socket: Any) -> None:
        """One connection, until the client has gone."""
        with suppress(websockets.ConnectionClosed):
            await self._listen(socket)

    async def _listen(self, socket: Any) -> None:
        """From its first samples to `Done`."""
        stream, segment = self._recognizer.create_stream(), 0
        async for message in socket:
            if message == "Done":
                break
            stream.accept_waveform(SAMPLE_RATE, np.frombuffer(message, dtype=np.float32))
            segment = await self._advance(socket, stream, segment)
        stream.accept_waveform(SAMPLE_RATE, TAIL)
        stream.input_finished()
        segment = await self._advance(socket, stream, segment)
        await self._send(socket, stream, segment)
        await socket.send("Done!")

    async def _advance(self, socket: Any, stream: Any, segment: int) -> int:
        while self._recognizer.is_ready(stream):
            decoded = asyncio.get_running_loop().create_future()
            await self._waiting.put((stream, decoded))
            await decoded
            await self._send(socket, stream, segment)
            if self._recognizer.is_endpoint(stream):
                self._recognizer.reset(stream)
                segment += 1
        return segment

    async def _send(self, socket: Any, stream: Any, segment: int) -> None:
        text = self._recognizer.get_result(stream)
        await socket.send(json.dumps({"text": text, "segment": segment}))


async def run(options: argparse.Namespace) -> None:
    graphs = {name: str(options.bundle / f"{name}.onnx") for name in ("encoder", "decoder", "joiner")}
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(options.bundle / "tokens.txt"),
        **graphs,
        num_threads=1,
        enable_endpoint_detection=True,
        rule3_min_utterance_length=1000.0,
    )
    server = Server(recognizer, options.max_batch, options.max_wait_ms / 1000)
    decoding = asyncio.create_task(server.decode_batches())
    async with websockets.serve(
        server.serve, "127.0.0.1", 0, compression=None, max_size=1 << 20
    ) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        print(f"http://127.0.0.1:{port}/", flush=True)
        await decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="exported student")
    parser.add_argument("--max-batch", type=int, default=50, help="streams decoded at a time")
    parser.add_argument("--max-wait-ms", type=float, default=10.0, help="for further streams of a batch")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
