"""Utterances that no path through the lattice fits: they teach nothing, and must not be many."""

from collections.abc import Sequence

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote
from kdasr.training.resume import Progress
from kdasr.training.update import Agreement

logger = get_logger(__name__)

FEW = 10
"""So many do not end a training, whatever their share."""


def count_lost(progress: Progress, agreed: Agreement, ids: Sequence[str], limit: float) -> None:
    """Name those of one step and count them in `progress`.

    Raises:
        UserError: more than the share `limit` of all utterances of the stage so far.
    """
    progress.lost += agreed.num_lost
    total = progress.utterances + agreed.num_utterances
    so_far = f"{progress.lost} of {total} utterances so far"
    logger.warning("step %d: no path fits %s: left out (%s)", progress.step, " ".join(ids), so_far)
    if progress.lost > max(FEW, limit * total):
        raise UserError(
            f"no path fits {so_far}, more than training.max_lost ({limit:g}), among them {quote(ids)}: "
            "they have fewer frames than pieces (a larger data.vocab_size makes fewer), or "
            "objective.rnnt.left_buffer and right_buffer leave no room at their word times"
        )
