"""The model card of a bundle: what a student is, how good, how late, from what."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdasr import __version__
from kdasr.checkpoint import Bundle
from kdasr.common.configio import load_yaml
from kdasr.common.errors import UserError
from kdasr.common.files import read_json, sha256
from kdasr.data.features import SAMPLE_RATE
from kdasr.export.bundle import MANIFEST, graph_name
from kdasr.export.parity import TOLERANCE, Parity
from kdasr.models.encoders.base import FIRST_TYPE, Geometry
from kdasr.nn.context import Context
from kdasr.recognition.features import samples_for_frame
from kdasr.recognition.flush import flush_seconds

Facts = dict[str, Any]


def collect_facts(system: Bundle) -> Facts:
    """What is known of a trained system: from its checkpoint and, where they are, its experiment's files.

    Word error rates count only when they were measured on this very checkpoint under its context.
    """
    folder = system.path.parent.parent
    config, environment = _read(folder / "config.yaml"), _read(folder / "environment.json")
    return {
        "system": system.name,
        "params": system.model.num_inference_params,
        "train_steps": system.train_steps,
        "checkpoint": {"file": system.path.name, "sha256": sha256(system.path)},
        "commit": environment.get("git"),
        "calibration": asdict(system.calibration) if system.calibration else None,
        "blank_penalty": system.blank_penalty,
        "normalization": system.tokenizer.normalization,
        "normalize": system.tokenizer.rule,
        "training_data": _training_data(config.get("data", {})),
        "latency_ms": _latency(system.context, system.model.geometry),
        "results": _results(folder, system),
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


def write_card(path: Path, system: Bundle, facts: Facts, parity: Mapping[str, Parity]) -> None:
    """Write the card as Markdown."""
    checkpoint, way = facts["checkpoint"], "whole-utterance" if system.context.is_full else "streaming"
    kind = system.model.encoder.config.type
    unit = "utterances" if system.context.is_full else "chunks"
    features = ", normalized in the graph" if kind == FIRST_TYPE else ""
    lines = [
        f"# {facts['system']}",
        "",
        f"A {way} transducer exported by kdasr {__version__} for [sherpa-onnx]"
        f"(https://github.com/k2-fsa/sherpa-onnx) (model type `{kind}`).",
        "",
        "| | |",
        "|---|---|",
        f"| context | {system.context} (frames of {1000 * system.model.geometry.frame_seconds:g} ms) |",
        *_latency_lines(facts["latency_ms"]),
        f"| size | {facts['params'] / 1e6:.2f} M parameters, {system.tokenizer.vocab_size} pieces |",
        f"| text | as in the training transcripts, normalized by `{facts['normalization']}` |",
        *_penalty_lines(facts["blank_penalty"]),
        f"| input | 16 kHz; 80 log-mel energies as sherpa-onnx computes them{features} |",
        f"| training data | {facts['training_data'] or 'not known'} |",
        f"| training | {facts['train_steps']} steps, by kdasr at commit {facts['commit'] or 'not known'} |",
        f"| checkpoint | {checkpoint['file']}, sha256 {checkpoint['sha256'][:16]} |",
        "",
        *_result_lines(facts["results"]),
        "## Exactness",
        "",
        *(_parity_line(kind, measured, unit) for kind, measured in parity.items()),
        "",
        *_usage_lines(parity, kind, system.context),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """A file of an experiment folder; nothing where there is none (a checkpoint may have left its home)."""
    if not path.is_file():
        return {}
    try:
        return load_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except (UserError, ValueError):
        return {}


def _training_data(data: Mapping[str, Any]) -> str:
    """The training parts and, where the data folder still is, their hours."""
    parts: Sequence[str] = data.get("train_parts") or []
    prepared = _read(Path(data.get("dir") or ".") / "prepare.json").get("parts", {})
    if not parts:
        return ""
    text = f"{Path(data['dir']).name}: {', '.join(parts)}"
    if all(part in prepared for part in parts):
        entries = [prepared[part] for part in parts]
        copies = any(len(entry["settings"]["speeds"]) > 1 for entry in entries)
        text += f" ({sum(entry['utterances'] for entry in entries)} utterances, "
        text += f"{sum(entry['hours'] for entry in entries):.1f} h{' at all speeds' if copies else ''})"
    return text


def _results(folder: Path, system: Bundle) -> list[Facts]:
    """Whole parts decoded with this checkpoint alone: no phrases to favor, no language model."""
    found = []
    digest, tail = sha256(system.path), flush_seconds(system.context, system.model.geometry)
    for path in sorted(folder.glob("decode/*/*/summary.json")):
        summary = _read(path)
        if summary.get("checkpoint_sha256") != digest or summary.get("context") != str(system.context):
            continue
        others = ("biasing_sha256", "language_model", "max_utterances", "endpoint_rules")
        if any(summary.get(name) for name in others):
            continue  # not what the system does by itself, or not on all of the part
        if summary.get("tail_seconds", tail) != tail:
            continue
        row = {key: summary.get(key) for key in ("part", "mode", "wer", "cer", "num_utterances", "num_words")}
        row["search"] = summary.get("search", "greedy")
        if row["mode"] == "streaming":
            row["first_word_ms"] = (summary.get("first_word_ms") or {}).get("mean")
            row["first_token_ms"] = (summary.get("first_token_ms") or {}).get("mean")
        found.append(row)
    return found


def _penalty_lines(penalty: float) -> list[str]:
    if not penalty:
        return []
    return [f"| blank penalty | {penalty:g}, chosen on dev, is part of the joiner: give clients none |"]


def _result_lines(results: Sequence[Facts]) -> list[str]:
    lines = ["## Results", ""]
    if not results:
        return [*lines, "Not decoded before the export.", ""]
    lines += [
        "| part | mode | search | WER % | CER % | first word, ms | first token, ms | utterances | words |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in results:
        figures = [
            "" if row.get(key) is None else f"{row[key]:.{digits}f}"
            for key, digits in (("wer", 2), ("cer", 2), ("first_word_ms", 0), ("first_token_ms", 0))
        ]
        cells = (row["part"], row["mode"], row["search"], *figures, row["num_utterances"], row["num_words"])
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", "By kdasr's PyTorch recognizer, float32.", ""]


def _parity_line(kind: str, measured: Parity, unit: str) -> str:
    names = ("encoder", "decoder", "joiner", "encoder_relative")
    encoder, decoder, joiner, relative = (f"{getattr(measured, name):.2g}" for name in names)
    limit = f" (allowed: {TOLERANCE:g})" if kind == "float32" else ""
    return (
        f"- {kind}: largest difference from PyTorch over {measured.chunks} {unit}: encoder {encoder}, "
        f"decoder {decoder}, joiner {joiner}{limit}; encoder, relative: {relative}"
    )


def _latency_lines(latency: Mapping[str, float] | None) -> list[str]:
    if latency is None:
        return ["| latency | hears an utterance at its end |"]
    return [
        f"| latency | chunks of {latency['chunk']} ms, look-ahead {latency['lookahead']} ms; pieces of the "
        f"first chunk need {latency['first_output']:.1f} ms of audio, in sherpa-onnx "
        f"{latency['first_output_sherpa_onnx']:.1f} ms |"
    ]


def _usage_lines(kinds: Mapping[str, Parity], encoder: str, context: Context) -> list[str]:
    lines = ["## Use", "", "```python", "import sherpa_onnx", ""]
    recognizer = "OfflineRecognizer" if context.is_full else "OnlineRecognizer"
    lines += [f"recognizer = sherpa_onnx.{recognizer}.from_transducer("]
    lines += ['    tokens="tokens.txt",']
    lines += [f'    {name}="{graph_name(name)}",' for name in ("encoder", "decoder", "joiner")]
    lines += [")", "```", ""]
    if "int8" in kinds:
        lines += ["`encoder.int8.onnx` and so on: MatMul (decoder: and Gather) with int8 weights.", ""]
    if context.is_full:
        return [*lines, f"`{MANIFEST}` has the digest of each file and these figures for programs.", ""]
    if encoder != FIRST_TYPE:
        lines += [
            "With endpoint detection give `reset_encoder=True`: without it sherpa-onnx begins each segment "
            "with what the encoder remembers of the one before, which kdasr has not measured.",
            "",
        ]
    lines += [
        "With endpoint detection give a large `rule3_min_utterance_length`, such as 1000: at rule 3 "
        "sherpa-onnx begins anew in the middle of speech, which loses words.",
        "",
        "At the end of a recording append zero samples, more than a window of them: sherpa-onnx decodes "
        "whole windows only.",
        "",
        f"`{MANIFEST}` has the digest of each file and these figures for programs.",
        "",
    ]
    return lines
