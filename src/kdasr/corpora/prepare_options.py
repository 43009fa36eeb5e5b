"""What `kdasr prepare` was asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdasr.common.ranks import Ranks
from kdasr.corpora.base import Corpus, Location, open_corpus
from kdasr.data.bad import MaxBad


@dataclass(frozen=True)
class PrepareOptions:
    """What `kdasr prepare` was asked for."""

    corpus_dir: Path | None
    out_dir: Path
    parts: Sequence[str] = ()
    """None named: all that the corpus has."""
    alignments_dir: Path | None = None
    train_parts: Sequence[str] | None = None
    """None: the parts whose name starts with `train`."""
    speeds: Sequence[float] = (0.9, 1.0, 1.1)
    """Speed factors of the copies in training parts."""
    on_the_fly: bool = False
    """Store no features; training computes them."""
    jobs: int = 1
    max_bad: MaxBad = field(default_factory=MaxBad)
    """Utterances of a part whose audio may be bad; they are left out."""
    keep_empty: bool = False
    """Keep utterances with an empty transcript."""
    corpus: str | None = None
    """The kind of corpus. None: that which takes such a place."""
    cuts: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Manifests and folders of cuts, by part."""
    normalize: str | None = None
    """How text is written before it is cut into pieces (see `kdasr.data.text_rules`). None: as the data
    folder says, and in a new one as it is."""
    ranks: Ranks = field(default_factory=Ranks)
    """Which of several processes that share out the work this one is."""

    def open(self) -> Corpus:
        """The corpus, for the parts that are asked for.

        Raises:
            UserError: there is no such corpus or part.
        """
        location = Location(self.corpus_dir, self.alignments_dir, self.cuts)
        return open_corpus(self.corpus, location, self.parts)

    def speeds_of(self, part: str) -> list[float]:
        """Speeds of one part; evaluation parts are never perturbed."""
        return sorted({float(speed) for speed in self.speeds}) if self.is_train(part) else [1.0]

    def is_train(self, part: str) -> bool:
        """Whether `part` is trained on: it gets speed copies and counts in the feature statistics."""
        return part.startswith("train") if self.train_parts is None else part in self.train_parts
