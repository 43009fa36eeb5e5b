"""`kdasr stream`: audio files as a recogniser hears them, chunk by chunk, with partial results."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.recognisable import int8_option, load_recognisable
from kdasr.cli.search_options import (
    build_recognizer,
    needs,
    parse_language_model,
    parse_search,
    search_options,
)
from kdasr.common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.live import Live

    from kdasr.data.signal_check import SignalReport
    from kdasr.streaming.recognizer import StreamingRecognizer
    from kdasr.streaming.result import Result

Show = Callable[[float, str], None]
"""Takes seconds of audio heard, and the words so far."""


@dataclass(frozen=True)
class _Feed:
    """How a file is fed, and how many hypotheses to list in the end."""

    packet_ms: int
    realtime: bool
    nbest: int


@dataclass(frozen=True)
class _Heard:
    """One file, recognised."""

    result: "Result"
    audio_seconds: float
    compute_seconds: float
    signal: "SignalReport"


@click.command(name="stream")
@click.argument("exp", type=click.Path(path_type=Path))
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, metavar="[FILE.wav...]")
@click.option(
    "--checkpoint", default="auto", show_default=True, help="averaged, best, last, a file, or auto."
)
@click.option(
    "--context", help="Encoder context instead of the trained one, such as left=32,chunk=8,right=0."
)
@int8_option
@search_options
@click.option(
    "--packet-ms", type=click.IntRange(min=1), default=100, show_default=True, help="Audio fed at a time."
)
@click.option("--mic", is_flag=True, help="Listen to the microphone until Ctrl-C, instead of files.")
@click.option("--device", help="Sound device of --mic: a number, or part of its name.")
@click.option("--realtime", is_flag=True, help="Feed at the speed of a microphone instead of at once.")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of one operator."
)
def command(
    exp: Path,
    files: tuple[Path, ...],
    checkpoint: str,
    context: str | None,
    int8: bool,
    tail_seconds: float | None,
    packet_ms: int,
    mic: bool,
    device: str | None,
    realtime: bool,
    threads: int,
    biasing: Path | None,
    nbest: int,
    lm: Path | None,
    lm_scale: float | None,
    rescore: bool,
    **search: Any,
) -> None:
    """Recognise audio files chunk by chunk, printing partial results as they appear.

    EXP is a system's folder, a checkpoint file, or a folder that `kdasr export` wrote (run by onnxruntime).
    Files may have any sample rate and number of channels (they are converted and mixed down). Several are
    recognised one after another, in the order given; all of them are checked first. On a terminal the
    partial result is rewritten in place; otherwise each change is a line with the audio time at which it
    appeared. Beam search may revise what it has printed.
    """
    from kdasr.cli.decode import parse_context
    from kdasr.streaming.audio import load_audio

    if bool(files) == mic:
        raise UserError("name files to recognise, or --mic for the microphone (not both)")
    if mic:
        needs("files instead of --mic", "packet_ms", "realtime")
    else:
        needs("--mic", "device")
    override = parse_context(context) if context else None
    lm_use = parse_language_model(lm, lm_scale, rescore)
    options = parse_search(language_model=lm_use, **search)
    for file in files:
        load_audio(file, warn=False)
    bundle = load_recognisable(exp, checkpoint, int8=int8, threads=threads)
    recognizer = build_recognizer(bundle, override, tail_seconds, options, biasing, lm_use)
    if mic:
        heard = _listen(recognizer, int(device) if device and device.isdecimal() else device, nbest)
        _report(heard, "microphone")
    for file in files:
        samples, rate = load_audio(file)
        click.echo(f"{file}  {len(samples) / rate:.2f} s")
        heard = _hear(recognizer, samples, rate, _Feed(packet_ms, realtime, nbest))
        _report(heard, str(file))


def _hear(
    recognizer: "StreamingRecognizer",
    samples: "NDArray[np.float32]",
    rate: int,
    feed: _Feed,
) -> _Heard:
    """Feed one recording packet by packet, showing what is recognised on the way."""
    stream = recognizer.create_stream()
    packet = max(1, rate * feed.packet_ms // 1000)
    compute, started = 0.0, time.perf_counter()
    with _Partial() as partial:
        for start in range(0, len(samples), packet):
            end = min(start + packet, len(samples))
            if feed.realtime:
                time.sleep(max(0.0, started + end / rate - time.perf_counter()))
            compute += _timed(lambda: stream.accept_waveform(rate, samples[start:end]))  # noqa: B023
            compute += _timed(lambda: recognizer.decode_all([stream]))
            partial.show(end / rate, recognizer.result(stream).text)
        compute += _timed(lambda: stream.input_finished(warn=False))
        compute += _timed(lambda: recognizer.decode_all([stream]))
        partial.show(len(samples) / rate, recognizer.result(stream).text)
    return _Heard(recognizer.result(stream, feed.nbest), len(samples) / rate, compute, stream.signal.report())


def _listen(recognizer: "StreamingRecognizer", device: str | int | None, nbest: int) -> _Heard:
    """Recognise what the microphone hears until the user interrupts."""
    from kdasr.streaming.microphone import microphone

    stream, compute = recognizer.create_stream(), 0.0
    packets = microphone(device)
    with _Partial() as partial:
        try:
            for rate, samples in packets:
                compute += _timed(lambda: stream.accept_waveform(rate, samples))  # noqa: B023
                compute += _timed(lambda: recognizer.decode_all([stream]))
                partial.show(stream.seconds, recognizer.result(stream).text)
        except KeyboardInterrupt:
            pass
        compute += _timed(lambda: stream.input_finished(warn=False))
        compute += _timed(lambda: recognizer.decode_all([stream]))
        partial.show(stream.seconds, recognizer.result(stream).text)
    return _Heard(recognizer.result(stream, nbest), stream.seconds, compute, stream.signal.report())


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _Partial:
    """The line that grows: in place on a terminal, one line per change elsewhere."""

    def __init__(self) -> None:
        self._last = ""
        self._live: Live | None = None

    def __enter__(self) -> "_Partial":
        if sys.stdout.isatty():
            from rich.live import Live

            self._live = Live(transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, seconds: float, text: str) -> None:
        """Show `text`, recognised after `seconds` of audio."""
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(f"{seconds:7.2f}  {text}"), refresh=True)
        elif text != self._last:
            click.echo(f"{seconds:7.2f}  {text}")
        self._last = text


def _report(heard: _Heard, source: str) -> None:
    tokens = heard.result.tokens
    first = f"first token at {tokens[0].shown:.2f} s of audio" if tokens else "nothing recognised"
    rtf = f", RTF {heard.compute_seconds / heard.audio_seconds:.3f}" if heard.audio_seconds else ""
    click.echo(f"  final  {heard.result.text}")
    for entry in heard.result.nbest:
        click.echo(f"{entry.score:9.3f}  {entry.text}")
    click.echo(f"         {first}{rtf}, speech at {heard.signal.level_dbfs:.0f} dBFS")
    for fault in heard.signal.faults.values():
        click.echo(f"{source}: {fault}", err=True)
