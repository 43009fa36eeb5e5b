"""The features of a part, computed task by task; a task that is done is kept if the part is not finished."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import Features
from lhotse.cut import MonoCut
from rich.progress import track

from kdasr.common.files import read_json, write_json
from kdasr.common.logging import console, get_logger
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance
from kdasr.data.features import (
    ARCHIVE_SUFFIX,
    TICK_POWER,
    FeatureStats,
    compute_features,
    load_cut_samples,
    store_features,
    utterance_of,
)
from kdasr.data.staging import Staged, Workers

log = get_logger(__name__)

CUTS_PER_TASK = 64
MOST_TASKS = 256
"""From so many tasks on they become larger: each has a file of features."""
MOST_PER_TASK = 1024
STATS_SAMPLE = 1000
"""Utterances per training part that give the feature statistics when nothing is stored."""


class TaskResult(NamedTuple):
    """What became of some cuts."""

    features: list[Features | None]
    """None where the audio is bad."""
    stats: FeatureStats
    bad: list[BadUtterance]


@dataclass(frozen=True)
class _Storing:
    """Computes the features of some cuts and stores them in one archive, unless that has been done.

    Runs in worker processes.
    """

    folder: Path
    done: Path
    """A file for each finished task."""
    published_as: str

    def __call__(self, cuts: Sequence[MonoCut]) -> TaskResult:
        digest = hashlib.sha256("\n".join(cut.id for cut in cuts).encode()).hexdigest()[:16]
        record = self.done / f"{digest}.json"
        if record.is_file():
            return _from_json(read_json(record))
        name = f"{digest}{ARCHIVE_SUFFIX}"
        result = TaskResult(*store_features(cuts, self.folder / name, f"{self.published_as}/{name}"))
        write_json(record, _to_json(result))
        return result


def store_part(
    cuts: list[MonoCut], fbank: Staged, published_as: str, workers: Workers, stop_at_once: bool
) -> tuple[FeatureStats, list[BadUtterance]]:
    """Compute, store and attach the features of all cuts.

    Returns:
        Sums over the frames, and the utterances whose audio is bad; their cuts have no features.
    """
    fbank.partial.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(cuts)
    store = _Storing(fbank.partial, fbank.notes, published_as)
    known = len(list(fbank.notes.glob("*.json")))
    if known:
        log.info("%s: goes on after %d of %d tasks", published_as, known, len(tasks))
    results = track(
        workers.map(store, tasks),
        total=len(tasks),
        description=published_as,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    stats, bad = FeatureStats(), list[BadUtterance]()
    for task, result in zip(tasks, results, strict=False):
        stats.merge(result.stats)
        bad += result.bad
        for cut, manifest in zip(task, result.features, strict=True):
            cut.features = manifest
        if bad and stop_at_once:
            break
    return stats, bad


def tasks_of(cuts: Sequence[MonoCut]) -> list[Sequence[MonoCut]]:
    """The cuts in their order, in runs of `CUTS_PER_TASK`; of more where that would be too many runs."""
    size = max(CUTS_PER_TASK, min(MOST_PER_TASK, -(-len(cuts) // MOST_TASKS)))
    return [cuts[start : start + size] for start in range(0, len(cuts), size)]


def check_part(
    cuts: list[MonoCut], workers: Workers, with_stats: bool
) -> tuple[FeatureStats, list[BadUtterance]]:
    """Decode the audio of all cuts, of which nothing is stored; with statistics of some if asked for."""
    recordings = list({utterance_of(cut): cut for cut in cuts}.values())
    tasks = tasks_of(recordings)
    bad = [utterance for found in workers.map(_bad_among, tasks) for utterance in found]
    stats, skipped = FeatureStats(), {utterance.id for utterance in bad}
    if with_stats:
        for cut in cuts[:: max(1, len(cuts) // STATS_SAMPLE)]:
            if utterance_of(cut) not in skipped:
                stats.add(compute_features(load_cut_samples(cut)).numpy())
    return stats, bad


def _bad_among(cuts: Sequence[MonoCut]) -> list[BadUtterance]:
    bad = []
    for cut in cuts:
        try:
            load_cut_samples(cut)
        except AudioError as error:
            bad.append(BadUtterance(utterance_of(cut), str(error.path), error.reason))
    return bad


def _to_json(result: TaskResult) -> dict[str, Any]:
    features = [None if manifest is None else manifest.to_dict() for manifest in result.features]
    return {"features": features, "stats": result.stats.to_json(), "bad": [list(item) for item in result.bad]}


def _from_json(value: dict[str, Any]) -> TaskResult:
    features = [None if item is None else Features.from_dict(item) for item in value["features"]]
    bad = [BadUtterance(*item) for item in value["bad"]]
    return TaskResult(features, FeatureStats.from_json(value["stats"]), bad)


def settings_key(settings: dict[str, Any]) -> str:
    """What tells one way of preparing a part from another, and from that of earlier versions."""
    told = [settings, ARCHIVE_SUFFIX, TICK_POWER]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
