"""A made-up experiment in the files that training and decoding write, for tests of the report.

`python tests/report/fake_experiment.py DIR` writes one to look at, with a data folder beside it.
"""

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from kdasr.evaluation.first_token import first_token_parts
from kdasr.nn.context import Context
from kdasr.recognition.windows import Windows
from kdasr.testing import tiny_config

TEXT = """the river house open seven quiet morning carry letter window under mountain paper yellow
market before children walk stone evening story garden little answer winter bridge"""
WORDS = TEXT.split()
PARTS = ("test-clean", "test-other")
CHUNK_SECONDS = 0.32
SAMPLE_RATE = 16000


@dataclass(frozen=True)
class FakeSystem:
    """How good and how late a made-up system is."""

    error_rate: float
    delay: float
    """Seconds from the end of a piece to its emission."""
    chunked: bool
    stages: tuple[tuple[str, int, dict[str, float]], ...]


ROLES = {"teacher": "teacher", "baselines": ["streaming", "streaming-init"], "method": "two-stage"}
"""The section `report` of every configuration, as a recipe has it."""
_RNNT = {"rnnt": 1.0, "ctc": 0.5}
SYSTEMS = {
    "teacher": FakeSystem(0.04, 0.1, False, (("train", 1400, _RNNT),)),
    "streaming": FakeSystem(0.17, 0.22, True, (("train", 1000, _RNNT),)),
    "streaming-init": FakeSystem(0.11, 0.3, True, (("train", 1000, _RNNT),)),
    "two-stage": FakeSystem(
        0.09,
        0.16,
        True,
        (("hidden", 400, _RNNT | {"hidden_mse": 1.0}), ("output", 600, _RNNT | {"output_kl": 0.3})),
    ),
}


def write_experiment(
    folder: Path, systems: dict[str, FakeSystem] | None = None, num_utterances: int = 20
) -> Path:
    """Write a folder per system, each decoded on both parts."""
    for name, system in (SYSTEMS if systems is None else systems).items():
        write_system(folder / name, name, system, num_utterances)
    return folder


def write_system(
    folder: Path, name: str, system: FakeSystem, num_utterances: int = 20, mode: str = "streaming"
) -> None:
    """Write one system's configuration, environment, log and decoded parts."""
    write_training(folder, name, system)
    for part in PARTS:
        write_part(folder, name, system, part, num_utterances, mode)


def write_training(folder: Path, name: str, system: FakeSystem) -> None:
    """What training leaves behind: config.yaml, environment.json and metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    context = (
        {"left": 32, "chunk": 8, "right": 0} if system.chunked else {"left": -1, "chunk": -1, "right": 0}
    )
    stages = [
        {"name": stage, "num_steps": steps, "loss_weights": weights, "init_from": None}
        for stage, steps, weights in system.stages
    ]
    config = {"name": name, "seed": 1, "contexts": [context], "data": {"dir": "nowhere"}, "stages": stages}
    config["report"] = ROLES
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    environment = {
        "python": "3.11.9",
        "platform": "Linux x86_64",
        "versions": {"torch": "2.11.0", "lhotse": "1.33.0"},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    rows = list(_metrics(system, np.random.default_rng(len(name))))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _metrics(system: FakeSystem, random: np.random.Generator) -> Any:
    step = 0
    floors = {"rnnt": 0.08, "ctc": 0.1, "hidden_mse": 0.03, "output_kl": 0.02}
    for stage, steps, weights in system.stages:
        for stage_step in range(50, steps + 1, 50):
            fade = math.exp(-(step + stage_step) / 250)
            for split in ("train", "valid") if stage_step % 200 == 0 else ("train",):
                noise = 1 + random.normal(0, 0.06 if split == "train" else 0.02)
                terms = {term: (floors[term] + 0.9 * fade) * noise for term in weights}
                row = {
                    "split": split,
                    "stage": stage,
                    "step": step + stage_step,
                    "stage_step": stage_step,
                    "terms": terms,
                    "total": sum(weights[term] * value for term, value in terms.items()),
                    "lr": 1e-3,
                    "grad_norm": 1.0,
                    "audio_hours_per_second": 0.02,
                    "seconds": float(step + stage_step),
                }
                if split == "valid":
                    row["wer"] = 100 * min(1.0, (system.error_rate + 1.3 * fade) * noise)
                yield row
        step += steps


def write_part(
    folder: Path, name: str, system: FakeSystem, part: str, num_utterances: int, mode: str = "streaming"
) -> None:
    """What decoding leaves behind: summary.json and utterances.jsonl of one part."""
    out = folder / "decode" / mode / part
    out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([len(name), PARTS.index(part) if part in PARTS else 9])
    rate = system.error_rate * (1.0 if part == "test-clean" else 2.2)
    rows = [
        _utterance(id, words, system, rate, random, mode)
        for id, words in fake_references(part, num_utterances)
    ]
    (out / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    counts = {key: sum(row["errors"][key] for row in rows) for key in ("sub", "ins", "del", "words")}
    summary = {
        "system": name,
        "part": part,
        "mode": mode,
        "wer": 100 * (counts["sub"] + counts["ins"] + counts["del"]) / counts["words"],
        "num_words": counts["words"],
        "num_utterances": len(rows),
        "errors": counts,
        "rtf": 0.031,
        "train_steps": sum(steps for _, steps, _ in system.stages),
        "params": 2_310_000,
        "context": "left=32 chunk=8 right=0" if system.chunked else "full",
        "onset": "alignment",
        "calibration": {"slope": 1.2, "offset": -2.0} if name != "streaming" else None,
        "checkpoint": str(folder / "checkpoints" / "averaged.pt"),
    }
    (out / "summary.json").write_text(json.dumps(summary))


def write_long_form(folder: Path, part: str, wer: float = 20.0, gaps: tuple[float, ...] = (0.0, 1.0)) -> None:
    """What `kdasr decode --long-form` leaves behind: summary.json of one part."""
    conditions = [
        _long_form(gap, endpoints, wer * (0.5 if endpoints else 1.0))
        for gap in gaps
        for endpoints in (False, True)
    ]
    out = folder / "decode" / "long-form" / part
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps({"system": folder.name, "conditions": conditions}))


def _long_form(gap: float, endpoints: bool, wer: float) -> dict[str, Any]:
    summary = {"mean": 600.0, "p50": 590.0, "p90": 700.0, "p99": 720.0, "count": 18}
    minute = {"wer": wer, "substitutions": 0, "deletions": round(wer / 2), "insertions": 0, "words": 50}
    return {
        "gap_s": gap,
        "noise": "quiet" if gap else "none",
        "endpoints": endpoints,
        "minutes": 2.0,
        "wer": wer,
        "wer_ci": [wer - 5, wer + 5],
        "substitutions": 0,
        "deletions": round(wer),
        "insertions": 0,
        "words": 100,
        "single_wer": 4.0,
        "single_wer_ci": [2.0, 6.0],
        "shifted_wer": 5.0,
        "shifted_wer_ci": [3.0, 7.0],
        "wer_increase": wer - 4.0,
        "wer_increase_ci": [wer - 8.0, wer],
        "relative_increase": 100 * (wer / 4.0 - 1),
        "relative_increase_ci": [0.0, 900.0],
        "first_word_ms": summary,
        "first_word_coverage": 0.9,
        "single_first_word_ms": summary,
        "single_first_word_coverage": 1.0,
        "emission_delay_ms": summary,
        "wer_by_minute": [{"minute": 1, **minute}, {"minute": 2, **minute}],
        "num_utterances": 20,
        "onset": "alignment",
    }


def fake_references(part: str, count: int) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """The same utterances for every system: id, and words with their start and end."""
    random = np.random.default_rng(len(part) * 7)
    references = []
    for index in range(count):
        time, words = 0.2 + 0.3 * random.random(), []
        for word in random.choice(WORDS, size=random.integers(4, 12)):
            length = 0.09 * len(word) * random.uniform(0.75, 1.2)
            words.append((str(word), round(time, 2), round(time + length, 2)))
            time += length + random.choice([0.02, 0.02, 0.02, 0.25])
        references.append((f"{1000 + index}-{part[5]}-{index:04d}", words))
    return references


def _utterance(
    id: str,
    ref: list[tuple[str, float, float]],
    system: FakeSystem,
    rate: float,
    random: np.random.Generator,
    mode: str,
) -> dict[str, Any]:
    duration = ref[-1][2] + 0.4
    errors = {"sub": 0, "ins": 0, "del": 0, "words": len(ref)}
    tokens: list[dict[str, Any]] = []
    words: list[dict[str, Any]] = []
    delays = []
    for index, (word, start, end) in enumerate(ref):
        draw = random.random()
        if draw < 0.25 * rate:
            errors["del"] += 1
            continue
        heard, correct = word, True
        if draw < rate:
            errors["sub"] += 1
            heard, correct = str(random.choice([w for w in WORDS if w != word])), False
        for place in range(0, len(heard), 3):
            emitted = (
                start
                + (end - start) * min(1.0, (place + 3) / len(heard))
                + system.delay * random.uniform(0.6, 1.4)
            )
            shown = duration
            if system.chunked:
                shown = min(duration, math.ceil(emitted / CHUNK_SECONDS) * CHUNK_SECONDS)
            piece = ("▁" if place == 0 else "") + heard[place : place + 3].upper()
            tokens.append(
                {
                    "piece": piece,
                    "frame": int(min(emitted, duration) / 0.04),
                    "shown": shown,
                    "wall": shown + 0.012,
                }
            )
        words.append({
            "word": heard.upper(),
            "shown": tokens[-1]["shown"],
            "wall": tokens[-1]["wall"],
            "ref_index": index if correct else None,
            "confidence": round(float(random.beta(9, 2) if correct else random.beta(3, 3)), 6),
        })  # fmt: skip
        if correct:
            delays.append(1000 * (tokens[-1]["shown"] - end))
    measured = bool(tokens) and mode == "streaming"
    context = Context(32, 8) if system.chunked else Context.full()
    windows = Windows(context, tiny_config().geometry)
    parts = None
    if measured:
        first = tokens[0]
        parts = asdict(first_token_parts(first["frame"], first["shown"], first["wall"], ref[0][1], windows))
    return {
        "id": id,
        "duration": duration,
        "ref": " ".join(word.upper() for word, _, _ in ref),
        "hyp": " ".join(word["word"] for word in words),
        "ref_words": [{"word": word.upper(), "start": start, "end": end} for word, start, end in ref],
        "tokens": tokens,
        "words": words,
        "errors": errors,
        "first_token_ms": 1000 * (tokens[0]["shown"] - ref[0][1]) if measured else None,
        "first_token_wall_ms": 1000 * (tokens[0]["wall"] - ref[0][1]) if measured else None,
        "emission_delay_ms": delays if measured else [],
        "finalization_ms": 1000 * (tokens[-1]["shown"] - ref[-1][2]) if measured else None,
        "first_token_parts_ms": parts,
        "compute_seconds": 0.03 * duration,
    }


def write_data(folder: Path, num_utterances: int = 20) -> Path:
    """A data folder with a manifest of cuts per part, whose audio hums while there is a word."""
    import soundfile
    from lhotse import CutSet, Recording

    from kdasr.data.folder import RECORD, VERSION

    (folder / "audio").mkdir(parents=True)
    for part in PARTS:
        cuts = []
        for id, words in fake_references(part, num_utterances):
            path = folder / "audio" / f"{id}.flac"
            soundfile.write(path, _hum(words), SAMPLE_RATE)
            recording = Recording.from_file(path, recording_id=id)
            recording.sources[0].source = f"audio/{id}.flac"
            cuts.append(recording.to_cut().with_id(id))
        CutSet.from_cuts(cuts).to_file(folder / f"cuts_{part}.jsonl.gz")
    record = {"version": VERSION, "parts": {part: {"settings": {"train": False}} for part in PARTS}}
    (folder / RECORD).write_text(json.dumps(record))
    return folder


def _hum(words: list[tuple[str, float, float]]) -> np.ndarray:
    random = np.random.default_rng(0)
    samples = random.normal(0, 0.002, int((words[-1][2] + 0.4) * SAMPLE_RATE))
    for word, start, end in words:
        time = np.arange(int(start * SAMPLE_RATE), int(end * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 110 + 3 * len(word)
        formants = (300 + 37 * (ord(word[0]) % 16), 1200 + 61 * (ord(word[-1]) % 16), 2600)
        for harmonic in range(1, 40):
            near = sum(math.exp(-(((harmonic * pitch - formant) / 180) ** 2)) for formant in formants)
            samples[int(start * SAMPLE_RATE) : int(start * SAMPLE_RATE) + len(time)] += (
                0.08 * near * np.sin(2 * np.pi * harmonic * pitch * time)
            )
    return np.clip(samples, -1, 1)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    write_experiment(target / "exp")
    write_data(target / "data")
