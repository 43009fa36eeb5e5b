"""The proposal model of local prior matching: what it proposes, what it said first, when it is replaced.

Hsu, Lee, Synnaeve and Hannun 2020 (arXiv 2002.10336): the proposals of each utterance come from a beam search
by a second model without a language model, made when the utterance's turn comes. The model in training takes
that model's place as soon as it makes fewer errors.
"""

# Shapes: B utterances, T feature frames, F mel bins.

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.common.files import read_json, write_json
from kdasr.data.batch import Batch
from kdasr.decoding.beam import beam_search
from kdasr.decoding.expansion import BeamOptions
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.labels import FirstGuess, Proposal

DATA = "data"
"""Of a file of first guesses: the data that were searched. Earlier versions wrote nothing of them."""
NOT_MEASURED = -1.0
"""In the place of an error. A number: checkpoints with one that is not finite count as damaged."""


class ProposalModel(nn.Module):
    """A frozen model that proposes transcripts: without dropout, whatever mode it is put in.

    Its weights, its dev error and the number of its updates are its state dict, so that an objective that has
    it as a part takes it through checkpoints.
    """

    def __init__(self, model: Transducer, context: Context, later_context: Context) -> None:
        """
        Args:
            model: the first proposal model; frozen in place, so it must not be the one that trains.
            context: what it sees.
            later_context: what a copy of the model in training sees, once that has taken its place.
        """
        super().__init__()
        self.model = model.requires_grad_(False)
        self._contexts = (context, later_context)
        self.error: Tensor
        self.updates: Tensor
        self.register_buffer("error", torch.tensor(NOT_MEASURED, dtype=torch.float64))
        self.register_buffer("updates", torch.tensor(0))
        self.eval()

    @property
    def context(self) -> Context:
        """What the model sees now."""
        return self._contexts[int(self.updates) > 0]

    @property
    def measured(self) -> bool:
        """Whether its error on the dev parts is known."""
        return float(self.error) != NOT_MEASURED

    def train(self, mode: bool = True) -> "ProposalModel":
        """Stay in evaluation mode."""
        super().train(False)
        return self

    @torch.inference_mode()
    def propose(
        self, features_BTF: Tensor, feature_lens_B: Tensor, search: BeamOptions
    ) -> list[list[Proposal]]:
        """At most `search.beam` proposals of each utterance, the best first, no two alike."""
        encoded = self.model.encode(features_BTF, feature_lens_B, self.context)
        listed = beam_search(self.model, encoded.encoded_BTD, encoded.lens_B, search)
        return [[Proposal(tuple(entry.tokens), entry.score) for entry in entries] for entries in listed]

    def set_error(self, error: float) -> None:
        """Say what error the model makes on the dev parts."""
        self.error.fill_(error)

    def consider(self, model: Transducer, error: float) -> bool:
        """Take over the weights of a model that makes a smaller error on the dev parts; whether it did.

        The rule `better` of the paper's program. An error that is not a number is not smaller.
        """
        assert self.measured
        if not error < float(self.error):
            return False
        self.model.load_state_dict(model.state_dict())
        self.set_error(error)
        self.updates += 1
        return True

    def fingerprint(self) -> str:
        """A digest of the weights and of what the model sees."""
        digest = hashlib.sha256(str(self.context).encode())
        for name, tensor in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def seed_hypotheses(
    proposal: ProposalModel, batches: Iterable[Batch], device: torch.device | str, search: BeamOptions
) -> dict[str, FirstGuess]:
    """How long greedy search finds each utterance, and the score of its best hypothesis under a search.

    Greedy search is a beam of one hypothesis. The score of a wider beam is another quantity: it sums over
    the alignments that the beam has met, so scores of labels compare with those of the same beam only.
    """
    guesses = {}
    for batch in batches:
        on_device = batch.to(device)
        listed = proposal.propose(on_device.features_BTF, on_device.feature_lens_B, replace(search, beam=1))
        greedy = [best for (best,) in listed]
        if search.beam > 1:
            listed = proposal.propose(on_device.features_BTF, on_device.feature_lens_B, search)
        for name, first, (best, *_) in zip(batch.ids, greedy, listed, strict=True):
            guesses[name] = FirstGuess(len(first.pieces), best.score_per_piece)
    return guesses


def save_hypotheses(
    path: Path, guesses: dict[str, FirstGuess], fingerprint: str, data: Mapping[str, Any] | None = None
) -> None:
    """Write what the model and the search of this fingerprint said first; `data`: of what, plain values."""
    rows = {name: list(guess) for name, guess in guesses.items()}
    write_json(
        path, {"proposal_model": fingerprint, DATA: dict(data or {}), "pieces_and_score_per_piece": rows}
    )


def load_hypotheses(path: Path, fingerprint: str) -> dict[str, FirstGuess]:
    """Read what `save_hypotheses` wrote.

    Raises:
        UserError: not such a file, or of another model.
    """
    try:
        saved = read_json(path)
        model, rows = saved["proposal_model"], saved["pieces_and_score_per_piece"]
        guesses = {name: FirstGuess(int(count), float(score)) for name, (count, score) in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove it to have it made again") from error
    if model != fingerprint:
        raise UserError(
            f"{path}: of another first proposal model or search ({model}) than `unpaired` has ({fingerprint})"
        )
    return guesses
