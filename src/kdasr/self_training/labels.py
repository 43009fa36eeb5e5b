"""Labels for speech without transcripts: which proposals are kept, and what each of them weighs.

Local prior matching (Hsu, Lee, Synnaeve and Hannun 2020, arXiv 2002.10336) keeps the proposals of a beam
search that are about as long as a first model's greedy hypothesis, and weighs them by a language model alone.
The filters of repeated pairs and of low scores are those of pseudo-labels (Kahn, Lee and Hannun 2020, arXiv
1909.09116), except for their demand of an end: a transducer emits none.
"""

# Shapes: N hypotheses of all utterances, S pieces.

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby, pairwise
from math import ceil, floor, inf
from typing import NamedTuple

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.rescoring import SentenceScorer
from kdasr.distillation.objective_config import HypothesisConfig, LabelConfig


class Proposal(NamedTuple):
    """A hypothesis of the proposal model."""

    pieces: tuple[int, ...]
    score: float
    """Natural logarithm of its probability under the proposal model."""

    @property
    def score_per_piece(self) -> float:
        """The end counts as a piece."""
        return self.score / (len(self.pieces) + 1)


class FirstGuess(NamedTuple):
    """What the first proposal model says of an utterance."""

    num_pieces: int
    """By greedy search."""
    score_per_piece: float
    """That of the best `Proposal`."""


@dataclass(frozen=True)
class Labels:
    """What the utterances of a batch are trained on."""

    owners: list[int]
    """Number of the utterance of each hypothesis, ascending; one without a hypothesis is missing."""
    pieces: list[tuple[int, ...]]
    """At least one each."""
    weights_N: Tensor
    """On the CPU, without gradient."""
    num_utterances: int

    def padded(self) -> tuple[Tensor, Tensor]:
        """Pieces (N, S), padded with blanks, and their lengths (N,), on the CPU."""
        return _pad(self.pieces)

    def shares(self) -> Iterator[tuple[int, Tensor, list[tuple[int, ...]]]]:
        """Of each utterance that has labels its number, their weights made to sum to 1, and their pieces."""
        start = 0
        for owner, group in groupby(self.owners):
            end = start + len(list(group))
            weights_K = self.weights_N[start:end]
            yield owner, weights_K / weights_K.sum(), self.pieces[start:end]
            start = end


class Labeler:
    """Makes labels of proposals."""

    def __init__(
        self,
        config: LabelConfig,
        first: Mapping[str, FirstGuess],
        language_model: SentenceScorer | None = None,
    ) -> None:
        """
        Args:
            config: filters and weights.
            first: utterance -> what the first proposal model said.
            language_model: for the weights `prior`; over the same pieces.

        Raises:
            UserError: an unknown kind of weights, a filter out of range, or no language model for `prior`.
        """
        _check(config, language_model)
        self._config = config
        self._first = first
        self._lowest = lowest_score([guess.score_per_piece for guess in first.values()], config)
        self._language_model = language_model

    def __call__(
        self, ids: Sequence[str], proposals: Sequence[Sequence[Proposal]], device: torch.device | str = "cpu"
    ) -> Labels:
        """Labels of some utterances.

        Args:
            ids: their names.
            proposals: those of each, the best first.
            device: where the language model is.

        Raises:
            UserError: an utterance of which the first proposal model has said nothing.
        """
        kept = [self.select(name, listed) for name, listed in zip(ids, proposals, strict=True)]
        flat = [proposal for survivors in kept for proposal in survivors]
        return Labels(
            owners=[owner for owner, survivors in enumerate(kept) for _ in survivors],
            pieces=[proposal.pieces for proposal in flat],
            weights_N=self._weigh(flat, [len(survivors) for survivors in kept], device),
            num_utterances=len(kept),
        )

    def select(self, name: str, proposals: Sequence[Proposal]) -> list[Proposal]:
        """The proposals of an utterance that survive the filters, each sequence of pieces once.

        Raises:
            UserError: see `__call__`.
        """
        if name not in self._first:
            raise UserError(f"{name}: no greedy hypothesis of the first proposal model for this utterance")
        config, num_first = self._config, self._first[name].num_pieces
        unique = {proposal.pieces: proposal for proposal in reversed(proposals)}
        ordered = [unique.pop(p.pieces) for p in proposals if p.pieces in unique]
        gap = inf if config.max_gap is None else config.max_gap
        lowest = max((p.score for p in ordered), default=0.0) - gap
        return [
            proposal
            for proposal in ordered[: 1 if config.one_best else None]
            if fits_length(len(proposal.pieces), num_first, config.length_tolerance)
            and not 0 < config.max_repeats < most_repeats(proposal.pieces)
            and proposal.score >= lowest
            and proposal.score_per_piece > self._lowest
        ]

    @torch.no_grad()
    def _weigh(self, flat: Sequence[Proposal], counts: Sequence[int], device: torch.device | str) -> Tensor:
        """Weights (N,) of the survivors of all utterances, `counts` of each."""
        kind = self._config.weights
        if not flat:
            return torch.zeros(0)
        if kind == "confidence":
            return torch.tensor([proposal.score_per_piece for proposal in flat]).exp().clamp(max=1.0)
        scores_N = torch.zeros(len(flat))
        if kind == "prior":
            assert self._language_model is not None
            tokens_NS, lens_N = _pad([proposal.pieces for proposal in flat])
            scores_N = self._language_model.log_probs(tokens_NS.to(device), lens_N).float().cpu()
        return torch.cat([part.softmax(dim=0) for part in scores_N.split(list(counts))])


def label_search(config: LabelConfig | HypothesisConfig, section: str = "labels") -> BeamOptions:
    """How what stands for transcripts is searched; `section`: of `unpaired`, where the options stand.

    Raises:
        UserError: a beam or a penalty out of range.
    """
    try:
        return BeamOptions(beam=config.beam, blank_penalty=config.blank_penalty)
    except UserError as error:
        raise UserError(f"unpaired.{section}.{error}") from None


def fits_length(num_pieces: int, num_first: int, tolerance: float | None) -> bool:
    """Whether a hypothesis has a piece, and about as many as the first proposal model's; ends are counted."""
    length, expected = num_pieces + 1, num_first + 1
    if length <= 1 or tolerance is None:
        return length > 1
    share = Fraction(str(tolerance))  # as written: in binary, 1.1 * 50 is more than 55
    return floor((1 - share) * expected) <= length <= ceil((1 + share) * expected)


def most_repeats(pieces: Sequence[int]) -> int:
    """How often the most frequent pair of neighbors occurs."""
    return max(Counter(pairwise(pieces)).values(), default=0)


def lowest_score(scores: Sequence[float], config: LabelConfig) -> float:
    """The quantile `worst_share` of some scores: labels that score no more are dropped."""
    if config.worst_share == 0.0 or not scores:
        return -inf
    return sorted(scores)[max(ceil(Fraction(str(config.worst_share)) * len(scores)) - 1, 0)]


def _pad(pieces: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    lens_N = torch.tensor([len(row) for row in pieces], dtype=torch.int64)
    rows = [torch.tensor(row, dtype=torch.int64) for row in pieces]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lens_N


def _check(config: LabelConfig, language_model: SentenceScorer | None) -> None:
    check_options(config, "unpaired.labels")
    if config.weights == "prior" and language_model is None:
        raise UserError("unpaired.labels.weights 'prior' needs unpaired.language_model")
    label_search(config)
