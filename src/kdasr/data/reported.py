"""What goes wrong while a batch is made, in one line, from worker processes too.

A data loader wraps an exception of a worker in the text of its traceback; so workers hand over the message.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lhotse.cut import MonoCut
from torch.utils.data import Dataset

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line, is_out_of_memory
from kdasr.data.audio_files import quote
from kdasr.data.audio_reading import AudioError
from kdasr.data.batch_maker import BatchMaker, Plan
from kdasr.data.features import load_cut_samples
from kdasr.data.join import segments_of

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Failure:
    """Why there is no batch."""

    message: str


class Reported(Dataset[Any]):
    """The batches of a maker, or why there is none."""

    def __init__(self, maker: BatchMaker) -> None:
        self._maker = maker

    def __getitem__(self, plan: Plan) -> Any:
        try:
            return self._maker[plan]
        except Exception as error:  # every backend of audio and of storage raises its own kind
            message = _explain(error, plan)
            if message is None:
                raise
            return Failure(message)


def raising(items: Iterator[ItemT | Failure]) -> Iterator[ItemT]:
    """The items.

    Raises:
        UserError: one of them is a failure.
    """
    for item in items:
        if isinstance(item, Failure):
            raise UserError(item.message)
        yield item


def _explain(error: Exception, plan: Plan) -> str | None:
    """What the user can mend; None for anything else."""
    if isinstance(error, UserError):
        return str(error)
    cuts = [segment for cut in plan.cuts for segment in segments_of(cut) if isinstance(segment, MonoCut)]
    if is_out_of_memory(error):
        seconds = sum(cut.duration for cut in cuts)
        names = quote(cut.id for cut in cuts)
        return (
            f"out of memory while a batch of {len(cuts)} utterances, {seconds:.0f} s, was made ({names}): "
            "lower data.num_workers"
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}: run `kdasr prepare` again"
    for cut in cuts:
        try:
            if not cut.has_features:
                load_cut_samples(cut)
            else:
                cut.load_features()
        except AudioError as fault:
            return str(fault)
        except Exception as fault:
            where = getattr(cut.features, "storage_key", "") if cut.has_features else ""
            return f"{cut.id}: its features cannot be read ({where}: {first_line(fault)}): prepare them again"
    return None
