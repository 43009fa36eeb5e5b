"""What a corpus is to `kdasr prepare`: some parts, a check of each, and its utterances as Lhotse cuts.

A corpus is one file in this folder, which needs no other mention:

```python
@register
class MyCorpus:
    name = "mine"  # kdasr prepare --corpus mine

    def __init__(self, folder: Path) -> None: ...

    @classmethod
    def open(cls, location: Location, parts: Sequence[str]) -> "MyCorpus": ...

    def parts(self) -> list[str]: ...
    def settings(self) -> dict[str, Any]: ...
    def check(self, part: str, reading: Reading) -> Part: ...
```

Where each utterance has an audio file of its own, `check` can be a list of `Utterance`s given to
`kdasr.corpora.audio_part.audio_part`, which checks and converts the audio.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from lhotse.cut import Cut, MonoCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.corpora.remarks import Remarks
from kdasr.data.bad import BadUtterance


@dataclass(frozen=True)
class Location:
    """Where a corpus lies, as the command line says it. A corpus takes what it needs of it."""

    corpus_dir: Path | None = None
    alignments_dir: Path | None = None
    cuts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Manifests and folders of cuts, by the part that they belong to."""

    def folder(self, corpus: str) -> Path:
        """`corpus_dir`, for a corpus that is a folder.

        Raises:
            UserError: it is not given, or is no folder.
        """
        if self.corpus_dir is None:
            raise UserError(f"--corpus {corpus}: give its folder as --corpus-dir")
        if not self.corpus_dir.is_dir():
            raise UserError(f"{self.corpus_dir}: no such corpus folder")
        return self.corpus_dir


@dataclass(frozen=True)
class Reading:
    """How a part is read."""

    jobs: int = 1
    keep_empty: bool = False
    """Keep utterances with an empty transcript."""
    to_be_labeled: bool = False
    """Nothing is said of transcripts that are missing."""
    watch: Callable[[Path], None] = field(default=lambda path: None)
    """Is told where the audio files of Lhotse cuts are looked for, before they are looked at."""

    def faults_of_text(self, faults: Mapping[str, Sequence[object]]) -> dict[str, Sequence[object]]:
        """What is to be said of utterances without a transcript: with `{}` for what becomes of them."""
        if self.to_be_labeled:
            return {}
        return {what.format("kept" if self.keep_empty else "left out"): ids for what, ids in faults.items()}


class Part(Protocol):
    """A part that was checked: what of it can be used, and what cannot. Nothing has been computed yet."""

    name: str
    bad: list[BadUtterance]
    """Utterances whose audio cannot be used."""
    empty: list[str]
    """Ids with an empty transcript, kept or not."""
    fingerprint: str
    """Changes with the transcripts, the alignments and the audio (see `kdasr.data.fingerprint`)."""

    by_id: bool
    """Whether manifests have the utterances sorted by id, whatever the order of their numbers."""

    @property
    def num_utterances(self) -> int:
        """Those that can be used, as far as is known. They have the numbers from 0 on."""
        ...

    def ids(self) -> Iterator[str]:
        """Of the utterances that can be used, as far as is known."""
        ...

    def digests(self) -> NDArray[np.int64]:
        """`name_digest` of `ids`, sorted."""
        ...

    def notes(self) -> dict[str, Any]:
        """What else is to be remembered in `prepare.json`, such as what is missing. Plain values."""
        ...

    def cuts(self, some: range, converted_dir: Path, jobs: int) -> Iterator["PartCuts"]:
        """One cut per utterance of those with the numbers `some`, a few at a time; the same at every call.

        Each cut has one supervision (text; speaker and language where they are known; `alignment["word"]`
        where there are word times) and a recording of one channel at 16 kHz in a file. Audio of another kind
        is converted into `converted_dir`, unless it is there already.

        Ranges are asked for one after another, in ascending order: nothing of a large part should stay in
        memory. Several processes may ask for some of them each.

        Raises:
            UserError: something that `check` could not see.
        """
        ...


class PartCuts(NamedTuple):
    """What `Part.cuts` gives."""

    cuts: list[MonoCut]
    bad: list[BadUtterance]
    """Utterances whose audio could not be converted; they are not among the cuts."""
    remarks: Remarks


class Place(NamedTuple):
    """Where an utterance stands in a longer recording or text that was read."""

    chapter: str
    """The same for all utterances of it."""
    position: float
    """Ascending in the order in which they were spoken."""


@runtime_checkable
class Corpus(Protocol):
    """A corpus that can be prepared."""

    name: ClassVar[str]
    """Of the kind of corpus: `kdasr prepare --corpus NAME`."""

    @classmethod
    def open(cls, location: Location, parts: Sequence[str]) -> "Corpus":
        """The corpus at a place, for some of its parts; none named: for all.

        Raises:
            UserError: there is no such corpus, or no such part; the message names those that there are.
        """
        ...

    def parts(self) -> list[str]:
        """The parts to prepare: those that it was opened for."""
        ...

    def settings(self) -> dict[str, Any]:
        """What `prepare.json` remembers of where it lies. A part is prepared again when this changes."""
        ...

    def check(self, part: str, reading: Reading) -> Part:
        """Read what a part says of itself, and log what is missing or bad, with counts.

        Raises:
            UserError: it cannot be used as it is.
        """
        ...


class TellsPlaces(Protocol):
    """A corpus whose ids say where an utterance stands."""

    @staticmethod
    def place(utterance_id: str) -> Place | None:
        """From an id; None if it is not one of this corpus."""
        ...


CorpusT = TypeVar("CorpusT", bound=type[Corpus])
_KNOWN: dict[str, type[Corpus]] = {}


def register(corpus: CorpusT) -> CorpusT:
    """Make a kind of corpus known by its name; a decorator.

    Raises:
        ValueError: another one has that name.
    """
    if corpus.name in _KNOWN:
        raise ValueError(f"'{corpus.name}' is the name of another corpus")
    _KNOWN[corpus.name] = corpus
    return corpus


def unregister(name: str) -> None:
    """Forget a kind of corpus."""
    _KNOWN.pop(name, None)


def known_corpora() -> dict[str, type[Corpus]]:
    """The kinds of corpus by name: those of this folder, and what else was registered."""
    _import_this_folder()
    return dict(_KNOWN)


@cache
def _import_this_folder() -> None:
    # Not before they are asked for: the synthetic corpus is made by processes that need none of them.
    for module in iter_modules([str(Path(__file__).parent)]):
        if not module.ispkg:
            import_module(f"{__package__}.{module.name}")


class Takes(Protocol):
    """A corpus that needs not be named where its place tells its kind."""

    @staticmethod
    def takes(location: Location) -> bool:
        """Whether a place is one of this kind, where no kind is named."""
        ...


def open_corpus(name: str | None, location: Location, parts: Sequence[str]) -> Corpus:
    """A corpus of the kind `name`, or of the one that `Takes` such a place; see `Corpus.open`.

    Raises:
        UserError: there is no such kind; see also there.
    """
    known = known_corpora()
    if name is None:
        takes = {key: getattr(corpus, "takes", None) for key, corpus in known.items()}
        name = next((key for key, take in takes.items() if take is not None and take(location)), "")
    if name not in known:
        raise UserError(f"--corpus {name}: no such kind of corpus; known: {', '.join(sorted(known))}")
    return known[name].open(location, parts)


def place_by_fields(cut: Cut) -> Place | None:
    """Where a cut stands in what it is of, by its `custom` fields `chapter` and `position`; None without.

    Raises:
        UserError: a position that is no number.
    """
    custom = getattr(cut, "custom", None) or {}
    if custom.get("chapter") is None:
        return None
    told = custom.get("position") or 0.0
    try:
        position = float(told)
    except (TypeError, ValueError):
        position = math.nan
    if math.isnan(position):
        raise UserError(f"cut '{cut.id}': its custom field 'position' is {told!r}: expected a number")
    return Place(str(custom["chapter"]), position)


def place_by_id(cut: MonoCut) -> Place | None:
    """The same by its id, if it is one of a corpus that `TellsPlaces`."""
    for corpus in known_corpora().values():
        tell = getattr(corpus, "place", None)
        if tell is not None and (found := tell(cut.id)) is not None:
            return found
    return None
