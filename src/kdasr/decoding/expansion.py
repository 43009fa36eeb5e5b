"""One frame of modified beam search: candidates for every hypothesis, the best kept, those alike merged.

Shapes: B streams, C frames of a chunk, J joiner width, N hypotheses of all streams that have the frame,
V pieces, K candidates per hypothesis.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from math import exp, inf, log1p
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.special_pieces import BLANK_ID, UNK_ID
from kdasr.decoding.biasing import BiasingGraph
from kdasr.decoding.contexts import Context, contexts_of
from kdasr.decoding.fusion import Fused, LanguageModel, advance_fusion
from kdasr.decoding.hypothesis import Emission

if TYPE_CHECKING:
    from kdasr.models.transducer.model import Transducer


MAX_PENALTY = 1e4
"""Nats: far above any difference of logits, and far below what float32 cannot add to them."""


def check_number(name: str, value: float, lowest: float, highest: float) -> None:
    """Raise UserError unless an option is a number in its range."""
    if not lowest <= value <= highest:
        raise UserError(f"{name} {value}: expected a number from {lowest:g} to {highest:g}")


@dataclass(frozen=True)
class BeamOptions:
    """How to search; `kdasr.decoding.beam` says in which order things happen."""

    beam: int = 4
    """Hypotheses kept per stream and frame."""
    blank_penalty: float = 0.0
    """Against deletions: subtracted from the blank's logit."""
    temperature: float = 1.0
    """Divides the logits. Above 1, the model counts as less certain."""
    length_norm: bool = True
    """Compare hypotheses by their score per piece when one is asked for; else by their score."""
    lm_scale: float = 0.0
    """Weight of the language model; 0: there is none."""
    lm_end: bool = True
    """Whether the language model scores the end of the sentence too."""
    late_fusion: bool = False
    """Add language model and biasing only to what the beam has kept without them."""

    def __post_init__(self) -> None:
        if not isinstance(self.beam, int) or self.beam < 1:
            raise UserError(f"beam {self.beam}: expected a whole number, at least 1")
        check_number("temperature", self.temperature, 1e-3, 1e3)
        check_number("blank_penalty", self.blank_penalty, -MAX_PENALTY, MAX_PENALTY)
        check_number("lm_scale", self.lm_scale, -100.0, 100.0)


class BeamHypothesis:
    """A hypothesis in the beam. Never changed once the frame is over."""

    __slots__ = ("bias", "context", "emissions", "fused", "origin", "score", "tokens")

    def __init__(
        self,
        tokens: tuple[int, ...],
        emissions: tuple[Emission, ...],
        context: Context,
        bias: int = 0,
        score: float = 0.0,
        fused: float = 0.0,
        origin: Context | None = None,
    ) -> None:
        self.tokens = tokens
        """Pieces after the settled ones, which all hypotheses of a stream share."""
        self.emissions = emissions
        """The same with frames and probabilities."""
        self.context = context
        """The pieces so far, for the predictor."""
        self.bias = bias
        """State of the biasing graph."""
        self.score = score
        """Natural logarithm, of all pieces; what was added included."""
        self.fused = fused
        """What language model and biasing added."""
        self.origin = origin
        """The context that it was carried over with from an utterance before, if it was: two that differ in
        it are not alike whatever follows."""


@dataclass
class Beams:
    """Some streams on their way through a chunk."""

    projected_BCJ: Tensor
    lens: list[int]
    num_frames: list[int]
    """Frames of each stream before the chunk."""
    biasing: list[BiasingGraph | None]
    hypotheses: list[list[BeamHypothesis]]
    fused: Fused | None = None
    """The language model's rows for the hypotheses of all streams, in order."""


_Candidate = tuple[float, int, int, float, float]
"""Score that it is ranked by, number of its hypothesis, piece, what ranks the piece after that hypothesis,
and what language model and biasing add to it."""

_Origin = tuple[int, int | None]
"""The hypothesis of the frame before that one continues, and the piece it adds, if any."""


class FrameExpansion:
    """Takes beams through one frame."""

    def __init__(
        self, model: "Transducer", options: BeamOptions, language_model: LanguageModel | None
    ) -> None:
        self.contexts = contexts_of(model)
        self._joiner = model.joiner
        self._options = options
        self._language_model = language_model

    def __call__(self, beams: Beams, frame: int) -> None:
        """Replace the hypotheses of every stream whose chunk has this frame."""
        active = [stream for stream, length in enumerate(beams.lens) if frame < length]
        acoustic_NV = self._acoustic(beams, frame, active)
        chosen = self._choose(beams, active, acoustic_NV)
        emitting = iter(acoustic_NV[:, BLANK_ID + 1 :].logsumexp(dim=1).tolist())
        origins: dict[int, list[_Origin]] = {}
        sizes = [len(hypotheses) for hypotheses in beams.hypotheses]
        for stream, candidates in zip(active, chosen, strict=True):
            time, graph = beams.num_frames[stream] + frame, beams.biasing[stream]
            hypotheses = beams.hypotheses[stream]
            parents = list(zip(hypotheses, islice(emitting, len(hypotheses)), strict=True))
            beams.hypotheses[stream], origins[stream] = self._merge(parents, candidates, time, graph)
        if self._language_model is not None and beams.fused is not None:
            flat = _flat_origins(origins, sizes)
            beams.fused = advance_fusion(self._language_model, beams.fused, flat)

    def _acoustic(self, beams: Beams, frame: int, active: Sequence[int]) -> Tensor:
        """The model's log-probability of every piece after every hypothesis (N, V)."""
        contexts = [hypothesis.context for stream in active for hypothesis in beams.hypotheses[stream]]
        predicted_NJ = self.contexts.gather(contexts)
        encoded_BJ = beams.projected_BCJ[:, frame]
        if len(beams.lens) == 1:
            encoded_NJ = encoded_BJ.expand(len(contexts), -1)
        else:
            streams = [stream for stream in active for _ in beams.hypotheses[stream]]
            encoded_NJ = encoded_BJ.index_select(0, torch.tensor(streams, device=encoded_BJ.device))
        logits_NV = self._joiner(encoded_NJ, predicted_NJ).float()
        if self._options.blank_penalty:
            logits_NV[:, BLANK_ID] -= self._options.blank_penalty
        if self._options.temperature != 1.0:
            logits_NV = logits_NV / self._options.temperature
        return logits_NV.log_softmax(dim=1)

    def _added(self, beams: Beams, active: Sequence[int], like_NV: Tensor) -> Tensor | None:
        """What language model and biasing add to every piece (N, V); None where there is neither."""
        added_NV = None
        if beams.fused is not None:
            rows = [stream for stream, of_stream in enumerate(beams.hypotheses) for _ in of_stream]
            added_NV = self._options.lm_scale * beams.fused.log_probs_NV
            if len(active) < len(beams.lens):
                index = [row for row, stream in enumerate(rows) if stream in set(active)]
                added_NV = added_NV.index_select(0, torch.tensor(index, device=added_NV.device))
        if any(beams.biasing[stream] is not None for stream in active):
            boosts_NV = _boosts(beams, active, like_NV.shape[1]).to(like_NV.device)
            added_NV = boosts_NV if added_NV is None else added_NV + boosts_NV
        if added_NV is not None:
            added_NV[:, [BLANK_ID, UNK_ID]] = 0.0  # they emit nothing
        return added_NV

    def _choose(self, beams: Beams, active: Sequence[int], acoustic_NV: Tensor) -> list[Iterator[_Candidate]]:
        """The best candidates of each stream, best first."""
        added_NV = self._added(beams, active, acoustic_NV)
        ranked_NV = acoustic_NV
        if added_NV is not None and not self._options.late_fusion:
            ranked_NV = acoustic_NV + added_NV
        # The best of a stream are among the best of each of its hypotheses.
        values_NK, pieces_NK = ranked_NV.topk(min(self._options.beam, ranked_NV.shape[1]), dim=1)
        totals_BM, rows_BM, places_BM = self._best_of_streams(beams, active, values_NK)
        added_BM = torch.zeros_like(totals_BM)
        if added_NV is not None:
            added_BM = added_NV.gather(1, pieces_NK).take(places_BM)
        columns = (totals_BM, rows_BM, pieces_NK.take(places_BM), values_NK.take(places_BM), added_BM)
        return [zip(*row, strict=True) for row in zip(*(c.tolist() for c in columns), strict=True)]

    def _best_of_streams(
        self, beams: Beams, active: Sequence[int], values_NK: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best M candidates of each stream: scores, hypotheses, and places in `values_NK`."""
        scores = [hypothesis.score for stream in active for hypothesis in beams.hypotheses[stream]]
        # In float64: the score of an hour is a number that float32 rounds to hundredths.
        scores_N = torch.tensor(scores, dtype=torch.float64, device=values_NK.device)
        totals_NK = scores_N.unsqueeze(1) + values_NK
        width = values_NK.shape[1]
        if len(active) == 1:
            totals_1M, places_1M = totals_NK.view(1, -1).topk(min(self._options.beam, totals_NK.numel()))
            return totals_1M, places_1M.div(width, rounding_mode="floor"), places_1M
        sizes = [len(beams.hypotheses[stream]) for stream in active]
        most = max(sizes)
        rows = [most * number + place for number, size in enumerate(sizes) for place in range(size)]
        rows_N = torch.tensor(rows, device=values_NK.device)
        padded_XK = totals_NK.new_full((most * len(active), width), -inf).index_copy(0, rows_N, totals_NK)
        totals_BM, places_BM = padded_XK.view(len(active), -1).topk(min(self._options.beam, most * width))
        starts_B = torch.tensor([0, *accumulate(sizes)][:-1], device=values_NK.device)
        # Where a stream has fewer candidates, the padding's places mean nothing, but must exist.
        flat_BM = (places_BM + width * starts_B.unsqueeze(1)).clamp(max=values_NK.numel() - 1)
        return totals_BM, places_BM.div(width, rounding_mode="floor"), flat_BM

    def _merge(
        self,
        parents: list[tuple[BeamHypothesis, float]],
        candidates: Iterator[_Candidate],
        time: int,
        graph: BiasingGraph | None,
    ) -> tuple[list[BeamHypothesis], list[_Origin]]:
        """A stream's candidates as new hypotheses, those with the same pieces merged.

        `parents` are its hypotheses, each with the log-probability that it emits any piece in this frame.
        """
        kept: dict[Hashable, BeamHypothesis] = {}
        origins: list[_Origin] = []
        late = self._options.late_fusion
        for score, index, piece, value, added in candidates:
            if late:
                score += added
            if score == -inf and kept:
                continue
            parent, emitting = parents[index]
            emits = piece != BLANK_ID and piece != UNK_ID
            tokens = (*parent.tokens, piece) if emits else parent.tokens
            key = tokens if parent.origin is None else (parent.origin, tokens)
            alike = kept.get(key)
            if alike is not None:
                alike.score = log_add(alike.score, score)
                continue
            child = BeamHypothesis(
                tokens,
                parent.emissions,
                parent.context,
                parent.bias,
                score,
                parent.fused + added,
                parent.origin,
            )
            if emits:
                log_prob = value if late else value - added
                child.emissions = (*parent.emissions, Emission(piece, time, log_prob, log_prob - emitting))
                child.context = self.contexts.after(parent.context, piece)
                child.bias = graph.step(parent.bias, piece)[1] if graph is not None else 0
            kept[key] = child
            origins.append((index, piece if emits else None))
        return list(kept.values()), origins


def _boosts(beams: Beams, active: Sequence[int], vocab_size: int) -> Tensor:
    """What the streams' graphs give every piece after every hypothesis (N, V), on the CPU."""
    nothing_V = torch.zeros(vocab_size)
    rows = []
    for stream in active:
        graph = beams.biasing[stream]
        for hypothesis in beams.hypotheses[stream]:
            rows.append(nothing_V if graph is None else graph.scores(hypothesis.bias, vocab_size))
    return torch.stack(rows)


def _flat_origins(origins: dict[int, list[_Origin]], sizes: Sequence[int]) -> list[_Origin]:
    """Origins counted over all streams; those without the frame stay as they are."""
    flat: list[_Origin] = []
    start = 0
    for stream, size in enumerate(sizes):
        of_stream = origins.get(stream) or [(index, None) for index in range(size)]
        flat += [(start + index, piece) for index, piece in of_stream]
        start += size
    return flat


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b)), not both of them minus infinity."""
    low, high = (a, b) if a < b else (b, a)
    return high + log1p(exp(low - high))
