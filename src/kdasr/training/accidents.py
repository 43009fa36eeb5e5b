"""What ends a training from outside, said in one line: no memory, or a killed worker of the data loader."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line, is_killed_worker, is_out_of_memory
from kdasr.data.audio_files import quote
from kdasr.data.batch import Batch
from kdasr.training.config import TrainerConfig
from kdasr.training.module import AnyBatch


class AccidentError(UserError):
    """Training cannot go on, through no fault of its state."""


@contextmanager
def naming_accidents(batches: Sequence[AnyBatch], config: TrainerConfig, what: str) -> Iterator[None]:
    """Turn accidents within the block into an `AccidentError` that names them, and what to change.

    Args:
        batches: what is worked on.
        config: for the option that lowers the need of memory.
        what: the work, such as `step 7`.
    """
    try:
        yield
    except UserError as error:
        raise AccidentError(f"{what}: {error}") from error
    except (MemoryError, RuntimeError) as error:
        if is_killed_worker(error):
            raise AccidentError(
                f"{what}: a data loader worker was killed, perhaps because memory ran out "
                f"({first_line(error)}): lower data.num_workers"
            ) from error
        if is_out_of_memory(error):
            raise AccidentError(
                f"{what}: out of memory in a batch of {_describe(batches)}: {_remedy(batches, config)}"
            ) from error
        raise


def pieces_of(batch: AnyBatch, count: int) -> list[AnyBatch]:
    """A batch in up to `count` pieces of whole utterances; text stays in one."""
    if count == 1 or not isinstance(batch, Batch):
        return [batch]
    count = min(count, len(batch))
    bounds = [round(index * len(batch) / count) for index in range(count + 1)]
    return [batch.select(range(start, end)) for start, end in pairwise(bounds)]


def _describe(batches: Sequence[AnyBatch]) -> str:
    ids = [name for batch in batches for name in batch.ids]
    audio = [batch for batch in batches if isinstance(batch, Batch)]
    longest = max((int(batch.feature_lens_B.max()) for batch in audio), default=0) / 100
    tokens = max((int(batch.token_lens_B.max()) for batch in batches), default=0)
    length = f"the longest of {longest:.1f} s and {tokens} pieces" if audio else f"up to {tokens} pieces"
    return f"{len(ids)} utterances, {length} ({quote(ids)})"


def _remedy(batches: Sequence[AnyBatch], config: TrainerConfig) -> str:
    if not any(isinstance(batch, Batch) for batch in batches):
        return "lower data.batch_pieces, which is another run"
    largest = max(len(batch) for batch in batches)
    if config.split_batches < largest:
        return f"raise training.split_batches, now {config.split_batches}: the same model in less memory"
    return "lower data.max_seconds or data.max_duration, which is another run"
