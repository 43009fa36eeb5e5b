"""What a model says of every utterance before training: searched by all processes, each in its own share.

No process waits for the others in a collective, which would end after the time that a process group allows:
each keeps what it has found in a file, and looks for those of the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kdasr.common.logging import get_logger
from kdasr.common.ranks import Ranks, ShardedJournal, forget_journal
from kdasr.common.waiting import wait_until
from kdasr.data.batch import Batch
from kdasr.data.valid_batches import ValidBatches
from kdasr.decoding.expansion import BeamOptions
from kdasr.self_training.labels import FirstGuess
from kdasr.self_training.proposals import ProposalModel, save_hypotheses, seed_hypotheses

logger = get_logger(__name__)


def warn_of_missing(path: Path, missing: int, total: int) -> None:
    """Say how many of all utterances a finished search lacks, and how they would be searched again."""
    logger.warning(
        "%d of %d utterances could not be searched; where they can be by now, remove %s", missing, total, path
    )


@dataclass(frozen=True)
class SharedSearch(ABC):
    """A search through all unpaired utterances."""

    batches: ValidBatches
    device: torch.device | str
    made_by: str
    """Tells one model and search from another."""
    data: Mapping[str, Any]
    """Plain values that tell one set of batches from another."""

    @abstractmethod
    def find(self, batch: Batch) -> dict[str, Any]:
        """What is said of each utterance, by its name: a plain value. The batch is on the CPU."""

    @abstractmethod
    def save(self, path: Path, found: Mapping[str, Any]) -> None:
        """Write what was found in all batches."""

    def run(self, path: Path, ranks: Ranks) -> None:
        """Write `path` by `save`. What an interrupted call has found is not searched again; batches of which
        it could not read all utterances are, in case these can be read by now.

        The first process writes it, once all shares are there; the others return when it has.
        """
        partial = path.with_name(f"{path.name}.partial")
        journal = ShardedJournal(partial, {"made_by": self.made_by, **self.data}, ranks)
        done = journal.read()
        sizes = self.batches.sizes
        lacking = [number for number, found in done.items() if len(found) < sizes[number]]
        numbers = [number for number in ranks.share(range(len(self.batches))) if number not in done]
        logger.info(
            "first search: %d of %d batches are to be searched",
            len(self.batches) - len(done) + len(lacking),
            len(self.batches),
        )
        for number, batch in self.batches.without(done).share(ranks.rank, ranks.world_size):
            journal.append(number, self.find(batch))
            numbers.remove(number)
        for number in numbers:  # nothing of it could be read
            journal.append(number, {})
        if not ranks.is_first:
            wait_until(path.is_file, f"{path}, which the first process writes")
            return
        if lacking:
            # By the first process alone: what the others find now looks like what they had found before.
            others = set(range(len(self.batches))).difference(lacking)
            for number, batch in self.batches.without(others).share(0, 1):
                journal.append(number, {**self.find(batch), **done[number]})
        wait_until(lambda: len(journal.read()) == len(self.batches), f"the other processes' part of {path}")
        units = journal.read()
        self.save(path, {name: value for number in sorted(units) for name, value in units[number].items()})
        forget_journal(partial)


@dataclass(frozen=True)
class FirstSearch(SharedSearch):
    """The first proposal model's search for how long each utterance is, and how probable."""

    proposal: ProposalModel
    search: BeamOptions

    def find(self, batch: Batch) -> dict[str, Any]:
        """See `seed_hypotheses`."""
        found = seed_hypotheses(self.proposal, [batch], self.device, self.search)
        return {name: list(guess) for name, guess in found.items()}

    def save(self, path: Path, found: Mapping[str, Any]) -> None:
        """By `save_hypotheses`."""
        guesses = {name: FirstGuess(*guess) for name, guess in found.items()}
        save_hypotheses(path, guesses, self.made_by, self.data)
