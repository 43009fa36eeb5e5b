"""Experiment folders as typed records: what was trained, and how it was decoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from kdasr.report.metrics_log import MetricsRow
from kdasr.training.schedule_file import planned_steps


@dataclass(frozen=True)
class AlignedWord:
    """A reference word; times in seconds of audio."""

    word: str
    start: float
    end: float


@dataclass(frozen=True)
class ShownToken:
    """A recognized piece."""

    piece: str
    emitted: float
    """Seconds of audio in the middle of the encoder frame of emission."""
    shown: float
    """Seconds of audio that had arrived when the piece could be shown."""


@dataclass(frozen=True)
class ShownWord:
    """A recognized word."""

    word: str
    shown: float
    ref_index: int | None
    """The reference word that it matches; None for an error."""
    confidence: float | None = None
    """None: decoded before words had one."""


@dataclass(frozen=True)
class DecodedUtterance:
    """One decoded utterance. Latencies in ms, None where there is nothing to measure."""

    id: str
    duration: float
    ref: str
    hyp: str
    num_errors: int
    num_words: int
    """Words of the reference."""
    first_token_ms: float | None
    first_token_wall_ms: float | None
    emission_delay_ms: tuple[float, ...]
    finalization_ms: float | None
    """None also where the last word is wrong or missing."""
    first_token_parts_ms: Mapping[str, float] | None
    """What the wall-clock first-token latency consists of, by the names of `FirstTokenParts`."""
    ref_words: tuple[AlignedWord, ...]
    """Empty without a word alignment."""
    tokens: tuple[ShownToken, ...]
    words: tuple[ShownWord, ...]
    num_char_errors: int = 0
    num_chars: int = 0
    """Characters of the reference, spaces between words included."""
    first_word_ms: float | None = None
    """None where the first word is not right, or was shown before its onset."""
    first_word_wall_ms: float | None = None
    first_token: str | None = None
    """A `FirstToken`; None: it cannot be timed."""
    speaker: str = ""
    """Empty: not known."""


@dataclass(frozen=True)
class DecodedPart:
    """One system decoded on one part."""

    part: str
    mode: str
    folder: Path
    summary: dict[str, Any]
    """`summary.json` as it is."""
    utterances: dict[str, DecodedUtterance]
    """By id."""
    gains: list[dict[str, Any]] = field(default_factory=list)
    """Error rates at several gains, from `gain.json`: `gain_db`, `wer` and `cer` each."""
    lacking: dict[str, list[str]] = field(default_factory=dict)
    """By file, what an older version did not write yet."""

    @property
    def measure(self) -> str:
        """`cer` where words are not separated by spaces, else `wer`."""
        return str(self.summary.get("measure") or "wer")


@dataclass(frozen=True)
class SystemRecord:
    """One system's folder."""

    name: str
    folder: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[MetricsRow]
    parts: dict[str, DecodedPart] = field(default_factory=dict)
    """By part, in the order of names."""
    contexts: list[dict[str, DecodedPart]] = field(default_factory=list)
    """The same under other contexts than the system's own: folders in `contexts/`."""
    long_form: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By part, the summary of its utterances joined into streams."""

    @property
    def planned_steps(self) -> int | None:
        """Steps of all stages in `config.yaml`; None when unknown or when a stage may end by itself."""
        stages = self.config.get("stages") or []
        if not stages or any(stage.get("plateau_patience") for stage in stages):
            return None
        steps = self.steps_of_stages
        return sum(steps.values()) if len(steps) == len(stages) else None

    @property
    def steps_of_stages(self) -> dict[str, int]:
        """By stage; without those that nobody knows yet."""
        return planned_steps(self.config.get("stages") or [], self.folder)

    @property
    def waits_for_end(self) -> bool:
        """Whether it hears the whole utterance before it shows anything."""
        contexts = self.config.get("contexts")
        if contexts:
            return int(contexts[0].get("chunk", -1)) < 0
        return any(part.summary.get("context") == "full" for part in self.parts.values())

    @property
    def num_contexts(self) -> int:
        """How many contexts it was trained under."""
        choice = self.config.get("context_choice") or {}
        if choice.get("chunk"):
            sizes = [len(choice.get(name) or [0]) for name in ("left", "chunk", "right")]
            return prod(sizes) + (float(choice.get("full_probability") or 0) > 0)
        return len(self.config.get("contexts") or [None])

    @property
    def init_from(self) -> str | None:
        """The system whose weights it starts from; None: random weights, or not known."""
        stages = self.config.get("stages") or [{}]
        return stages[0].get("init_from")

    @property
    def learns(self) -> bool:
        """Whether it learns from a teacher's states or outputs."""
        return bool((self.config.get("objective") or {}).get("teacher"))

    @property
    def trained_steps(self) -> int:
        """Steps of the decoded checkpoint, or the last step in the log; 0 when neither tells."""
        decoded = [int(part.summary.get("train_steps") or 0) for part in self.parts.values()]
        return max(decoded) if decoded else max((row.step for row in self.metrics), default=0)
