"""What is said of the utterances of a part once all of them were looked at: counts, and the first names."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from kdasr.common.logging import get_logger
from kdasr.data.audio_files import SHOWN, quote

log = get_logger(__name__)


@dataclass
class Remarks:
    """Counts over some utterances. Those of several runs of utterances are added up in their order."""

    faults: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    """By what is said of them: how many utterances, and the names of the first ones."""
    notes: dict[str, tuple[int, list[str]]] = field(default_factory=dict)
    """The same of what is no fault."""
    aligned: int = 0
    """Utterances with word times."""
    utterances: int = 0

    def fault(self, what: str, names: Collection[str]) -> None:
        """Say something of some utterances that the user should know."""
        _add(self.faults, what, len(names), list(names)[:SHOWN])

    def note(self, what: str, names: Collection[str]) -> None:
        """Say something of some utterances."""
        _add(self.notes, what, len(names), list(names)[:SHOWN])

    def merge(self, other: "Remarks") -> None:
        """Add what was said of the utterances that follow."""
        for mine, theirs in ((self.faults, other.faults), (self.notes, other.notes)):
            for what, (count, names) in theirs.items():
                _add(mine, what, count, names)
        self.aligned += other.aligned
        self.utterances += other.utterances

    def log(self, part: str, *, word_times: bool = True) -> None:
        """Log them all, one line for each thing that is said; `word_times`: also how many have none."""
        for what, (count, names) in self.notes.items():
            log.info("%s: %d %s: %s", part, count, what, quote(names, count))
        for what, (count, names) in self.faults.items():
            log.warning("%s: %d %s: %s", part, count, what, quote(names, count))
        if word_times and self.aligned < self.utterances:
            without = self.utterances - self.aligned
            log.info("%s: %d of %d utterances have no word alignment", part, without, self.utterances)

    def to_json(self) -> dict[str, Any]:
        """Plain values that `from_json` reads."""
        return {
            "faults": self.faults,
            "notes": self.notes,
            "aligned": self.aligned,
            "utterances": self.utterances,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Remarks":
        """The inverse of `to_json`."""
        faults, notes = (
            {what: (int(count), list(names)) for what, (count, names) in value[kind].items()}
            for kind in ("faults", "notes")
        )
        return cls(faults, notes, int(value["aligned"]), int(value["utterances"]))


def _add(to: dict[str, tuple[int, list[str]]], what: str, count: int, names: list[str]) -> None:
    if count:
        before, known = to.get(what, (0, []))
        to[what] = before + count, [*known, *names][:SHOWN]
