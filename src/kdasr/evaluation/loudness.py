"""How loud the recordings of a part are, and how many errors there are when they are louder or quieter."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.signal_check import SignalReport
from kdasr.evaluation.evaluate import Record, Recording
from kdasr.evaluation.statistics import summarize
from kdasr.evaluation.wer import ErrorCounts, character_errors, word_errors
from kdasr.recognition.audio import Samples
from kdasr.recognition.simulate import Simulation
from kdasr.recognition.sources import SampleSource

log = get_logger(__name__)

GAIN_FILE = "gain.json"
LARGEST_GAIN_DB = 60.0
STREAMS = 16
"""Streams that advance in one batch; nothing is timed."""


def signal_summary(part: str, records: Sequence[Record]) -> dict[str, Any]:
    """The entry `signal` of `summary.json`: levels, and utterances by kind of fault, which are logged too."""
    levels: list[float] = []
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    faulty: list[str] = []
    for record in records:
        report = SignalReport(seconds=record["duration"], **record["signal"])
        levels.append(report.level_dbfs)
        if found := report.faults:
            kinds.update(found.keys())
            faulty.append(record["id"])
            for kind, fault in found.items():
                examples.setdefault(kind, f"{record['id']} {fault}")
    if faulty:
        counts = "; ".join(f"{count}, such as {examples[kind]}" for kind, count in kinds.items())
        log.warning(
            "%s: the audio of %d of %d utterances is faulty (%s): %s",
            part, len(faulty), len(levels), counts, quote(faulty),
        )  # fmt: skip
    return {"level_dbfs": summarize(levels), "faults": dict(kinds)}


def parse_gains(text: str) -> list[float]:
    """Gains in dB, separated by commas or spaces, ascending.

    Raises:
        UserError: not numbers, or beyond `LARGEST_GAIN_DB`.
    """
    try:
        gains = sorted({float(word) for word in text.replace(",", " ").split()})
    except ValueError:
        gains = []
    if not gains or not all(abs(gain) <= LARGEST_GAIN_DB for gain in gains):
        raise UserError(
            f"--gain-db '{text}': expected numbers of dB such as -30,-20,-10,10, at most {LARGEST_GAIN_DB:g}"
        )
    return gains


class GainFile:
    """`gain.json` of a decoded part: error rates at several gains, kept while the settings are the same."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, anew: bool = False) -> None:
        """Read what is there; a file of other settings is removed, and with `anew` any."""
        self._path = folder / GAIN_FILE
        self._settings = settings
        known = read_object(self._path) if self._path.is_file() else {}
        entries = known.get("results", [])
        if anew or known.get("settings") != settings:
            self._path.unlink(missing_ok=True)
            entries = []
        self._entries = {entry["gain_db"]: entry for entry in entries}

    def missing(self, gains: Sequence[float]) -> list[float]:
        """Those gains that are not measured yet; without a gain, `summary.json` has the rates."""
        return [gain for gain in gains if gain not in self._entries and gain != 0.0]

    def add(self, entry: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Keep a result on the disk, beside the rates without a gain, which `summary` has."""
        unchanged = {"gain_db": 0.0, "wer": summary.get("wer"), "cer": summary.get("cer")}
        self._entries |= {0.0: unchanged, entry["gain_db"]: dict(entry)}
        results = [self._entries[gain] for gain in sorted(self._entries)]
        write_json(self._path, {"settings": self._settings, "results": results})


def louder(recording: Recording, gain_db: float) -> Recording:
    """A recording that is louder by so much, cut at full scale as in a file of 16 bits."""
    return replace(recording, samples_N=_Louder(recording.samples_N, gain_db))


def errors_of(recording: Recording, simulation: Simulation) -> dict[str, list[int]]:
    """Substitutions, insertions, deletions and length, in words and in characters: plain values."""
    said = [word.text for word in simulation.result.words]
    kinds = {"wer": word_errors(recording.ref, said), "cer": character_errors(recording.ref, said)}
    return {name: list(astuple(errors)) for name, errors in kinds.items()}


def error_rates(gain_db: float, counts: Iterable[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """The entry of `gain.json` from the `errors_of` all recordings."""
    sums = {"wer": ErrorCounts(), "cer": ErrorCounts()}
    for found in counts:
        for name, numbers in found.items():
            sums[name] += ErrorCounts(*numbers)
    rates = {name: total.rate if total.words else None for name, total in sums.items()}
    return {"gain_db": gain_db, **rates}


class _Louder:
    """The samples of a recording, louder, and cut at full scale."""

    def __init__(self, source: SampleSource, gain_db: float) -> None:
        self._source = source
        self._factor = np.float32(10 ** (gain_db / 20))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, span: slice, /) -> Samples:
        return (self._source[span] * self._factor).clip(-1.0, 1.0)
