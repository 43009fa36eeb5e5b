"""What is known of a trained system: from its checkpoint and, where they are, its experiment's files."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdasr.bundle import Bundle
from kdasr.common.errors import UserError
from kdasr.common.files import sha256
from kdasr.common.lines import text_lines
from kdasr.data.features import SAMPLE_RATE
from kdasr.evaluation.statistics import bootstrap_wer, speakers_of
from kdasr.export.reproduction import read_record, training_commands
from kdasr.models.encoders.base import Geometry
from kdasr.nn.context import Context
from kdasr.recognition.features import samples_for_frame
from kdasr.recognition.flush import flush_seconds

Facts = dict[str, Any]
_ERRORS = ("sub", "ins", "del")


@dataclass(frozen=True)
class _Own:
    """What a decoding with this checkpoint under its context says of itself."""

    checkpoint_sha256: str
    context: str
    tail_seconds: float
    blank_penalty: float
    """That of the calibration."""

    def made(self, summary: Mapping[str, Any]) -> bool:
        """Whether it made the decoding, without phrases and language model."""
        return (
            summary.get("checkpoint_sha256") == self.checkpoint_sha256
            and summary.get("context") == self.context
            and summary.get("tail_seconds", self.tail_seconds) == self.tail_seconds
            and summary.get("calibrated_blank_penalty", 0.0) == self.blank_penalty
            and not summary.get("biasing_sha256")
            and not summary.get("language_model")
        )


def collect_facts(system: Bundle) -> Facts:
    """What a card and a manifest say of a system.

    Word error rates count only when they were measured on this very checkpoint, calibrated as it is, under
    its context.
    """
    folder, digest = system.path.parent.parent, sha256(system.path)
    tail_seconds = flush_seconds(system.context, system.model.geometry)
    own = _Own(digest, str(system.context), tail_seconds, system.blank_penalty)
    config, environment = read_record(folder / "config.yaml"), read_record(folder / "environment.json")
    return {
        "system": system.name,
        "params": system.model.num_inference_params,
        "train_steps": system.train_steps,
        "checkpoint": {"file": system.path.name, "sha256": digest},
        "commit": environment.get("git"),
        "calibration": asdict(system.calibration) if system.calibration else None,
        "blank_penalty": system.blank_penalty,
        "normalization": system.tokenizer.normalization,
        "normalize": system.tokenizer.rule,
        "training_data": _training_data(config.get("data", {})),
        "training_seconds": _training_seconds(config.get("data", {})),
        "training_commands": training_commands(folder),
        "chosen_context": _chosen_context(system.context, config.get("contexts")),
        "latency_ms": _latency(system.context, system.model.geometry),
        "results": _results(folder, own),
        "long_form": _long_form(folder, own),
    }


def _latency(context: Context, geometry: Geometry) -> dict[str, float] | None:
    """Of a system that streams."""
    if context.is_full:
        return None
    window, frame_ms = geometry.window_features(context.window_frames), 1000 * geometry.frame_seconds
    return {
        "chunk": round(frame_ms * context.chunk),
        "lookahead": round(frame_ms * context.right),
        "first_output": 1000 * samples_for_frame(window - 1) / SAMPLE_RATE,
        "first_output_sherpa_onnx": 1000 * samples_for_frame(window) / SAMPLE_RATE,
    }


def _chosen_context(context: Context, trained: Any) -> str | None:
    """The context, as an option; None where it is the first of the configuration, or nothing is known."""
    if not isinstance(trained, list) or not trained or trained[0] == asdict(context):
        return None
    return str(context)


def _training_data(data: Mapping[str, Any]) -> str:
    """The training parts and, where the data folder still is, their hours."""
    parts: Sequence[str] = data.get("train_parts") or []
    prepared = read_record(Path(data.get("dir") or ".") / "prepare.json").get("parts", {})
    if not parts:
        return ""
    text = f"{Path(data['dir']).name}: {', '.join(parts)}"
    if all(part in prepared for part in parts):
        entries = [prepared[part] for part in parts]
        copies = any(len(entry["settings"]["speeds"]) > 1 for entry in entries)
        text += f" ({sum(entry['utterances'] for entry in entries)} utterances, "
        text += f"{sum(entry['hours'] for entry in entries):.1f} h{' at all speeds' if copies else ''})"
    return text


def _training_seconds(data: Mapping[str, Any]) -> list[float] | None:
    """The shortest and the longest utterance of the training, in seconds; None where that is not known."""
    found = [data.get(name) for name in ("min_seconds", "max_seconds")]
    return [float(value) for value in found if value is not None] if None not in found else None


def _results(folder: Path, own: "_Own") -> list[Facts]:
    """Whole parts decoded with this checkpoint alone: no phrases to favor, no language model.

    Also those of `kdasr decode --contexts`, where they are under the system's context.
    """
    found: list[Facts] = []
    own_paths, others = folder.glob("decode/*/*/summary.json"), folder.glob("contexts/*/*/*/summary.json")
    for path in [*sorted(own_paths), *sorted(others)]:
        summary = read_record(path)
        if not own.made(summary) or "conditions" in summary:
            continue
        # Not what the system does on all of the part:
        if summary.get("max_utterances") or summary.get("endpoint_rules"):
            continue
        row = {key: summary.get(key) for key in ("part", "mode", "wer", "cer", "num_utterances", "num_words")}
        row["search"] = summary.get("search", "greedy")
        if any(all(row[key] == one[key] for key in ("part", "mode", "search")) for one in found):
            continue
        row["wer_ci"] = _interval(path.with_name("utterances.jsonl"))
        if row["mode"] == "streaming":
            row["first_word_ms"] = (summary.get("first_word_ms") or {}).get("mean")
            row["first_token_ms"] = (summary.get("first_token_ms") or {}).get("mean")
        found.append(row)
    return found


def _long_form(folder: Path, own: "_Own") -> list[Facts]:
    """Utterances joined into long streams: a row per part, search, pause and way to end a segment."""
    found = []
    for path in sorted(folder.glob("decode/*/*/summary.json")):
        summary = read_record(path)
        conditions = summary.get("conditions")
        if not isinstance(conditions, list) or not own.made(summary):
            continue
        keys = ("gap_s", "noise", "endpoints", "wer", "wer_ci", "single_wer", "words", "longest_seconds")
        for condition in conditions:
            row = {"part": summary.get("part"), "search": summary.get("search", "greedy")}
            found.append({**row, **{key: condition.get(key) for key in keys}})
    return found


def _interval(path: Path) -> list[float] | None:
    """95 % of the word error rate, in percent, from a decoding's utterances; None where there are none."""
    try:
        scores = [json.loads(line) for line in text_lines(path)]
        errors = [sum(score["errors"][kind] for kind in _ERRORS) for score in scores]
        words = [score["errors"]["words"] for score in scores]
        speakers = speakers_of([score["id"] for score in scores], [score.get("speaker") for score in scores])
    except (OSError, UserError, ValueError, KeyError, TypeError):
        return None
    interval = bootstrap_wer(errors, words, speakers=speakers)
    return None if interval.low != interval.low else [interval.low, interval.high]
