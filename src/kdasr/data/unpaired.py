"""Speech without transcripts: its cuts, and its batches among those with transcripts."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from lhotse import CutSet, SupervisionSegment
from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.data.pace import Pace
from kdasr.data.usable import cut_text


def without_transcripts(cuts: CutSet) -> tuple[CutSet, dict[str, str]]:
    """Cuts with empty transcripts, and the transcripts that they had, by the names of the cuts.

    The loader wants one supervision per cut: one that there is stays in all but its text and word times.
    """
    transcripts = {cut.id: cut_text(cut) for cut in cuts if cut_text(cut)}
    return CutSet.from_cuts(_without_text(cut) for cut in cuts), transcripts


def with_texts(cuts: CutSet, texts: Mapping[str, str]) -> CutSet:
    """Cuts of `without_transcripts` with these texts, by their names; those without one are left out."""
    return CutSet.from_cuts(_with_text(cut, texts[cut.id]) for cut in cuts if cut.id in texts)


def _with_text(cut: MonoCut, text: str) -> MonoCut:
    with_text = cut.drop_supervisions()
    with_text.supervisions = [replace(cut.supervisions[0], text=text)]
    return with_text


def _without_text(cut: MonoCut) -> MonoCut:
    without_text = cut.drop_supervisions()
    if cut.supervisions:
        without_text.supervisions = [replace(cut.supervisions[0], text="", alignment=None)]
    else:
        without_text.supervisions = [SupervisionSegment(cut.id, cut.recording_id, 0.0, cut.duration, text="")]
    return without_text


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
