"""What `kdasr stream` prints: results that grow, and final ones as text or as lines of JSON."""

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.live import Live

    from kdasr.recognition.result import Result


@dataclass(frozen=True)
class Style:
    """How results are printed."""

    words: bool = False
    """Each word of a final result with its times and confidence."""
    as_json: bool = False
    """Final results as lines of JSON, and nothing else."""
    times: bool = False
    """Final results with their start and end: they are segments of something longer."""


class Output:
    """The results of one file or of the microphone, as they come; use it as a context."""

    def __init__(self, style: Style, source: str | None) -> None:
        """`source` is the file's name; None: the microphone."""
        self._style = style
        self._source = source
        self._last = ""
        self._live: Live | None = None
        self._first_shown: float | None = None

    def __enter__(self) -> "Output":
        if sys.stdout.isatty() and not self._style.as_json:
            from rich.live import Live

            self._live = Live(transient=True, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def partial(self, seconds: float, text: str) -> None:
        """Show `text`, recognized after `seconds` of audio: in place on a terminal, else where it changed."""
        if self._style.as_json:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.update(Text(f"{seconds:7.2f}  {text}"), refresh=True)
        elif text != self._last:
            click.echo(f"{seconds:7.2f}  {text}")
        self._last = text

    def final(self, result: "Result") -> None:
        """Print a result that nothing changes any more."""
        if result.tokens and self._first_shown is None:
            self._first_shown = result.tokens[0].shown
        self._last = ""
        if self._live is None:
            self._print(result)
        else:
            self._live.update("", refresh=True)
            self._live.console.print("\n".join(self._lines(result)), markup=False, highlight=False)

    def end(self, audio_seconds: float, compute_seconds: float, level_dbfs: float) -> None:
        """Say when the first token came, how fast it went, and how loud the speech was."""
        self._stop()
        if self._style.as_json:
            return
        shown = self._first_shown
        first = "nothing recognized" if shown is None else f"first token at {shown:.2f} s of audio"
        rtf = f", RTF {compute_seconds / audio_seconds:.3f}" if audio_seconds else ""
        click.echo(f"         {first}{rtf}, speech at {level_dbfs:.0f} dBFS")

    def fault(self, fault: str | None) -> None:
        """Say on stderr what is wrong with the input, if something is."""
        if fault:
            click.echo(f"{self._source or 'microphone'}: {fault}", err=True)

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, result: "Result") -> None:
        for line in self._lines(result):
            click.echo(line)

    def _lines(self, result: "Result") -> list[str]:
        words = result.words
        start, end = (words[0].start, words[-1].end) if words else (result.start, result.start)
        if self._style.as_json:
            return [json.dumps(self._record(result, start, end), ensure_ascii=False)]
        times = f"{start:.2f} - {end:.2f}  " if self._style.times else ""
        lines = [f"  final  {times}{result.text}"]
        if self._style.words:
            lines += [
                f"{word.start:9.2f} {word.end:7.2f} {word.confidence:6.3f}  {word.text}" for word in words
            ]
        return lines + [f"{entry.score:9.3f}  {entry.text}" for entry in result.nbest]

    def _record(self, result: "Result", start: float, end: float) -> dict[str, object]:
        words = [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "confidence": round(word.confidence, 4),
            }
            for word in result.words
        ]
        nbest = [{"text": entry.text, "score": round(entry.score, 4)} for entry in result.nbest]
        return {
            "file": self._source,
            "segment": result.segment,
            "start": start,
            "end": end,
            "text": result.text,
            "continues_word": result.continues_word,
            "words": words,
            **({"nbest": nbest} if nbest else {}),
        }
