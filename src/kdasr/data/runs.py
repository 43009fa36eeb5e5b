"""Many things in their order, cut into runs: each is done as a whole, kept as files, and not done again."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RunSizes:
    """How many things a run has."""

    usual: int
    longest: int
    most_runs: int = 256
    """Runs become longer rather than more than these, since each has files; up to `longest`."""

    def runs(self, count: int) -> list[range]:
        """The numbers of `count` things, run by run."""
        size = max(self.usual, min(self.longest, -(-count // self.most_runs)))
        return [range(start, min(start + size, count)) for start in range(0, count, size)]
