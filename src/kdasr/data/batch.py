"""What the loader hands to training: features and pieces of some utterances, padded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from kdasr.common.feature_frames import KALDI

# Shapes: B utterances, T feature frames (10 ms), F mel bins, S pieces.

MASKED, UNMASKED, CLEAN = TEACHER_FEATURES = ("masked", "unmasked", "clean")
"""What a teacher hears: what its student hears; without masks; or also without the noise of `data.join`."""
REMASKED = "remasked"
"""In place of what a teacher hears: the same with masks drawn anew, for losses that compare two copies."""


@dataclass
class Batch:
    """Padded utterances. Lengths are int64; padding of features and pieces is arbitrary but finite."""

    features_BTF: Tensor
    """Raw log-mel energies, float32."""
    feature_lens_B: Tensor
    """Valid feature frames, on the CPU."""
    tokens_BS: Tensor
    """Piece ids without start or end symbols, padded with 0 (blank)."""
    token_lens_B: Tensor
    """Valid pieces, on the CPU; 0 is allowed."""
    ids: list[str]
    """Cut ids, for messages."""
    texts: list[str]
    """Reference transcripts."""
    audio_seconds: float
    """Total duration of the utterances."""
    word_times_BS2: Tensor | None = None
    """Start and end, in seconds from the first frame, of the word that each piece belongs to; 0 and inf where
    they are not known. None: not asked for."""
    history_BH: Tensor | None = None
    """The last pieces before each utterance, oldest first, int64: what the predictor starts after. As at the
    start of every stream (`Predictor.start_state`) where there are none; None: there are none."""
    teacher_features_BTF: Tensor | None = None
    """What a teacher hears where that is something else: as `features_BTF`, without what makes the student's
    task harder. None: the same. Of a batch in two copies (`REMASKED`): the second one."""
    kind: str = KALDI
    """Of `features_BTF`, one of `feature_frames.KINDS`."""
    teacher_kind: str = KALDI
    """Of `teacher_features_BTF`."""
    paired: bool = True
    """Whether the transcripts are to be learnt; else there are none."""

    def for_teacher(self) -> "Batch":
        """The same batch as a teacher hears it."""
        if self.teacher_features_BTF is None:
            return self
        heard = self.teacher_features_BTF
        return replace(self, features_BTF=heard, teacher_features_BTF=None, kind=self.teacher_kind)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with features and pieces on `device`; lengths stay on the CPU."""
        return Batch(
            features_BTF=self.features_BTF.to(device, non_blocking=True),
            feature_lens_B=self.feature_lens_B,
            tokens_BS=self.tokens_BS.to(device, non_blocking=True),
            token_lens_B=self.token_lens_B,
            ids=self.ids,
            texts=self.texts,
            audio_seconds=self.audio_seconds,
            word_times_BS2=None
            if self.word_times_BS2 is None
            else self.word_times_BS2.to(device, non_blocking=True),
            history_BH=None if self.history_BH is None else self.history_BH.to(device, non_blocking=True),
            teacher_features_BTF=None
            if self.teacher_features_BTF is None
            else self.teacher_features_BTF.to(device, non_blocking=True),
            kind=self.kind,
            teacher_kind=self.teacher_kind,
            paired=self.paired,
        )

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory, from which copies to a GPU run beside its work.

        A data loader with `pin_memory` calls it.
        """
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        # Lengths are read on the CPU alone.
        moved = {name: value.pin_memory() for name, value in tensors.items() if "lens" not in name}
        return replace(self, **moved)  # type: ignore[arg-type]

    def select(self, rows: Sequence[int]) -> "Batch":
        """Some of its utterances, padded to their longest; their audio by their share of the frames."""
        index = torch.tensor(rows, dtype=torch.int64)
        there = index.to(self.features_BTF.device)
        frames, pieces = int(self.feature_lens_B[index].max()), int(self.token_lens_B[index].max())
        share = float(self.feature_lens_B[index].sum()) / max(1.0, float(self.feature_lens_B.sum()))
        return replace(
            self,
            features_BTF=self.features_BTF[there, :frames],
            feature_lens_B=self.feature_lens_B[index],
            tokens_BS=self.tokens_BS[there, :pieces],
            token_lens_B=self.token_lens_B[index],
            ids=[self.ids[row] for row in rows],
            texts=[self.texts[row] for row in rows],
            audio_seconds=self.audio_seconds * share,
            word_times_BS2=None if self.word_times_BS2 is None else self.word_times_BS2[there, :pieces],
            history_BH=None if self.history_BH is None else self.history_BH[there],
            teacher_features_BTF=None
            if self.teacher_features_BTF is None
            else self.teacher_features_BTF[there, :frames],
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def longest_seconds(self) -> float:
        """Audio of the longest utterance."""
        return int(self.feature_lens_B.max()) / 100

    @property
    def longest_pieces(self) -> int:
        """Pieces of the longest transcript."""
        return int(self.token_lens_B.max())

    @property
    def max_splits(self) -> int:
        """Into how many parts `split` can divide the batch."""
        return len(self)

    @property
    def smaller_by(self) -> str:
        """The options that, lowered, make batches smaller."""
        return "data.max_seconds or data.max_duration"

    def split(self, count: int) -> list["Batch"]:
        """Up to `count` parts of whole utterances."""
        count = min(count, len(self))
        bounds = [round(index * len(self) / count) for index in range(count + 1)]
        return [self.select(range(start, end)) for start, end in pairwise(bounds)]
