"""From labels to what is trained on: written as the pieces spell, filtered, counted, put into manifests."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lhotse import SupervisionSegment
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem
from lhotse.utils import fastcopy

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.data.folder import write_manifest
from kdasr.evaluation.wer import ErrorCounts, word_errors
from kdasr.labeling.base import Label
from kdasr.labeling.filters import Candidate, Filter, Value, compression_ratio, verdicts
from kdasr.labeling.inputs import DROPPED, OWN_CUTS
from kdasr.labeling.run import LabeledItem, LabelWork
from kdasr.labeling.writing import LabelWriting

log = get_logger(__name__)

SILENT_SECONDS = 0.2
"""Of activity: where there is less, nothing is said, and an empty label is right."""


@dataclass(frozen=True)
class Judged:
    """A label with what the filters say of it."""

    cut: MonoCut
    text: str
    label: Label
    seconds: float
    active: float
    values: dict[str, Value]
    dropped_by: tuple[str, ...]
    """The filters that drop it."""
    errors: ErrorCounts | None
    """Against the transcript; None where there is none."""
    unknown: str
    """Characters that the pieces cannot spell."""
    words: list[AlignmentItem] | None


@dataclass(frozen=True)
class Selection:
    """What decides which labels are kept."""

    works: Sequence[LabelWork]
    """One per labeler; labels are those of the first."""
    writing: LabelWriting
    filters: Sequence[Filter]

    def judge(self, number: int) -> Iterator[Judged]:
        """The labels of a finished shard, one after another."""
        others = [
            {item.id: item.label for item in work.labels(number) if item.label.is_there}
            for work in self.works[1:]
        ]
        cuts = {cut.id: cut for cut in self.works[0].shard(number)}
        for item in self.works[0].labels(number):
            yield self._judge(cuts[item.id], item, [found[item.id] for found in others if item.id in found])

    def _judge(self, cut: MonoCut, item: LabeledItem, others: Sequence[Label]) -> Judged:
        label = item.label
        text = self.writing(label.text, label.language)
        reference = (cut.supervisions[0].text or "").strip()
        candidate = Candidate(
            seconds=item.seconds,
            active=item.active,
            text=text,
            score=label.score,
            no_speech=label.no_speech,
            language=label.language,
            other=self.writing(others[0].text, others[0].language) if others else None,
            unknown=self.writing.unknown(text),
        )
        found = list(verdicts(self.filters, candidate))
        errors = None
        if reference:
            errors = word_errors(
                self.writing(reference, cut.supervisions[0].language or label.language), text
            )
        return Judged(
            cut=cut,
            text=text,
            label=label,
            seconds=item.seconds,
            active=item.active,
            values={entry.name: value for entry, value, _ in found},
            dropped_by=tuple(entry.name for entry, _, keeps in found if not keeps),
            errors=errors,
            unknown=candidate.unknown,
            words=self._words(label, text) if label.words else None,
        )

    def _words(self, label: Label, text: str) -> list[AlignmentItem] | None:
        """Times of the written words; None where written alone they are others than in the text."""
        found = []
        for word in label.words:
            parts = [part for part in self.writing(word.text, label.language).split(" ") if part]
            total = sum(map(len, parts))
            start, length = word.start, max(0.0, word.end - word.start)
            for part in parts:  # a number of several words is shared out by letters
                share = length * len(part) / total
                found.append(AlignmentItem(part, round(start, 4), round(share, 4), word.score))
                start += share
        return found if " ".join(item.symbol for item in found) == text else None

    def write(self, out: Path) -> "Counts":
        """Write the manifests of all shards, `cuts.NNNNNN.jsonl.gz`: what is kept, and what is dropped."""
        counts = Counts([entry.name for entry in self.filters])
        names = set()
        for number in range(len(self.works[0].shards)):
            kept: list[MonoCut] = []
            dropped: list[MonoCut] = []
            for item in self.judge(number):
                counts.add(item)
                (dropped if item.dropped_by else kept).append(self._cut(item))
            for folder, cuts in ((out, kept), (out / DROPPED, dropped)):
                if cuts:
                    path = folder / f"cuts.{number:06d}.jsonl.gz"
                    write_manifest(path, cuts)
                    names.add(path)
        for folder in (out, out / DROPPED):
            for path in folder.glob(OWN_CUTS):
                if path not in names:
                    path.unlink()
        return counts

    def _cut(self, item: Judged) -> MonoCut:
        """A cut as it came, with the label as its transcript."""
        own, label = item.cut.supervisions[0], item.label
        custom = {
            **_without_none({"score": _rounded(label.score), "no_speech": _rounded(label.no_speech)}),
            "labeler": self.works[0].name,
            "compression_ratio": round(compression_ratio(item.text), 4),
            "normalization": self.writing.name,
            "filters": {name: _rounded(value) for name, value in item.values.items()},
            **({"dropped_by": list(item.dropped_by)} if item.dropped_by else {}),
        }
        supervision = SupervisionSegment(
            id=item.cut.id,
            recording_id=own.recording_id,
            start=0.0,
            duration=item.cut.duration,
            channel=own.channel,
            text=item.text,
            language=label.language or own.language,
            speaker=own.speaker,
            custom=custom,
            alignment=None if item.words is None else {"word": item.words},
        )
        return fastcopy(item.cut, supervisions=[supervision])


@dataclass
class Tally:
    """Some labels, added up."""

    labels: int = 0
    seconds: float = 0.0
    compared: int = 0
    """Labels of utterances with a transcript."""
    wrong: int = 0
    """Of these, with at least one word error."""
    errors: ErrorCounts = field(default_factory=ErrorCounts)

    def add(self, item: Judged) -> None:
        """Count a label."""
        self.labels += 1
        self.seconds += item.seconds
        if item.errors is not None:
            self.compared += 1
            self.wrong += item.errors.total > 0
            self.errors = self.errors + item.errors

    @property
    def wer(self) -> float | None:
        """Word error rate in percent; None without transcripts."""
        return self.errors.rate if self.errors.words else None

    @property
    def wrong_share(self) -> float | None:
        """Of the labels with a transcript, in percent."""
        return 100.0 * self.wrong / self.compared if self.compared else None

    def as_json(self) -> dict[str, Any]:
        """For `filters.json`."""
        return {
            "labels": self.labels,
            "hours": round(self.seconds / 3600, 6),
            "compared": self.compared,
            "wer": _rounded(self.wer),
            "wrong_percent": _rounded(self.wrong_share),
        }


@dataclass
class Counts:
    """What filters made of all labels."""

    names: Sequence[str]
    """Of the filters, in their order."""
    all: Tally = field(default_factory=Tally)
    kept: Tally = field(default_factory=Tally)
    dropped: dict[str, Tally] = field(init=False)
    """By filter: what it drops, whatever the others do."""
    alone: dict[str, Tally] = field(init=False)
    """By filter: what would be kept with this filter alone."""
    after: dict[str, Tally] = field(init=False)
    """By filter: what it and those before it keep."""
    languages: dict[str, Tally] = field(default_factory=dict)
    unspelled: dict[str, list[str]] = field(default_factory=dict)
    """By language: labels with characters that the pieces cannot spell."""
    examples: dict[str, str] = field(default_factory=dict)
    """By language: one of those labels."""
    missing: int = 0
    """Utterances that a file of labels lacks."""
    empty_and_silent: int = 0
    """Empty labels of utterances in which nothing is heard: they are right."""

    def __post_init__(self) -> None:
        self.dropped, self.alone, self.after = ({name: Tally() for name in self.names} for _ in range(3))

    def add(self, item: Judged) -> None:
        """Count a label."""
        self.all.add(item)
        self.missing += not item.label.is_there
        self.empty_and_silent += item.label.is_there and not item.text and item.active < SILENT_SECONDS
        if not item.dropped_by:
            self.kept.add(item)
        for name in self.names:
            (self.dropped if name in item.dropped_by else self.alone)[name].add(item)
        for name in self.names:
            if name in item.dropped_by:
                break
            self.after[name].add(item)
        if item.text:
            language = item.label.language or "unknown"
            self.languages.setdefault(language, Tally()).add(item)
            if item.unknown:
                self.unspelled.setdefault(language, []).append(item.cut.id)
                self.examples.setdefault(language, item.text)

    def check_spelling(self) -> None:
        """Say of each language how many labels the pieces cannot spell.

        Raises:
            UserError: they cannot spell most of all labels.
        """
        said = []
        for language, names in sorted(self.unspelled.items()):
            count = self.languages[language].labels
            said.append(
                f"language '{language}': {len(names)} of {count} labels have characters that the pieces "
                f"cannot spell, such as '{self.examples[language][:40]}' ({quote(names)})"
            )
        total = sum(tally.labels for tally in self.languages.values())
        if said and 2 * sum(map(len, self.unspelled.values())) > total:
            raise UserError(f"{'; '.join(said)}: give --tokens that spell this language")
        for line in said:
            log.warning("%s: dropped", line)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _rounded(value: Value) -> Value:
    if not isinstance(value, float):
        return value
    return round(value, 4) if math.isfinite(value) else str(value)


def early_watch(writing: LabelWriting, least: int = 20) -> Any:
    """Ends the labeling once most of at least `least` labels cannot be spelled; a `Watch`."""
    seen: dict[str, list[int]] = {}

    def watch(labels: Iterable[Label]) -> None:
        for label in labels:
            text = writing(label.text, label.language)
            if text:
                counts = seen.setdefault(label.language or "unknown", [0, 0])
                counts[0] += 1
                counts[1] += bool(writing.unknown(text))
        for language, (total, unknown) in seen.items():
            if total >= least and 2 * unknown > total == max(count for count, _ in seen.values()):
                raise UserError(
                    f"language '{language}': {unknown} of the first {total} labels have characters that the "
                    "pieces cannot spell: give --tokens that spell this language. What is labeled is kept"
                )

    return watch
