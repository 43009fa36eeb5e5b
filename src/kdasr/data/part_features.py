"""The features of a part, computed task by task, and its cuts with them: written down task by task.

A task that is done is kept if the part is not finished. Several processes share out the tasks.
"""

import gzip
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lhotse import Features
from lhotse.cut import MonoCut
from rich.progress import track

from kdasr.common.files import atomic_path, read_json, write_json
from kdasr.common.logging import console, get_logger
from kdasr.common.ranks import Ranks
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance
from kdasr.data.copies import Copies
from kdasr.data.features import (
    ARCHIVE_SUFFIX,
    TICK_POWER,
    FeatureStats,
    compute_features,
    load_cut_samples,
    store_features,
    utterance_of,
)
from kdasr.data.folder import line_of
from kdasr.data.runs import RunSizes
from kdasr.data.staging import Staged, Workers

log = get_logger(__name__)

RUN_SIZES = RunSizes(usual=64, longest=1024)
"""In cuts. Each run is a task, and has a file of features."""
STATS_SAMPLE = 1000
"""Utterances per training part that give the feature statistics when nothing is stored."""


class TaskResult(NamedTuple):
    """What became of some cuts."""

    stats: FeatureStats
    bad: list[BadUtterance]
    """Utterances whose audio is bad."""


@dataclass(frozen=True)
class Relocation:
    """Writes paths below the data folder relative to it, so that the folder can be moved."""

    out_dir: Path
    audio: tuple[Path, Path]
    """Where converted audio lies until the part is published, and then."""

    def __call__(self, cut: MonoCut) -> MonoCut:
        """The cut itself, changed."""
        for source in cut.recording.sources:
            path = Path(source.source)
            if path.is_relative_to(self.audio[0]):
                path = self.audio[1] / path.relative_to(self.audio[0])
            within = path.is_relative_to(self.out_dir)
            source.source = str(path.relative_to(self.out_dir) if within else path)
        return cut


@dataclass(frozen=True)
class PartTasks:
    """The cuts of a part in runs. Each becomes lines of its manifest, and an archive of features.

    The lines have paths that hold once the part is published. What was found in a run is a file beside.
    """

    copies: Copies
    notes: Path
    """A folder for what is known of each task."""
    relocate: Relocation
    archives: Path | None
    """Where features are stored. None: they are not, and audio is decoded once to see whether it can be."""
    published_as: str
    """What the manifests name instead of `archives`."""

    def runs(self) -> list[range]:
        """The numbers of the copies of each task."""
        return RUN_SIZES.runs(len(self.copies))

    def run(self, ranks: Ranks, workers: Workers, *, stop_at_once: bool) -> list[BadUtterance]:
        """Do this process's share of the tasks that are not done yet.

        Returns:
            The utterances whose audio is bad, of this share.
        """
        self.notes.mkdir(parents=True, exist_ok=True)
        if self.archives is not None:
            self.archives.mkdir(parents=True, exist_ok=True)
        runs = self.runs()
        known = sum(self.record(number).is_file() for number in range(len(runs)))
        if known:
            log.info("%s: goes on after %d of %d tasks", self.published_as, known, len(runs))
        mine = ranks.share(range(len(runs)))
        results = track(
            workers.map(self, mine),
            total=len(mine),
            description=self.published_as,
            console=console,
            transient=True,
            disable=not (console.is_terminal and ranks.is_first),
        )
        bad: list[BadUtterance] = []
        for result in results:
            bad += result
            if bad and stop_at_once:
                break
        return bad

    def __call__(self, number: int) -> list[BadUtterance]:
        """Do a task, unless that has been done; in whichever process."""
        if self.record(number).is_file():
            return self._result(number).bad
        cuts = self.copies.read(self.runs()[number])
        if self.archives is None:
            result = TaskResult(FeatureStats(), _bad_among(cuts, self.copies.speeds[0]))
        else:
            digest = hashlib.sha256("\n".join(cut.id for cut in cuts).encode()).hexdigest()[:16]
            name = f"{digest}{ARCHIVE_SUFFIX}"
            published_as = f"{self.published_as}/{name}"
            manifests, stats, bad = store_features(cuts, self.archives / name, published_as)
            result = TaskResult(stats, bad)
            _attach(cuts, manifests)
        with (
            atomic_path(self._lines(number)) as temporary,
            gzip.open(temporary, "wb", compresslevel=1) as file,
        ):
            file.writelines(line_of(self.relocate(cut)) for cut in cuts)
        write_json(self.record(number), _to_json(result))
        return result.bad

    def is_complete(self) -> bool:
        """Whether all tasks have been done, by whichever process."""
        return all(self.record(number).is_file() for number in range(len(self.runs())))

    def result(self) -> TaskResult:
        """What became of all cuts."""
        stats, bad = FeatureStats(), list[BadUtterance]()
        for number in range(len(self.runs())):
            result = self._result(number)
            stats.merge(result.stats)
            bad += result.bad
        return TaskResult(stats, bad)

    def lines(self) -> Iterator[bytes]:
        """The line of each cut, in order."""
        for number in range(len(self.runs())):
            with gzip.open(self._lines(number)) as file:
                yield from file

    def record(self, number: int) -> Path:
        """A file that is there once the task is done."""
        return self.notes / f"{number:06d}.json"

    def _lines(self, number: int) -> Path:
        return self.notes / f"{number:06d}.jsonl.gz"

    def _result(self, number: int) -> TaskResult:
        value = read_json(self.record(number))
        bad = [BadUtterance(*item) for item in value["bad"]]
        return TaskResult(FeatureStats.from_json(value["stats"]), bad)


def part_tasks(copies: Copies, fbank: Staged, audio: Staged, out_dir: Path, *, store: bool) -> PartTasks:
    """The tasks of a part whose features and audio are staged in `fbank` and `audio`."""
    return PartTasks(
        copies,
        fbank.notes / "tasks",
        Relocation(out_dir, (audio.partial, audio.target)),
        fbank.partial if store else None,
        f"fbank/{fbank.target.name}",
    )


def sample_stats(copies: Copies, left_out: set[str]) -> FeatureStats:
    """Statistics of some cuts from all over a part, where nothing is stored."""
    stats = FeatureStats()
    for number in range(0, len(copies), max(1, len(copies) // STATS_SAMPLE)):
        cut = copies.copy(number)
        if utterance_of(cut) not in left_out:
            stats.add(compute_features(load_cut_samples(cut)).numpy())
    return stats


def _attach(cuts: list[MonoCut], manifests: list[Features | None]) -> None:
    for cut, manifest in zip(cuts, manifests, strict=True):
        cut.features = manifest


def _bad_among(cuts: list[MonoCut], speed: float) -> list[BadUtterance]:
    """Of the copies at one speed, so that each utterance is decoded once."""
    bad = []
    for cut in cuts:
        if (cut.custom or {})["speed"] != speed:
            continue
        try:
            load_cut_samples(cut)
        except AudioError as error:
            bad.append(BadUtterance(utterance_of(cut), str(error.path), error.reason))
    return bad


def _to_json(result: TaskResult) -> dict[str, Any]:
    return {"stats": result.stats.to_json(), "bad": [list(item) for item in result.bad]}


def settings_key(settings: dict[str, Any]) -> str:
    """What tells one way of preparing a part from another, and from that of earlier versions."""
    sizes = [RUN_SIZES.usual, RUN_SIZES.most_runs, RUN_SIZES.longest]
    told = [settings, ARCHIVE_SUFFIX, TICK_POWER, sizes, "by line"]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
