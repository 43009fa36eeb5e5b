"""Commands that are killed at random times and run again, against the same commands undisturbed."""

import gzip
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch

from torture.processes import Command, Running, run

TIMED = {
    *("rtf", "compute_seconds", "wall", "wall_mean", "seconds", "real_time", "time"),
    *("first_token_wall_ms", "first_token_parts_ms", "step_seconds", "data_seconds"),
    *("samples_per_second", "audio_hours_per_second", "peak_memory_mb"),
}
"""Keys of JSON that hold measured times."""
NOT_COMPARED = (
    *("tensorboard", ".log", "environment.json", ".html", ".png", "export/README.md"),
    "checkpoints/earlier-",
)
"""Logs, dates, pictures with times in them; checkpoints that a training set aside before it began anew."""


def train(system: str, folder: str | None = None, *, processes: int = 1, also: Sequence[str] = ()) -> Command:
    """Train a system of the tiny configuration; `also` are further overrides."""
    exp = f"exp/{folder or system}"
    parts = ("data.dir=data", "data.train_parts=[train-clean-100]", "data.dev_parts=[dev-clean]", *also)
    overrides = [word for part in parts for word in ("--override", part)]
    arguments = ("train", "--config", "conf.yaml", "--system", system, "--exp", exp, *overrides)
    return Command(f"train {folder or system}", arguments, exp, processes)


LABELS = (
    "unpaired.parts=[test-clean]", "unpaired.proposal=teacher", "unpaired.ratio=1", "unpaired.labels.beam=2",
    "unpaired.labels.weights=confidence",
)  # fmt: skip
"""Speech whose labels the teacher proposes first, and the student itself later."""
PARTS = "train-clean-100 dev-clean test-clean"
DECODE = ("decode", "exp/two-stage", "--data", "data", "--parts", "test-clean")
COMMANDS = (
    Command(
        "prepare",
        ("prepare", "--corpus-dir", "corpus/LibriSpeech", "--alignments-dir", "corpus/LibriSpeech-Alignments",
         "--parts", PARTS, "--config", "conf.yaml", "--out", "data", "--jobs", "1"),
        "data",
    ),
    Command("tokens", ("tokens", "--data", "data", "--config", "conf.yaml"), "data"),
    train("teacher"),
    train("two-stage"),
    train("streaming", "two-processes", processes=2),
    train("two-stage", "both-stages-two-processes", processes=2),
    train("streaming", "labels", also=LABELS),
    Command("average", ("average", "exp/two-stage"), "exp/two-stage"),
    Command(
        "calibrate",
        ("calibrate", "exp/two-stage", "--data", "data", "--parts", "dev-clean"),
        "exp/two-stage",
    ),
    Command("decode", (*DECODE, "--streams", "4"), "exp/two-stage/decode"),
    Command("decode --long-form", (*DECODE, "--long-form", "--minutes", "0.5"), "exp/two-stage/decode"),
    Command("export", ("export", "exp/two-stage", "--out", "exp/two-stage/export"), "exp/two-stage/export"),
    Command("report", ("report", "exp", "--data", "data"), "exp/report"),
)  # fmt: skip


@dataclass
class Reference:
    """What an undisturbed run of a command takes and leaves."""

    command: Command
    run: Path
    """Where it ran and runs again, as some results hold their own path."""
    before: Path
    """A copy of that folder as the command finds it."""
    seconds: float
    results: dict[str, str]
    """Digest of each result file."""


def prepare_references(folder: Path, config: Path, size: str = "tiny") -> list[Reference]:
    """Run all commands once, one after another, each in a copy of the folder that the one before left."""
    current = folder / "run"
    current.mkdir(parents=True)
    shutil.copy(config, current / "conf.yaml")
    run(Command("corpus", ("corpus", "synthetic", "--size", size, "--out", "corpus"), "corpus"), current)
    references = []
    for number, command in enumerate(COMMANDS):
        before = folder / f"before-{number}"
        copy_folder(current, before)
        seconds = run(command, current)
        references.append(Reference(command, current, before, seconds, digests(current, command.results)))
    return references


def kill_and_resume(reference: Reference, draws: Random, kills: int) -> str:
    """Kill the command `kills` times, then let it end. Returns what is wrong with the results, or nothing."""
    work = reference.run
    shutil.rmtree(work, ignore_errors=True)
    copy_folder(reference.before, work)
    for _ in range(kills):
        process = Running(reference.command, work)
        # Start-up takes much of the time of a tiny run: later is likelier.
        process.wait(reference.seconds * (1 - 0.8 * draws.random() ** 2))
        process.kill()
    output, status = Running(reference.command, work).finish()
    if status:
        return f"status {status}: {what_is_said(output)}"
    if "Traceback" in output:
        return f"a traceback: {what_is_said(output)}"
    return compare(reference.results, digests(work, reference.command.results))


def what_is_said(output: str) -> str:
    """The lines of an output that tell what went wrong; of several processes each has its own."""
    lines = [line.strip() for line in output.strip().split("\n")]
    telling = [line for line in lines if "kdasr: error:" in line or "Error: " in line]
    return " / ".join(dict.fromkeys(telling))[:1000] or " / ".join(lines[-3:])


def compare(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first result that differs, or nothing."""
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = (
                "missing"
                if name not in found
                else "not there without kills"
                if name not in expected
                else "other"
            )
            return f"{name}: {state}"
    return ""


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder; times of change are kept, by which audio is known."""
    shutil.copytree(source, target, symlinks=True)


def digests(work: Path, results: str) -> dict[str, str]:
    """Of all results of a run in the folder `work`, without measured times."""
    found, folder = {}, work / results
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not any(part in f"{folder.name}/{name}" for part in NOT_COMPARED):
            found[name] = hashlib.sha256(_content(path)).hexdigest()
    return found


def _content(path: Path) -> bytes:
    if path.suffix == ".pt":
        payload = torch.load(path, weights_only=True)
        weights = [(name, tensor.numpy().tobytes()) for name, tensor in sorted(payload["model"].items())]
        return repr((weights, payload.get("train_steps"))).encode()
    content = path.read_bytes()
    if path.suffix == ".gz":
        content = gzip.decompress(content)
    if path.suffix == ".json":
        return json.dumps(_untimed(json.loads(content)), sort_keys=True).encode()
    if path.suffix == ".jsonl":
        return "\n".join(json.dumps(_untimed(json.loads(line))) for line in content.splitlines()).encode()
    return content


def _untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _untimed(item) for key, item in value.items() if key not in TIMED}
    if isinstance(value, list):
        return [_untimed(item) for item in value]
    return value
