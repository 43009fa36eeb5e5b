"""What the server counts, in Prometheus' text format. The engine's thread writes, the event loop reads."""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from kdasr.serving.lane import Update

QUANTILES = (0.5, 0.9, 0.99)
_RECENT = 2000
"""Chunks of a model that quantiles and the real-time factor are of."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class _Chunks:
    """The chunks of one model."""

    count: int = 0
    audio: float = 0.0
    compute: float = 0.0
    latency: float = 0.0
    recent: deque[tuple[float, float, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    """Latency, computing and audio."""


@dataclass(frozen=True)
class Now:
    """What is going on at the moment."""

    streams: int
    max_streams: int
    queue_seconds: float
    """Audio that waits to be decoded, of all streams."""


class Metrics:
    """Counters since the start of the server, and quantiles of its latest chunks."""

    def __init__(self, models: Sequence[str]) -> None:
        self._chunks = {name: _Chunks() for name in models}
        self._streams = 0
        self._refused: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._lock = Lock()

    def add_chunk(self, update: Update) -> None:
        """A chunk was decoded."""
        with self._lock:
            chunks = self._chunks[update.model]
            chunks.count += 1
            chunks.audio += update.step
            chunks.compute += update.compute
            chunks.latency += update.chunk_latency
            chunks.recent.append((update.chunk_latency, update.compute, update.step))

    def add_stream(self) -> None:
        """A stream was accepted."""
        with self._lock:
            self._streams += 1

    def add_refusal(self, reason: str) -> None:
        """A client was turned away before it had a stream."""
        with self._lock:
            self._refused[reason] += 1

    def add_error(self, code: str) -> None:
        """A stream ended with an error."""
        with self._lock:
            self._errors[code] += 1

    def latency_quantiles(self, model: str) -> dict[float, float]:
        """Seconds, of the latest chunks; empty before the first."""
        with self._lock:
            latencies = [entry[0] for entry in self._chunks[model].recent]
        if not latencies:
            return {}
        return dict(zip(QUANTILES, np.quantile(latencies, QUANTILES).tolist(), strict=True))

    def text(self, now: Now) -> str:
        """All of it, as a scraper reads it."""
        lines = _metric("kdasr_streams", "gauge", "Streams that are open.", [("", now.streams)])
        lines += _metric("kdasr_streams_max", "gauge", "Streams at most.", [("", now.max_streams)])
        lines += _metric(
            "kdasr_queue_seconds", "gauge", "Audio that waits to be decoded.", [("", now.queue_seconds)]
        )
        with self._lock:
            lines += _metric("kdasr_streams_total", "counter", "Streams accepted.", [("", self._streams)])
            lines += _counted(
                "kdasr_refused_total", "Clients turned away, by reason.", "reason", self._refused
            )
            lines += _counted(
                "kdasr_errors_total", "Streams ended by an error, by code.", "code", self._errors
            )
            models = [(_label("model", name), chunks) for name, chunks in self._chunks.items()]
            lines += _metric(
                "kdasr_audio_seconds_total",
                "counter",
                "Audio decoded.",
                [(f"{{{name}}}", c.audio) for name, c in models],
            )
            lines += _metric(
                "kdasr_compute_seconds_total",
                "counter",
                "Time spent decoding.",
                [(f"{{{name}}}", c.compute) for name, c in models],
            )
            lines += _metric(
                "kdasr_rtf",
                "gauge",
                f"Time spent over audio decoded, latest {_RECENT} chunks.",
                [(f"{{{name}}}", _recent_rtf(c)) for name, c in models],
            )
        samples: list[tuple[str, float]] = []
        for name, (label, chunks) in zip(self._chunks, models, strict=True):
            for quantile, value in self.latency_quantiles(name).items():
                samples.append((f'{{{label},quantile="{quantile:g}"}}', value))
            samples += [(f"_sum{{{label}}}", chunks.latency), (f"_count{{{label}}}", chunks.count)]
        lines += _metric(
            "kdasr_chunk_latency_seconds",
            "summary",
            f"From when a chunk could be decoded to its result; quantiles of the latest {_RECENT}.",
            samples,
        )
        return "\n".join([*lines, ""])


def _metric(name: str, kind: str, text: str, samples: Sequence[tuple[str, float]]) -> list[str]:
    values = [
        f"{name}{labels} {value:.10g}" if isinstance(value, float) else f"{name}{labels} {value}"
        for labels, value in samples
    ]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *values]


def _counted(name: str, text: str, label: str, counts: Counter[str]) -> list[str]:
    return _metric(
        name, "counter", text, [(f"{{{_label(label, key)}}}", count) for key, count in sorted(counts.items())]
    )


def _label(name: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}="{escaped}"'


def _recent_rtf(chunks: _Chunks) -> float:
    audio = sum(entry[2] for entry in chunks.recent)
    return sum(entry[1] for entry in chunks.recent) / audio if audio else 0.0
