"""Labeling: shard by shard and batch by batch. What is done is kept, and several processes share the batches.

No process waits for another one. A shard's labels are written, by whoever finishes it, when the last of its
batches is labeled; until then each process keeps its batches in a journal of its own.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.files import read_object, write_json, write_text
from kdasr.common.lines import text_lines
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.common.ranks import Ranks, ShardedJournal, forget_journal
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance
from kdasr.data.features import load_cut_samples
from kdasr.evaluation.batches import BATCH_SECONDS, batches_of
from kdasr.labeling.activity import active_seconds
from kdasr.labeling.base import Label, Labeler, Speech
from kdasr.labeling.utterances import Utterances

log = get_logger(__name__)

SETTINGS, AUDIO = "settings.json", "audio.json"
_WINDOW = 30.0
"""Seconds of audio that a labeler is taken to hear at once, for the size of a batch."""

Watch = Callable[[Sequence[Label]], None]
"""Sees the labels of every batch; may raise UserError to end the work."""


@dataclass(frozen=True)
class LabeledItem:
    """What is known of an utterance once it is labeled."""

    id: str
    seconds: float
    active: float
    """Seconds in which something is heard; see `kdasr.labeling.activity`."""
    label: Label

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"id": self.id, "seconds": self.seconds, "active": self.active, **self.label.as_json()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "LabeledItem":
        """The inverse of `as_json`."""
        rest = dict(value)
        return cls(rest.pop("id"), rest.pop("seconds"), rest.pop("active"), Label.from_json(rest))


class Progress:
    """Is told how much audio has been labeled; says nothing."""

    def advance(self, seconds: float, by_earlier_run: bool = False) -> None:
        """So many seconds more, which this run labeled, or an earlier one that was stopped."""

    def finish(self) -> None:
        """It ends here."""


@dataclass
class LabelWork:
    """The utterances that one labeler labels."""

    name: str
    """Of the labeler, as the command has it."""
    labeler: Labeler
    cuts: Utterances
    """The same in every process."""
    folder: Path
    """Where the labels go."""
    settings: Mapping[str, Any]
    """Plain values that decide the labels."""
    shard_size: int
    batch_size: int
    ranks: Ranks
    watch: Watch = field(default=lambda labels: None)

    @cached_property
    def shards(self) -> list[range]:
        """The numbers of the utterances of each shard."""
        count, size = len(self.cuts), self.shard_size
        return [range(at, min(at + size, count)) for at in range(0, count, size)]

    def shard(self, number: int) -> list[MonoCut]:
        """The utterances of a shard, which are read."""
        return self.cuts.read(self.shards[number])

    def labels_path(self, number: int) -> Path:
        """The labels of a shard, an utterance per line."""
        return self.folder / f"labels.{number:06d}.jsonl"

    def pace_path(self, number: int) -> Path:
        """How long it took, and the utterances whose audio could not be read."""
        return self.folder / f"pace.{number:06d}.json"

    def _journal_path(self, number: int) -> Path:
        return self.folder / f"shard.{number:06d}.partial"

    def is_finished(self, number: int) -> bool:
        """Whether a shard is labeled, without anything that may be read by now."""
        return self.labels_path(number).is_file() and not self._journals(number)

    def finished(self) -> list[bool]:
        """`is_finished` of each shard; the folder is listed once."""
        names = {path.name for path in self.folder.iterdir()}
        open_ones = {name.partition("-")[0] for name in names if name.startswith("shard.")}
        return [
            self.labels_path(number).name in names and self._journal_path(number).name not in open_ones
            for number in range(len(self.shards))
        ]

    def _journals(self, number: int) -> list[Path]:
        return list(self.folder.glob(f"{self._journal_path(number).name}*"))

    def check_settings(self, *, force: bool = False) -> None:
        """Note what decides the labels. Shards whose audio has been replaced have no labels any more.

        Raises:
            UserError: the folder has labels of other settings.
        """
        path = self.folder / SETTINGS
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = json.loads(json.dumps(self.settings))
        with locked(self.folder):
            found = read_object(path) if path.is_file() else None
            if found is not None and found != wanted and not force:
                names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
                raise UserError(
                    f"{self.folder}: holds labels of another {', '.join(names)}: give another --out, "
                    "or --force to make them anew"
                )
            if force:
                for file in self.folder.iterdir():
                    file.unlink()
            if found != wanted or force:
                write_json(path, wanted)
            self._forget_labels_of_other_audio()

    def _forget_labels_of_other_audio(self) -> None:
        path = self.folder / AUDIO
        prints_N = self.cuts.prints
        now = [hashlib.sha256(prints_N[some.start : some.stop].tobytes()).hexdigest() for some in self.shards]
        # Earlier versions noted nothing: what they have labeled counts as labels of what is there now.
        noted = read_object(path)["shards"] if path.is_file() else now
        pairs = enumerate(zip(now, noted, strict=True))
        changed = [number for number, (one, other) in pairs if one != other]
        for number in changed:
            for file in (self.labels_path(number), self.pace_path(number)):
                file.unlink(missing_ok=True)
            forget_journal(self._journal_path(number))
        if changed:
            log.warning("%s: audio has been replaced; %d shard(s) are labeled again", self.name, len(changed))
        if changed or not path.is_file():
            write_json(path, {"shards": now})

    def run(self, show: Callable[[float, float], Progress] = lambda done, total: Progress()) -> bool:
        """Label this process's share of what is not labeled yet.

        Args:
            show: from the seconds of audio that are done already and those of all to what shows the progress.

        Returns:
            Whether all labels are there; other processes may have some in hand.
        """
        seconds = [float(self.cuts.seconds[some.start : some.stop].sum()) for some in self.shards]
        finished = self.finished()
        done = sum(length for length, is_done in zip(seconds, finished, strict=True) if is_done)
        if not all(finished):
            progress = show(done, sum(seconds))
            try:
                for number, is_done in enumerate(finished):
                    if not is_done:
                        self._label_shard(number, progress)
            finally:
                progress.finish()
        return all(self.labels_path(number).is_file() for number in range(len(self.shards)))

    def _label_shard(self, number: int, progress: Progress) -> None:
        cuts = self.shard(number)
        by_length = sorted(cuts, key=lambda cut: (cut.duration, cut.id))
        batches = list(batches_of(by_length, max(BATCH_SECONDS, self.batch_size * _WINDOW)))
        with locked(self.folder):
            if self.is_finished(number):
                return
            journal = ShardedJournal(self._journal_path(number), self.settings, self.ranks)
            done = journal.read(_is_whole)
        whole = {unit for unit, value in done.items() if _is_whole(value)}
        if whole:
            log.info(
                "%s: shard %d goes on after %d of %d batches", self.name, number, len(whole), len(batches)
            )
        for unit in whole:
            progress.advance(sum(cut.duration for cut in batches[unit]), by_earlier_run=True)
        for unit in self.ranks.share(range(len(batches))):
            if unit not in whole:
                journal.append(unit, self._label_batch(batches[unit]))
                progress.advance(sum(cut.duration for cut in batches[unit]))
        with locked(self.folder):
            units = journal.read(_is_whole)
            if self.is_finished(number) or len(units) < len(batches):
                return
            self._write(number, cuts, list(units.values()))
            if all(map(_is_whole, units.values())):
                forget_journal(self._journal_path(number))

    def _label_batch(self, batch: Sequence[MonoCut]) -> dict[str, Any]:
        speech, bad = [], []
        for cut in batch:
            try:
                speech.append(Speech(cut.id, load_cut_samples(cut).numpy()))
            except AudioError as error:
                bad.append([cut.id, str(error.path), error.reason])
        started = time.perf_counter()
        labels = self.labeler.label(speech) if speech else []
        compute = time.perf_counter() - started
        self.watch(labels)
        items = [
            LabeledItem(item.id, round(item.seconds, 4), round(active_seconds(item.samples_N), 3), label)
            for item, label in zip(speech, labels, strict=True)
        ]
        return {"items": [item.as_json() for item in items], "bad": bad, "compute": round(compute, 3)}

    def _write(self, number: int, cuts: Sequence[MonoCut], units: Sequence[dict[str, Any]]) -> None:
        found = {item["id"]: item for unit in units for item in unit["items"]}
        lines = (json.dumps(found[cut.id], ensure_ascii=False) for cut in cuts if cut.id in found)
        pace = {
            "compute": round(sum(unit["compute"] for unit in units), 3),
            "audio": round(sum(item["seconds"] for item in found.values()), 3),
            "bad": [item for unit in units for item in unit["bad"]],
        }
        write_json(self.pace_path(number), pace)
        write_text(self.labels_path(number), "".join(f"{line}\n" for line in lines))

    def labels(self, number: int) -> Iterator[LabeledItem]:
        """The labels of a finished shard, in the order of its utterances."""
        for line in text_lines(self.labels_path(number)):
            yield LabeledItem.from_json(json.loads(line))

    def pace(self) -> tuple[float, float]:
        """Seconds of compute, of all processes together, and of audio that was labeled in them."""
        found = [read_object(self.pace_path(number)) for number in range(len(self.shards))]
        return sum(item["compute"] for item in found), sum(item["audio"] for item in found)

    def bad(self) -> list[BadUtterance]:
        """The utterances whose audio could not be read."""
        found = (read_object(self.pace_path(number)) for number in range(len(self.shards)))
        return [BadUtterance(*item) for entry in found for item in entry["bad"]]


def _is_whole(unit: Any) -> bool:
    return not unit["bad"]
