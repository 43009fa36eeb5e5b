"""How loud the recordings of a part are, and how many errors there are when they are louder or quieter."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.signal_check import measure_signal
from kdasr.decoding.statistics import summarise
from kdasr.decoding.wer import ErrorCounts, character_errors, word_errors
from kdasr.streaming.evaluate import Recording, decode_offline, decode_streaming
from kdasr.streaming.recognizer import StreamingRecognizer

log = get_logger(__name__)

GAIN_FILE = "gain.json"
LARGEST_GAIN_DB = 60.0
STREAMS = 16
"""Streams that advance in one batch; nothing is timed."""


@dataclass
class Loudness:
    """What is measured of the recordings of a part on the way to the recogniser."""

    levels_dbfs: list[float] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    """By utterance, what is wrong with its signal."""
    kinds: Counter[str] = field(default_factory=Counter)
    """Utterances by kind of fault."""

    def watch(self, recordings: Iterable[Recording]) -> Iterator[Recording]:
        """The same recordings, measured as they pass."""
        for recording in recordings:
            report = measure_signal(recording.samples_N)
            self.levels_dbfs.append(report.level_dbfs)
            if found := report.faults:
                self.kinds.update(found.keys())
                self.faults[recording.id] = "; ".join(found.values())
            yield recording

    def warn(self, part: str) -> None:
        """Log how many utterances have a fault, and the first of them."""
        if self.faults:
            counts = ", ".join(f"{kind} {count}" for kind, count in self.kinds.items())
            named = quote(f"{name} ({fault})" for name, fault in self.faults.items())
            total = len(self.levels_dbfs)
            log.warning(
                "%s: the audio of %d of %d is faulty (%s): %s", part, len(self.faults), total, counts, named
            )

    def summary(self) -> dict[str, Any]:
        """The entry `signal` of `summary.json`."""
        return {"level_dbfs": summarise(self.levels_dbfs), "faults": dict(self.kinds)}


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

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], summary: Mapping[str, Any], *, anew: bool = False
    ) -> None:
        """Read what is there; a file of other settings is removed, and with `anew` any.

        `summary` has the rates without a gain.
        """
        self._path = folder / GAIN_FILE
        self._settings = settings
        known = read_json(self._path) if self._path.is_file() else {}
        entries = known.get("results", [])
        if anew or known.get("settings") != settings:
            self._path.unlink(missing_ok=True)
            entries = []
        unchanged = {"gain_db": 0.0, "wer": summary["wer"], "cer": summary["cer"]}
        self._entries = {entry["gain_db"]: entry for entry in [unchanged, *entries]}

    def missing(self, gains: Sequence[float]) -> list[float]:
        """Those gains that are not measured yet."""
        return [gain for gain in gains if gain not in self._entries]

    def add(self, entry: Mapping[str, Any]) -> None:
        """Keep what `decode_at_gain` says, on the disk too."""
        self._entries[entry["gain_db"]] = dict(entry)
        results = [self._entries[gain] for gain in sorted(self._entries)]
        write_json(self._path, {"settings": self._settings, "results": results})


def decode_at_gain(
    recognizer: StreamingRecognizer, recordings: Iterable[Recording], gain_db: float, offline: bool
) -> dict[str, Any]:
    """Error rates when every recording is louder by `gain_db`, cut at full scale as in a file of 16 bits."""
    louder = (_louder(recording, gain_db) for recording in recordings)
    if offline:
        decoded = decode_offline(recognizer, louder)
    else:
        decoded = decode_streaming(recognizer, louder, streams=STREAMS)
    words, characters = ErrorCounts(), ErrorCounts()
    for recording, simulation in decoded:
        said: Sequence[str] = [word.text for word in simulation.result.words]
        words += word_errors(recording.ref, said)
        characters += character_errors(recording.ref, said)
    return {
        "gain_db": gain_db,
        "wer": words.rate if words.words else None,
        "cer": characters.rate if characters.words else None,
    }


def _louder(recording: Recording, gain_db: float) -> Recording:
    samples_N = recording.samples_N * np.float32(10 ** (gain_db / 20))
    return replace(recording, samples_N=samples_N.clip(-1.0, 1.0))
