"""What goes wrong while a batch is made: bad audio costs its utterance, the rest is said in one line.

A data loader wraps an exception of a worker in the text of its traceback; so workers hand over messages.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lhotse import CutSet
from lhotse.cut import MixedCut, MonoCut
from torch.utils.data import Dataset

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line, is_out_of_memory
from kdasr.common.logging import OWN_SHARE, get_logger
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import AudioError
from kdasr.data.bad import BadUtterance, MaxBad
from kdasr.data.batch_maker import BatchMaker, BatchPlan
from kdasr.data.join import mixed, segments_of

log = get_logger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why there is no batch."""

    message: str


@dataclass(frozen=True)
class Made:
    """A batch of what could be read of its plan."""

    item: Any
    """Epoch, number and batch; None: nothing of it could."""
    bad: tuple[BadUtterance, ...] = ()

    def pin_memory(self) -> "Made":
        """The same in page-locked memory, see `Batch.pin_memory`."""
        if self.item is None:
            return self
        *place, batch = self.item
        return replace(self, item=(*place, batch.pin_memory()))


class Reported(Dataset[Any]):
    """The batches of a maker without the utterances whose audio or features cannot be read."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, plan: BatchPlan) -> Made | Failure:
        try:
            try:
                return Made(self._maker[plan])
            except Exception as error:  # every backend of audio and of storage raises its own kind
                if not _may_be_bad(error):
                    raise
                # If each can be read now, the fault may have passed: the same batch once more.
                bad = self._unreadable(plan)
                rest = without(plan.cuts, {utterance.id for utterance in bad})
                return Made(self._maker[plan._replace(cuts=rest)] if len(rest) else None, bad)
        except Exception as error:
            message = _explain(error, plan)
            if message is None:
                raise
            return Failure(message)

    def _unreadable(self, plan: BatchPlan) -> tuple[BadUtterance, ...]:
        """Those of a plan whose audio or stored features cannot be read, whichever its batch needs."""
        bad = []
        for cut in _utterances(plan):
            try:
                self._maker.read(cut)
            except Exception as fault:
                where = cut.recording.sources[0].source if cut.recording is not None else cut.id
                if self._maker.hears_stored and not isinstance(fault, AudioError):
                    where = f"{cut.features.storage_path}/{cut.features.storage_key}"
                reason = fault.reason if isinstance(fault, AudioError) else first_line(fault)
                bad.append(BadUtterance(cut.id, str(where), reason))
        return tuple(bad)


@dataclass
class BadAudio:
    """Names utterances that could not be read, each once, and ends the work when they are too many."""

    total: int
    """Utterances in all."""
    limit: MaxBad
    endless: bool = False
    """Whether batches are asked for until there are some: then not all utterances may be bad."""
    found: dict[str, BadUtterance] = field(default_factory=dict)

    def add(self, bad: tuple[BadUtterance, ...]) -> None:
        """
        Raises:
            UserError: more than the limit, or nothing is left of what is `endless`.
        """
        new = [utterance for utterance in bad if utterance.id not in self.found]
        self.found |= {utterance.id: utterance for utterance in new}
        so_far = f"{len(self.found)} of {self.total} utterances cannot be read"
        if len(self.found) > self.limit.of(self.total):
            raise UserError(
                f"{so_far}, more than data.max_bad {self.limit} allows: {quote(list(self.found.values()))}: "
                "copy these files again, or run `kdasr prepare` again"
            )
        if self.endless and len(self.found) >= self.total:
            raise UserError(f"{so_far}, so nothing is left: {quote(list(self.found.values()))}")
        if new:
            log.warning("left out, %s: %s", so_far, quote(new), extra=OWN_SHARE)


def good_ones(items: Iterator[Made | Failure], bad_audio: BadAudio) -> Iterator[Any]:
    """The batches; those of which nothing could be read are passed over.

    Raises:
        UserError: there is no batch for another reason, or too much is bad.
    """
    for made in items:
        if isinstance(made, Failure):
            raise UserError(made.message)
        if made.bad:
            bad_audio.add(made.bad)
        if made.item is not None:
            yield made.item


def without(cuts: CutSet, ids: set[str]) -> CutSet:
    """The cuts without some utterances; of a joined one, its pauses and other utterances stay."""
    kept: list[MonoCut | MixedCut] = []
    for cut in cuts:
        segments = segments_of(cut)
        rest = [segment for segment in segments if segment.id not in ids]
        spoken = [segment for segment in rest if isinstance(segment, MonoCut)]
        if len(rest) == len(segments):
            kept.append(cut)
        elif spoken:
            kept.append(mixed("+".join(segment.id for segment in spoken), rest))
    return CutSet.from_cuts(kept)


def _may_be_bad(error: Exception) -> bool:
    return not is_out_of_memory(error) and (isinstance(error, AudioError) or not isinstance(error, UserError))


def _utterances(plan: BatchPlan) -> list[MonoCut]:
    return [segment for cut in plan.cuts for segment in segments_of(cut) if isinstance(segment, MonoCut)]


def _explain(error: Exception, plan: BatchPlan) -> str | None:
    """What the user can mend; None for anything else."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        cuts = _utterances(plan)
        seconds = sum(cut.duration for cut in cuts)
        names = quote(cut.id for cut in cuts)
        return (
            f"out of memory while a batch of {len(cuts)} utterances, {seconds:.0f} s, was made ({names}): "
            "lower data.num_workers"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}: run `kdasr prepare` again"
    return None
