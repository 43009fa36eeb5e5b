"""Experiment folders, read into records."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdasr.common.configio import load_yaml
from kdasr.common.errors import SYSTEM_FOLDER, UserError
from kdasr.common.files import read_object
from kdasr.data.text_normalization import split_words
from kdasr.evaluation.wer import character_errors
from kdasr.report.first_word import first_word_of, last_word_is_right
from kdasr.report.metrics_log import json_lines, read_metrics
from kdasr.report.part_fields import (
    lacking_in_summary,
    lacking_in_utterances,
    parts_of_first_token,
    read_gains,
)
from kdasr.report.records import (
    AlignedWord,
    DecodedPart,
    DecodedUtterance,
    ShownToken,
    ShownWord,
    SystemRecord,
)

SUMMARY, UTTERANCES = "summary.json", "utterances.jsonl"
"""Of a decoded part."""
MODES = ("streaming", "offline")
"""Decoding modes, the preferred one first."""

_FORMER_FRAME_SECONDS = 0.04
"""Of decodings that do not say how long an encoder frame is: every encoder had this rate."""
_SYSTEM_MARKS = ("decode", "checkpoints", "metrics.jsonl", "config.yaml")


def read_experiments(folders: Sequence[Path]) -> list[SystemRecord]:
    """Read every system below `folders`: experiment folders (of system folders) or folders of one system.

    A system has the name of its folder; where two folders agree, the later one is called
    `<experiment>/<system>`. They are in the order of folders and names.

    Raises:
        UserError: a folder is missing or holds no system, or a file in it cannot be read.
    """
    records: dict[str, SystemRecord] = {}
    for folder in folders:
        for path in _system_folders(Path(folder)):
            name = path.name
            if name in records:
                name = f"{path.parent.name}/{path.name}"
            if name in records:
                raise UserError(f"{path}: a system named '{name}' was given twice")
            records[name] = read_system(path, name)
    return list(records.values())


def _system_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {SYSTEM_FOLDER}, or a folder of such folders")
    folder = folder.resolve() if folder.name in ("", "..") else folder
    if _is_system(folder):
        return [folder]
    systems = [child for child in sorted(folder.iterdir()) if child.is_dir() and _is_system(child)]
    if not systems:
        where = shlex.quote(str(folder / "NAME"))
        raise UserError(
            f"{folder}: holds no system; expected {SYSTEM_FOLDER}, or a folder of such folders; "
            f"train one: kdasr train --config CONF.yaml --system NAME --exp {where}"
        )
    return systems


def _is_system(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _SYSTEM_MARKS)


def read_system(folder: Path, name: str) -> SystemRecord:
    """Read one system's folder; whatever it does not hold yet is empty in the record."""
    config_path, environment_path = folder / "config.yaml", folder / "environment.json"
    return SystemRecord(
        name=name,
        folder=folder,
        config=load_yaml(config_path) if config_path.is_file() else {},
        environment=read_object(environment_path) if environment_path.is_file() else {},
        metrics=read_metrics(folder / "metrics.jsonl"),
        parts=_read_parts(folder / "decode"),
        contexts=[_read_parts(other) for other in sorted(folder.glob("contexts/*"))],
        long_form={
            path.parent.name: read_object(path)
            for path in sorted(folder.glob(str(long_form_path(Path(), "*"))))
        },
    )


def long_form_path(system: Path, part: str) -> Path:
    """The summary of a part that was decoded as long streams, in a system's folder."""
    return system / "decode" / "long-form" / part / SUMMARY


def _read_parts(decode: Path) -> dict[str, DecodedPart]:
    """Every finished part, streaming before offline."""
    parts: dict[str, DecodedPart] = {}
    for mode in MODES:
        for summary in sorted((decode / mode).glob(f"*/{SUMMARY}")):
            folder = summary.parent
            if folder.name not in parts and (folder / UTTERANCES).is_file():
                parts[folder.name] = read_part(folder, mode)
    return dict(sorted(parts.items()))


def read_part(folder: Path, mode: str) -> DecodedPart:
    """Read `summary.json` and `utterances.jsonl` of one decoded part.

    Raises:
        UserError: a file is not as `kdasr decode` writes it, or the two files contradict each other.
    """
    summary = read_object(folder / SUMMARY)
    lacking = {SUMMARY: lacking_in_summary(summary, folder / SUMMARY)}
    path = folder / UTTERANCES
    utterances: dict[str, DecodedUtterance] = {}
    rows = list(json_lines(path))
    for number, row in rows:
        try:
            utterance = _utterance(row, frame_seconds_of(summary))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}, line {number}: not a decoded utterance ({error!r})") from None
        if utterance.id in utterances:
            raise UserError(f"{path}, line {number}: utterance '{utterance.id}' occurs twice")
        utterances[utterance.id] = utterance
    if not utterances or summary.get("num_utterances", len(utterances)) != len(utterances):
        raise UserError(
            f"{path}: {len(utterances)} utterances, but {SUMMARY} counts {summary.get('num_utterances')}; "
            "decode this part again"
        )
    lacking[UTTERANCES] = lacking_in_utterances((row for _, row in rows), streaming=mode == "streaming")
    return DecodedPart(
        part=folder.name,
        mode=mode,
        folder=folder,
        summary=summary,
        utterances=_comparable(utterances, mode),
        gains=read_gains(folder / "gain.json"),
        lacking={file: names for file, names in lacking.items() if names},
    )


def frame_seconds_of(summary: Mapping[str, Any]) -> float:
    """Duration of an encoder frame of the decoding that a `summary.json` is of."""
    return float(summary.get("frame_seconds") or _FORMER_FRAME_SECONDS)


def _comparable(utterances: dict[str, DecodedUtterance], mode: str) -> dict[str, DecodedUtterance]:
    """Without the latencies that mean something else than the others.

    These are all of an offline decoding, those of utterances in which nothing is said, and where some
    utterances have word times those of the others, which count from an energy onset.
    """
    any_aligned = any(utterance.ref_words for utterance in utterances.values())
    return {
        id: utterance
        if mode == "streaming" and utterance.ref and (utterance.ref_words or not any_aligned)
        else replace(
            utterance,
            first_token_ms=None,
            first_token_wall_ms=None,
            first_word_ms=None,
            first_word_wall_ms=None,
            first_token=None,
            emission_delay_ms=(),
            finalization_ms=None,
            first_token_parts_ms=None,
        )
        for id, utterance in utterances.items()
    }


def _utterance(row: Mapping[str, Any], frame_seconds: float) -> DecodedUtterance:
    errors = row["errors"]
    characters = row.get("char_errors") or _character_errors(str(row["ref"]), str(row["hyp"]))
    first = first_word_of(row)
    return DecodedUtterance(
        id=str(row["id"]),
        duration=float(row["duration"]),
        ref=str(row["ref"]),
        hyp=str(row["hyp"]),
        num_errors=int(errors["sub"]) + int(errors["ins"]) + int(errors["del"]),
        num_words=int(errors["words"]),
        num_char_errors=sum(int(characters[kind]) for kind in ("sub", "ins", "del")),
        num_chars=int(characters["chars"]),
        first_word_ms=_measured(first.latency_ms),
        first_word_wall_ms=_measured(first.wall_ms),
        first_token=first.token,
        speaker=str(row.get("speaker") or ""),
        first_token_ms=_measured(row.get("first_token_ms")),
        first_token_wall_ms=_measured(row.get("first_token_wall_ms")),
        emission_delay_ms=tuple(float(value) for value in row.get("emission_delay_ms") or ()),
        finalization_ms=_measured(row.get("finalization_ms")) if last_word_is_right(row) else None,
        first_token_parts_ms=parts_of_first_token(row.get("first_token_parts_ms")),
        ref_words=tuple(
            AlignedWord(w["word"], float(w["start"]), float(w["end"])) for w in row.get("ref_words") or ()
        ),
        tokens=tuple(
            ShownToken(t["piece"], (t["frame"] + 0.5) * frame_seconds, float(t["shown"]))
            for t in row.get("tokens") or ()
        ),
        words=tuple(
            ShownWord(w["word"], float(w["shown"]), w.get("ref_index"), _measured(w.get("confidence")))
            for w in row.get("words") or ()
        ),
    )


def _measured(value: Any) -> float | None:
    return None if value is None else float(value)


def _character_errors(ref: str, hyp: str) -> dict[str, int]:
    """Those of an utterance that was decoded before they were counted."""
    found = character_errors(split_words(ref), split_words(hyp))
    return {
        "sub": found.substitutions,
        "ins": found.insertions,
        "del": found.deletions,
        "chars": found.words,
    }
