"""Speech without transcripts: its cuts, and its batches among those with transcripts."""

# Shapes: V cuts of a view.

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lhotse import SupervisionSegment
from lhotse.cut import MonoCut
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.name_digests import name_digest, place_of
from kdasr.data.batch import Batch
from kdasr.data.cut_index import FolderTable
from kdasr.data.fingerprint import fingerprints
from kdasr.data.pace import Pace
from kdasr.data.table_view import TableView
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import MOST_PIECES, count_pieces, cut_text

_LOOKED_AT = 10_000
_AT_ONCE = 1000


def no_pieces(count: int) -> Callable[[Tokenizer], NDArray[np.uint16]]:
    """`CutTable.pieces` of so many cuts without a text."""
    return lambda _: np.zeros(count, np.uint16)


class Transcripts(Mapping[str, str]):
    """The transcripts that some cuts have, by the names of the cuts: read when they are asked for.

    12 bytes of each cut are in memory.
    """

    def __init__(self, table: FolderTable, rows_V: NDArray[np.int32], tokenizer: Tokenizer) -> None:
        """Those of some rows, normalized as the pieces are."""
        self._reader, self._tokenizer = table.reader, tokenizer
        spoken_V = (table.pieces(tokenizer)[rows_V] & MOST_PIECES) > 0
        rows = rows_V[spoken_V]
        names = table.names()[rows]
        order = np.argsort(names, kind="stable")
        self._names, self.rows = names[order], rows[order]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[str]:
        return (self._reader.read([row])[0].id for row in self.rows.tolist())

    def __getitem__(self, name: str) -> str:
        place = place_of(self._names, name)
        if place is None:
            raise KeyError(name)
        (cut,) = self._reader.read([int(self.rows[place])])
        return self._tokenizer.normalize(cut_text(cut))


@dataclass(frozen=True)
class WithTexts:
    """Gives cuts these texts, by their names."""

    texts: Mapping[str, str]

    def __call__(self, cut: MonoCut) -> MonoCut:
        """A copy with its text."""
        return _with_text(without_text(cut), self.texts[cut.id])


def check_all_named(path: Path, known: Iterable[str], view: TableView) -> None:
    """
    Raises:
        UserError: not all cuts of a view are among the names `known`, which stand in the file `path`.
    """
    names = np.fromiter(map(name_digest, known), np.int64)
    missing = np.flatnonzero(~np.isin(names_of(view), names))
    if len(missing):
        (first,) = view.reader.read([int(missing[0])])
        raise UserError(f"{path}: nothing of {len(missing)} utterances, such as {first.id}: other data?")


def rows_named(known: Iterable[str], view: TableView) -> NDArray[np.int32]:
    """The rows of a view whose cuts are among the names `known`."""
    names = np.fromiter(map(name_digest, known), np.int64)
    return np.flatnonzero(np.isin(names_of(view), names)).astype(np.int32)


def names_of(view: TableView) -> NDArray[np.int64]:
    """`name_digest` of the cuts of a view of a data folder, (V,)."""
    assert isinstance(view.table, FolderTable)
    return view.table.names()[view.rows_V]


def digest_of_names(view: TableView) -> str:
    """What earlier versions wrote instead of `TableView.digest`; all cuts are read."""
    digest = hashlib.sha256()
    for row in range(len(view)):
        (cut,) = view.reader.read([row])
        digest.update(f"{chr(10) if row else ''}{cut.id}".encode())
    return digest.hexdigest()


def sources_print(view: TableView, jobs: int = 8) -> str:
    """Changes when what the cuts of a view are heard from is replaced, also by audio of the same length; a
    copy of it has the same. See `fingerprint`: of the audio, or of stored features.

    It looks at no more than 10,000 of the cuts, evenly spread: what it does not see is a replacement of a
    few among many more. `jobs` files at a time.
    """
    rows = list(range(0, len(view), -(-len(view) // _LOOKED_AT) or 1))
    digest = hashlib.sha256()
    for begin in range(0, len(rows), _AT_ONCE):
        cuts = view.reader.read(rows[begin : begin + _AT_ONCE])
        digest.update(f"{[cut.start for cut in cuts]}".encode())
        files = [file for cut in cuts for file in _sources(cut)]
        digest.update(b"".join(fingerprints(files, jobs, timed=False)))
    return digest.hexdigest()[:16]


def _sources(cut: MonoCut) -> list[Path]:
    if cut.features is not None:
        return [Path(cut.features.storage_path)]
    return [Path(source.source) for source in cut.recording.sources if source.type == "file"]


def with_texts(view: TableView, texts: Mapping[str, str]) -> TableView:
    """A view of those of its cuts that have a text, with these texts: by the names of cuts."""
    names_V = names_of(view)
    names = np.fromiter(map(name_digest, texts), np.int64, len(texts))
    order = np.argsort(names)
    sorted_names = names[order]
    places_V = np.searchsorted(sorted_names, names_V)
    has_text_V = np.isin(names_V, names)
    listed = list(texts.values())
    chosen = order[places_V[has_text_V]]

    def pieces(tokenizer: Tokenizer) -> NDArray[np.uint16]:
        return np.fromiter(
            (count_pieces(listed[place], tokenizer) for place in chosen.tolist()), np.uint16, len(chosen)
        )

    rows = view.rows_V[has_text_V]
    return TableView(view.table, rows, WithTexts(texts), pieces, view.lost_flags)


def _with_text(cut: MonoCut, text: str) -> MonoCut:
    with_text = cut.drop_supervisions()
    with_text.supervisions = [replace(cut.supervisions[0], text=text)]
    return with_text


def without_text(cut: MonoCut) -> MonoCut:
    """A cut with an empty transcript.

    The loader wants one supervision per cut: one that there is stays in all but its text and word times.
    """
    changed = cut.drop_supervisions()
    if cut.supervisions:
        changed.supervisions = [replace(cut.supervisions[0], text="", alignment=None)]
    else:
        changed.supervisions = [SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text="")]
    return changed


class Batches(Protocol):
    """An endless stream of batches that can be put back to where it was."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def pace(self) -> Pace: ...


class InterleavedBatches:
    """Some paired batches, then `ratio` times as many unpaired ones, and so on.

    Where each turn is an optimizer step, all batches of a step, on all processes, are of one kind; where a
    step takes all that belong together, each step has both kinds.
    """

    def __init__(self, paired: Batches, unpaired: Batches, ratio: int, accumulate: int = 1) -> None:
        """`accumulate` paired batches come one after another.

        Raises:
            UserError: `ratio` is below 1.
        """
        if ratio < 1:
            raise UserError(f"unpaired.ratio {ratio}: expected 1 or more")
        self._sources = {"paired": paired, "unpaired": unpaired}
        self._rhythm = {"ratio": ratio, "accumulate": accumulate}
        self._count = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        turn = self._count // self._rhythm["accumulate"]
        is_paired = turn % (self._rhythm["ratio"] + 1) == 0
        batch = next(self._sources["paired" if is_paired else "unpaired"])
        self._count += 1
        return replace(batch, paired=is_paired)

    def pace(self) -> Pace:
        """An epoch is a pass over the paired data."""
        unpaired = self._sources["unpaired"].pace()
        return self._sources["paired"].pace().interleaved(unpaired, self._rhythm["ratio"])

    def state_dict(self) -> dict[str, Any]:
        """Where both streams stand, as plain values."""
        own = {name: source.state_dict() for name, source in self._sources.items()}
        return {**own, **self._rhythm, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after the batch that `state` was taken at.

        Raises:
            UserError: the state belongs to another rhythm, or to other data.
        """
        ratio = self._rhythm["ratio"]
        if state.get("ratio") != ratio:
            raise UserError(
                f"cannot resume the data stream: ratio was {state.get('ratio')} and is {ratio} now"
            )
        for name, source in self._sources.items():
            source.load_state_dict(state[name])
        # Another number of processes has another share of each step.
        self._count = int(state["count"]) // int(state["accumulate"]) * self._rhythm["accumulate"]
