"""What ends a training from outside, said in one line: no memory, or a killed worker of the data loader."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line, is_killed_worker, is_out_of_memory
from kdasr.data.audio_files import quote
from kdasr.distillation.step import TrainBatch
from kdasr.training.training_config import TrainerConfig
from kdasr.training.validation import share_of


class StepError(UserError):
    """Training cannot go on, through no fault of its state."""


@contextmanager
def naming_batches(batches: Sequence[TrainBatch], config: TrainerConfig, what: str) -> Iterator[None]:
    """Turn accidents within the block into an `StepError` that names them, and what to change.

    Args:
        batches: what is worked on.
        config: for the option that lowers the need of memory.
        what: the work, such as `step 7`.
    """
    try:
        yield
    except UserError as error:
        raise StepError(f"{what}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if is_killed_worker(error):
            raise StepError(
                f"{what}: a data loader worker was killed, perhaps because memory ran out "
                f"({first_line(error)}): lower data.num_workers"
            ) from error
        if is_out_of_memory(error):
            raise StepError(
                f"{what}: out of memory in a batch of {_describe(batches)}: {_remedy(batches, config)}"
            ) from error
        raise


def pieces_of(batch: TrainBatch, count: int) -> list[TrainBatch]:
    """A batch in up to `count` pieces, as far as it can be divided."""
    return list(batch.split(count)) if min(count, batch.max_splits) > 1 else [batch]


class DevPieces:
    """Dev batches in pieces; says which one is worked on."""

    def __init__(self, batches: Iterable[TrainBatch], count: int, current: list[TrainBatch]) -> None:
        """`count` pieces of each batch, as far as it can be divided; `current` gets the one that is next."""
        self._batches, self._count, self._current = batches, count, current

    def __iter__(self) -> Iterator[TrainBatch]:
        return (piece for _, piece in self.share(0, 1))

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, TrainBatch]]:
        """See `Shareable`; pieces of a batch have its number."""
        for number, batch in share_of(self._batches, rank, world_size):
            for piece in pieces_of(batch, self._count):
                self._current[:] = [piece]
                yield number, piece


def _describe(batches: Sequence[TrainBatch]) -> str:
    ids = [name for batch in batches for name in batch.ids]
    longest = max((batch.longest_seconds for batch in batches), default=0.0)
    tokens = max((batch.longest_pieces for batch in batches), default=0)
    length = f"the longest of {longest:.1f} s and {tokens} pieces" if longest else f"up to {tokens} pieces"
    return f"{len(ids)} utterances, {length} ({quote(ids)})"


def _remedy(batches: Sequence[TrainBatch], config: TrainerConfig) -> str:
    if config.split_batches < max((batch.max_splits for batch in batches), default=1):
        return f"raise training.split_batches, now {config.split_batches}: the same model in less memory"
    options = batches[0].smaller_by if batches else "the size of a batch"
    return f"lower {options}, which is another run"
