"""One training of one row: what it is, what was decoded of it, and its numbers on each part."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdasr.checkpoint import AVERAGED
from kdasr.common.errors import UserError
from kdasr.evaluation.latency_summary import first_token_shares, first_word_summary
from kdasr.evaluation.statistics import summarize
from kdasr.nn.context import Context
from kdasr.report.experiment import read_part
from kdasr.report.metrics_log import MetricsRow, read_metrics
from kdasr.report.records import DecodedPart, DecodedUtterance
from kdasr.report.results import speakers_in
from kdasr.study.seeds import Floats

# Shapes: S seeds, N utterances.

SCRATCH, TEACHER, OWN = "scratch", "teacher", "own"
"""What `init` of a row says for random weights, for the topline's, and for those that its system names."""
_NOT_IN_STUDIES = {"--int8": "int8", "--endpoints": "endpoint_rules"}
"""Options of `kdasr decode` that no study gives, and what `summary.json` calls them."""
Value = Callable[[DecodedUtterance], float]
"""A number of one decoded utterance."""


class Decoding(NamedTuple):
    """How a study decodes its runs."""

    beam: bool = False
    """By beam search; else by greedy search."""
    language_model: bool = False
    biasing: bool = False
    calibrated: bool = True
    """By the blank penalty that `kdasr calibrate` has found, if any."""


GREEDY = Decoding()


@dataclass(frozen=True)
class RunInfo:
    """One row trained with one seed."""

    row: str
    init: str
    """SCRATCH, TEACHER, OWN or a row."""
    seed: int
    learning_rate: float
    """Peak, in the first stage."""
    steps: int
    folder: Path


@dataclass(frozen=True)
class TrainedRun:
    """A run with what was decoded of it."""

    info: RunInfo
    parts: dict[str, DecodedPart]
    metrics: list[MetricsRow] = field(default_factory=list)


@dataclass(frozen=True)
class PartResult:
    """One run on one part. Latencies are means in ms; None where nothing is measured (offline decoding)."""

    info: RunInfo
    part: str
    wer: float | None
    num_words: int
    first_word_ms: float | None
    """On the utterances whose first word is right; see `first_word_coverage`."""
    first_word_coverage: float | None
    """The share of those utterances."""
    first_tokens: dict[str, float | int | None]
    """Shares of utterances whose first token was right, wrong, premature or missing, and `count`."""
    first_token_ms: float | None
    emission_delay_ms: float | None
    finalization_ms: float | None

    def as_json(self) -> dict[str, Any]:
        """The entry of `rows` in `summary.json`."""
        return {
            "row": self.info.row,
            "init": self.info.init,
            "seed": self.info.seed,
            "part": self.part,
            "wer": self.wer,
            "first_word_ms": self.first_word_ms,
            "first_word_coverage": self.first_word_coverage,
            **{f"first_token_{name}": share for name, share in self.first_tokens.items() if name != "count"},
            "first_token_ms": self.first_token_ms,
            "emission_delay_ms": self.emission_delay_ms,
            "finalization_ms": self.finalization_ms,
            "num_words": self.num_words,
            "train_steps": self.info.steps,
            "learning_rate": self.info.learning_rate,
        }


def read_run(
    info: RunInfo,
    decoded: Path,
    mode: str,
    parts: Sequence[str],
    context: Context,
    decoding: Decoding = GREEDY,
) -> TrainedRun:
    """Read what was decoded of a run under one context: folders of parts in `decoded`, in one mode.

    Raises:
        UserError: a file is not as `kdasr decode` writes it; see also `check_decoded`.
    """
    found = {part: read_part(decoded / part, mode) for part in parts}
    for part in found.values():
        check_decoded(part.summary, part.folder, context, decoding)
    return TrainedRun(info, found, read_metrics(info.folder / "metrics.jsonl"))


def check_decoded(
    summary: Mapping[str, Any], folder: Path, context: Context, decoding: Decoding = GREEDY
) -> None:
    """Check that a part was decoded as the study decodes it, by what its `summary.json` says.

    Args:
        summary: the content of the file; what an older version does not say is taken to be right.
        folder: of the part, for the message.
        context: that of the study.
        decoding: how the study decodes it.

    Raises:
        UserError: of another checkpoint, under another context, other utterances, or by another search.
    """
    if fault := _decoded_otherwise(summary, context, decoding):
        raise UserError(
            f"{folder}: decoded {fault}: remove that folder, and the same command decodes it again"
        )


def _decoded_otherwise(summary: Mapping[str, Any], context: Context, decoding: Decoding) -> str:
    """How a part was decoded, if not as the study does it; else empty."""
    if (checkpoint := Path(str(summary.get("checkpoint", AVERAGED))).name) != AVERAGED:
        return f"from {checkpoint}, not from {AVERAGED}"
    if (found := summary.get("context", str(context))) != str(context):
        return f"under '{found}', not under '{context}'"
    if limit := summary.get("max_utterances"):
        return f"with --max-utterances {limit}"
    if "search" in summary and (summary["search"] != "greedy") != decoding.beam:
        return "by greedy search" if decoding.beam else "by another search than the greedy one"
    for what, name, wanted in (
        ("a language model", "language_model", decoding.language_model),
        ("--biasing", "biasing_sha256", decoding.biasing),
    ):
        if bool(summary.get(name, wanted)) != wanted:
            return f"without {what}" if wanted else f"with {what}"
    if not decoding.calibrated and (penalty := summary.get("calibrated_blank_penalty")):
        return f"with the blank penalty {penalty:g} of `kdasr calibrate`, which this study does not use"
    changed = [option for option, name in _NOT_IN_STUDIES.items() if summary.get(name)]
    return f"with {' and '.join(changed)}" if changed else ""


def part_result(run: TrainedRun, part: str) -> PartResult:
    """Error rate and mean latencies of one run on one part."""
    utterances = list(run.parts[part].utterances.values())
    words = sum(utterance.num_words for utterance in utterances)
    errors = sum(utterance.num_errors for utterance in utterances)
    delays = [delay for utterance in utterances for delay in utterance.emission_delay_ms]
    return PartResult(
        info=run.info,
        part=part,
        wer=100 * errors / words if words else None,
        num_words=words,
        first_word_ms=mean_of([utterance.first_word_ms for utterance in utterances]),
        first_word_coverage=_coverage(utterances),
        first_tokens=first_token_shares([utterance.first_token for utterance in utterances]),
        first_token_ms=mean_of([utterance.first_token_ms for utterance in utterances]),
        emission_delay_ms=mean_of(delays),
        finalization_ms=mean_of([utterance.finalization_ms for utterance in utterances]),
    )


def _coverage(utterances: Sequence[DecodedUtterance]) -> float | None:
    firsts = [utterance.first_token for utterance in utterances]
    return first_word_summary([utterance.first_word_ms for utterance in utterances], firsts)["coverage"]


def settled(run: TrainedRun, share: float = 0.25) -> tuple[float, float] | None:
    """Lowest and highest dev WER (percent) over the last quarter of a training; None without a log.

    Close together: the dev WER has stopped moving.
    """
    rows = [row for row in run.metrics if row.split == "valid" and "wer" in row.values]
    last = max((row.step for row in rows), default=0)
    wers = [row.values["wer"] for row in rows if row.step >= (1 - share) * last]
    return (min(wers), max(wers)) if wers else None


def finite(value: float) -> float | None:
    """The number, or None for JSON where there is none."""
    return value if math.isfinite(value) else None


def mean_of(values: Sequence[float | None]) -> float | None:
    """The mean of the values that there are; None without any."""
    mean = summarize([value for value in values if value is not None])["mean"]
    return None if mean is None else float(mean)


def common_ids(parts: Sequence[DecodedPart]) -> list[str]:
    """The utterances that all have, in the order of the first."""
    if not parts:
        return []
    common = set.intersection(*(set(part.utterances) for part in parts))
    return [id for id in parts[0].utterances if id in common]


def matrix(
    runs: dict[int, TrainedRun], seeds: Sequence[int], part: str, ids: Sequence[str], value: Value
) -> Floats:
    """One value of every utterance under every seed: (S, N)."""
    return np.array(
        [[value(runs[seed].parts[part].utterances[id]) for id in ids] for seed in seeds], dtype=np.float64
    )


def errors_of(utterance: DecodedUtterance) -> float:
    """Word errors."""
    return utterance.num_errors


def words_of(utterance: DecodedUtterance) -> float:
    """Reference words."""
    return utterance.num_words


def first_word_of(utterance: DecodedUtterance) -> float:
    """First-word latency in ms; nan where the first word is not right."""
    return math.nan if utterance.first_word_ms is None else utterance.first_word_ms


def is_timed(utterance: DecodedUtterance) -> float:
    """1 where the first word has an onset, whether or not it was recognized; else 0."""
    return float(utterance.first_token is not None)


def speakers_by_id(part: DecodedPart, ids: Sequence[str]) -> list[str] | None:
    """The speaker of some utterances of a part; None unless all are known."""
    return speakers_in([part.utterances[id] for id in ids])


def first_token_of(utterance: DecodedUtterance) -> float:
    """First-token latency in ms; nan without one."""
    return math.nan if utterance.first_token_ms is None else utterance.first_token_ms
