"""`kdasr stream`: audio files as a recognizer hears them, chunk by chunk, with partial results."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.contexts import parse_context, warn_of_untrained
from kdasr.cli.endpoint_options import endpoint_options, take_endpoints
from kdasr.cli.paths import CHECKPOINT, EXPORTED, ExperimentPath, InputPath
from kdasr.cli.recognizable import (
    checkpoint_option,
    device_option,
    int8_option,
    load_recognizable,
    move_to,
    threads_option,
)
from kdasr.cli.search_options import (
    build_recognizer,
    needs,
    parse_language_model,
    parse_search,
    search_options,
)
from kdasr.cli.stream_output import Output, Style
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.tokenizer import WORD_START
from kdasr.recognition.result import join_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from kdasr.recognition.audio import AudioFile
    from kdasr.recognition.recognizer import StreamingRecognizer
    from kdasr.recognition.result import Result

log = get_logger(__name__)

LONG_SENTENCE = 60.0
"""Seconds; a language model that weighs longer texts as one sentence has seen none like them."""

SHOWN_PIECES = 200
"""Of a partial result, the last so many pieces."""


@click.command(name="stream")
@click.argument("exp", type=ExperimentPath(CHECKPOINT, EXPORTED))
@click.argument("files", type=InputPath("audio file"), nargs=-1, metavar="[FILE.wav...]")
@checkpoint_option
@click.option(
    "--context", help="Encoder context instead of the trained one, such as left=32,chunk=8,right=0."
)
@int8_option
@search_options
@endpoint_options("yes for --mic, no for files")
@click.option("--words", is_flag=True, help="Print the words of final results with times and confidence.")
@click.option("--json", "as_json", is_flag=True, help="Print final results only, each as a line of JSON.")
@click.option(
    "--packet-ms", type=click.IntRange(min=1), default=100, show_default=True, help="Audio fed at a time."
)
@click.option("--mic", is_flag=True, help="Listen to the microphone until Ctrl-C, instead of files.")
@click.option("--mic-device", help="Sound device of --mic: a number, or part of its name.")
@click.option("--realtime", is_flag=True, help="Feed at the speed of a microphone instead of at once.")
@device_option
@threads_option
def command(
    exp: Path,
    files: tuple[Path, ...],
    checkpoint: str,
    context: str | None,
    int8: bool,
    tail_seconds: float | None,
    packet_ms: int,
    mic: bool,
    mic_device: str | None,
    realtime: bool,
    device: str,
    threads: int,
    biasing: Path | None,
    nbest: int,
    lm: Path | None,
    lm_scale: float | None,
    rescore: bool,
    word_bonus: float | None,
    words: bool,
    as_json: bool,
    **search: Any,
) -> None:
    """Recognize audio files chunk by chunk, printing partial results as they appear.

    EXP is a system's folder, a checkpoint file, or a folder that `kdasr export` wrote (run by onnxruntime).
    Files may have any sample rate and number of channels (they are converted and mixed down). Several are
    recognized one after another, in the order given; all of them are checked first. On a terminal the
    partial result is rewritten in place; otherwise each change is a line with the audio time at which it
    appeared. Beam search may revise what it has printed.

    With --endpoints, each pause ends a segment, whose final result is printed with its start and end, and
    recognition begins anew in it. This is the default with --mic, where somebody waits for each sentence.
    A file is one result by default, because rule 3 cuts speech without a pause in the middle of a word.
    """
    from kdasr.recognition.audio import AudioFile, check_audio
    from kdasr.recognition.microphone import check_microphone

    if bool(files) == mic:
        raise UserError("name files to recognize, or --mic for the microphone (not both)")
    if mic:
        needs("files instead of --mic", "packet_ms", "realtime")
    else:
        needs("--mic", "mic_device")
    override = parse_context(context) if context else None
    lm_use = parse_language_model(lm, lm_scale, rescore, word_bonus)
    asked = search["endpoints"] is not None
    rules = take_endpoints(search, default=mic)
    sound_device = int(mic_device) if mic_device and mic_device.isdecimal() else mic_device
    if mic:
        check_microphone(sound_device)
    lengths = [check_audio(file) for file in files]
    options = parse_search(language_model=lm_use, **search)  # waits for torch
    bundle = load_recognizable(exp, checkpoint, int8=int8, threads=threads)
    try:
        move_to(bundle.model, device)
    except UserError as error:
        raise UserError(f"{error} (a sound device is --mic-device)" if mic else str(error)) from None
    recognizer = build_recognizer(bundle, override, tail_seconds, options, biasing, lm_use)
    if recognizer.needs_end and not asked:
        rules = None  # all is heard at the end
    recognizer = recognizer.with_endpoints(rules)
    if override is not None:
        warn_of_untrained(exp, [override])
    if rescore and rules is None and max(lengths, default=0.0) > LONG_SENTENCE:
        log.warning("--rescore weighs each file as one sentence; --endpoints makes sentences of a long one")
    style = Style(words, as_json, times=rules is not None)
    if mic:
        with Output(style, None) as output:
            session = _Session(recognizer, output, nbest)
            _listen(session, sound_device)
    for file, seconds in zip(files, lengths, strict=True):
        if not as_json:
            click.echo(f"{file}  {seconds:.2f} s")
        with AudioFile(file) as audio, Output(style, str(file)) as output:
            _hear(_Session(recognizer, output, nbest), audio, packet_ms, realtime)
            output.fault(audio.fault)


class _Session:
    """One stream on its way from audio to printed results."""

    def __init__(self, recognizer: "StreamingRecognizer", output: Output, nbest: int) -> None:
        from kdasr.recognition.live import LiveStream

        self._is_one = recognizer.endpoints is None
        """Whether all of the stream is one segment."""
        self._output = output
        self._nbest = nbest
        self._live = LiveStream(recognizer)
        self._compute = 0.0
        self._text, self._decoded = "", (0, 0)
        """What is shown, and from which frame of the stream to which it was heard."""

    def accept(self, rate: int, samples: "NDArray[np.float32]") -> None:
        """Recognize what can be recognized after some more samples."""
        self._compute += _timed(lambda: self._live.accept(rate, samples))
        self._decode()

    def finish(self) -> None:
        """Recognize the rest."""
        self._compute += _timed(self._live.finish)
        self._decode()
        report = self._live.stream.signal.report()
        self._output.end(self._live.stream.seconds, self._compute, report.level_dbfs)
        for fault in report.faults.values():
            self._output.fault(fault)

    def _decode(self) -> None:
        ended: list[Result] = []
        self._compute += _timed(lambda: ended.extend(self._advance()))
        stream = self._live.stream
        if self._decoded != (decoded := (stream.segment_start, stream.num_decoded)):
            self._text, self._decoded = self._partial_text(), decoded
        if self._is_one:
            self._output.partial(stream.seconds, self._text)
        for result in ended:
            self._output.final(result)
        if not self._is_one and not (self._live.is_done and ended) and (self._text or not ended):
            self._output.partial(stream.seconds, "" if self._live.is_done else self._text)

    def _partial_text(self) -> str:
        """What was recognized so far, or the end of it: an hour is not printed again with every word."""
        pieces = [token.piece for token in self._live.stream.tokens[-SHOWN_PIECES:]]
        if len(self._live.stream.tokens) <= SHOWN_PIECES:
            return join_words(pieces)
        first = next((place for place, piece in enumerate(pieces) if piece.startswith(WORD_START)), 0)
        return f"… {join_words(pieces[first:])}"

    def _advance(self) -> "list[Result]":
        """Decode what can be decoded; the segments that ended on the way, empty only if there is but one."""
        from kdasr.recognition.live import decode_live

        # One at a time: each of them holds all pieces of its segment so far.
        decoded = (heard for _, heard in decode_live([self._live], self._nbest))
        return [heard.result for heard in decoded if heard.is_final and (heard.result.text or self._is_one)]


def _hear(session: _Session, audio: "AudioFile", packet_ms: int, realtime: bool) -> None:
    """Feed one recording packet by packet as it is read."""
    started, num_samples = time.perf_counter(), 0
    for samples in audio.blocks(max(1, audio.rate * packet_ms // 1000)):
        num_samples += len(samples)
        if realtime:
            time.sleep(max(0.0, started + num_samples / audio.rate - time.perf_counter()))
        session.accept(audio.rate, samples)
    session.finish()


def _listen(session: _Session, device: str | int | None) -> None:
    """Feed what the microphone hears until the user interrupts."""
    from kdasr.recognition.microphone import microphone

    packets = microphone(device)
    try:
        for rate, samples in packets:
            session.accept(rate, samples)
    except KeyboardInterrupt:
        pass
    session.finish()


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
