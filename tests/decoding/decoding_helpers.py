"""A small random transducer, its encoded utterances, and searches so plain that they can be trusted."""

from collections import defaultdict
from itertools import product
from math import exp, inf, log

import torch
from torch import Tensor, nn

from kdasr.decoding.beam import BeamOptions
from kdasr.models.predictors.base import LastPieces, WindowPredictor
from kdasr.models.predictors.lstm import LstmConfig, LstmPredictor, LstmState

# Shapes: B utterances, T frames, D = J = width, K = 2 pieces, V pieces.

VOCAB, WIDTH = 7, 12
SILENT = (0, 2)
"""Pieces that emit nothing: blank and `<unk>`."""

Sequence = tuple[int, ...]


class Predictor(WindowPredictor, nn.Module):
    context_size = 2

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, WIDTH)
        self.mix = nn.Linear(2 * WIDTH, WIDTH)
        self.calls = 0

    def predict(self, state: LastPieces) -> Tensor:
        context_BK = state.pieces_BK
        self.calls += len(context_BK)
        known = (context_BK >= 0).unsqueeze(-1)
        return self.mix((self.embedding(context_BK.clamp(min=0)) * known).flatten(1))


class Joiner(nn.Module):
    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.project_encoder = nn.Linear(WIDTH, WIDTH)
        self.project_predictor = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, vocab)

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        return self.output(torch.tanh(encoded + predicted))


class Memory(LstmPredictor):
    """A predictor whose output depends on all that was said: on the first piece as well as on the last."""

    def __init__(self, vocab: int) -> None:
        super().__init__(LstmConfig(dim=WIDTH, num_layers=2), vocab)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.mul_(2.0)
        self.calls = 0

    def advance(self, state: LstmState, pieces_B: Tensor) -> LstmState:
        self.calls += len(pieces_B)
        return super().advance(state, pieces_B)


class Model(nn.Module):
    def __init__(self, vocab: int, kind: type[nn.Module]) -> None:
        super().__init__()
        self.predictor, self.joiner = kind(vocab), Joiner(vocab)

    @property
    def num_start_pieces(self) -> int:
        """Pieces that count in the norm of the length before the first one."""
        return 2 if isinstance(self.predictor, Predictor) else 1


KINDS = {"stateless": Predictor, "memory": Memory}


def make_model(vocab: int = VOCAB, sharpness: float = 4.0, kind: str = "stateless") -> Model:
    """A model with opinions: frames with and without a piece."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Model(vocab, KINDS[kind]).eval()
    with torch.no_grad():
        model.joiner.output.weight.mul_(sharpness)
        model.joiner.output.bias[0] += 1.0
    return model


def make_encoded(lens: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(len(lens), max(lens), WIDTH, generator=generator), torch.tensor(lens)


def predicted_after(model: Model, pieces: Sequence) -> Tensor:
    """What the predictor makes of some pieces (D,), from the whole of them at once."""
    if isinstance(model.predictor, Predictor):
        return model.predictor.predict(LastPieces(torch.tensor([(-1, 0, *pieces)[-2:]])))[0]
    return model.predictor(torch.tensor([pieces], dtype=torch.int64))[0, -1]


@torch.no_grad()
def log_probs_after(
    model: Model, encoded_D: Tensor, pieces: Sequence, penalty: float = 0.0, temperature: float = 1.0
) -> list[float]:
    """What the model gives every piece on a frame after some pieces."""
    predicted = model.joiner.project_predictor(predicted_after(model, pieces))
    logits = model.joiner(model.joiner.project_encoder(encoded_D), predicted)
    logits[0] -= penalty
    return (logits.double() / temperature).log_softmax(dim=-1).tolist()


def log_add(values: list[float]) -> float:
    top = max(values)
    return top if top == -inf else top + log(sum(exp(value - top) for value in values))


def plain_beam_search(
    model: Model, encoded_TD: Tensor, options: BeamOptions
) -> list[tuple[Sequence, list[int], float]]:
    """Modified beam search by its definition, without language model and biasing; unsorted."""
    hypotheses: dict[Sequence, tuple[float, list[int]]] = {(): (0.0, [])}
    for frame, encoded_D in enumerate(encoded_TD):
        candidates = []
        for pieces, (score, frames) in hypotheses.items():
            log_probs = log_probs_after(model, encoded_D, pieces, options.blank_penalty, options.temperature)
            for piece, log_prob in enumerate(log_probs):
                longer = (pieces, frames) if piece in SILENT else ((*pieces, piece), [*frames, frame])
                candidates.append((score + log_prob, *longer))
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        hypotheses = {}
        for score, pieces, frames in candidates[: options.beam]:
            if pieces in hypotheses:
                score, frames = log_add([hypotheses[pieces][0], score]), hypotheses[pieces][1]
            hypotheses[pieces] = (score, frames)
    return [(pieces, frames, score) for pieces, (score, frames) in hypotheses.items()]


def all_sequences(model: Model, encoded_TD: Tensor) -> dict[Sequence, float]:
    """Log-probability of every piece sequence: the sum over all alignments, one by one."""
    vocab = model.joiner.output.out_features
    scores = defaultdict(list)
    for alignment in product(range(vocab), repeat=len(encoded_TD)):
        pieces: Sequence = ()
        total = 0.0
        for encoded_D, piece in zip(encoded_TD, alignment, strict=True):
            total += log_probs_after(model, encoded_D, pieces)[piece]
            pieces = pieces if piece in SILENT else (*pieces, piece)
        scores[pieces].append(total)
    return {pieces: log_add(values) for pieces, values in scores.items()}
