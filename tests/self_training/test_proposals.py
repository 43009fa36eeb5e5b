"""The proposal model: what it proposes, its first guesses on the disk, and the rule that replaces it."""

from pathlib import Path

import pytest
import torch

from kdasr.common.errors import UserError
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.objective_config import LabelConfig
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.labels import FirstGuess, Labeler, label_search
from kdasr.self_training.proposals import ProposalModel, load_hypotheses, save_hypotheses, seed_hypotheses
from kdasr.testing import dummy_batch, tiny_config, tiny_model

FULL, STREAMING = Context.full(), Context(left=4, chunk=2)


def talkative(seed: int = 0) -> Transducer:
    """A random model that emits pieces, with dropout."""
    config = tiny_config()
    config.encoder.dropout = 0.5
    torch.manual_seed(seed)
    model = build_transducer(config)
    with torch.no_grad():
        model.joiner.output.weight.mul_(8.0)
    return model


def test_first_guesses_are_those_of_greedy_search() -> None:
    """Without dropout, though the objective is put into training mode."""
    model, batch = talkative(), dummy_batch()
    proposal = ProposalModel(model, FULL, STREAMING)
    torch.nn.Sequential(proposal).train()
    guesses = seed_hypotheses(proposal, [batch], "cpu", BeamOptions(beam=1))
    encoded = model.encode(batch.features_BTF, batch.feature_lens_B, FULL)
    found = greedy_search(model, encoded.encoded_BTD, encoded.lens_B)
    assert [guess.num_pieces for guess in guesses.values()] == [len(one.tokens) for one in found]
    assert sum(len(one.tokens) for one in found) > 5
    assert list(guesses) == batch.ids


@pytest.mark.parametrize("beam", [1, 4])
def test_first_guesses_score_as_labels_of_the_same_beam(beam: int) -> None:
    """So that the filter of low scores drops the share that it names: half of them here."""
    proposal, batch = ProposalModel(talkative(), FULL, STREAMING), dummy_batch()
    guesses = seed_hypotheses(proposal, [batch], "cpu", BeamOptions(beam=beam))
    config = LabelConfig(beam=beam, one_best=True, weights="uniform", length_tolerance=None, worst_share=0.5)
    proposals = proposal.propose(batch.features_BTF, batch.feature_lens_B, BeamOptions(beam=beam))
    labels = Labeler(config, guesses)(batch.ids, proposals)
    assert len(labels.pieces) == len(batch) // 2


def test_a_blank_penalty_counts_in_first_guesses_and_in_proposals() -> None:
    """A large one leaves no blank: every frame has a piece, in first guesses as in proposals."""
    proposal, batch = ProposalModel(talkative(), FULL, STREAMING), dummy_batch()
    frames = proposal.model.encode(batch.features_BTF, batch.feature_lens_B, FULL).lens_B.tolist()
    search = label_search(LabelConfig(beam=2, blank_penalty=1e3))
    guesses = seed_hypotheses(proposal, [batch], "cpu", search)
    assert [guess.num_pieces for guess in guesses.values()] == frames
    listed = proposal.propose(batch.features_BTF, batch.feature_lens_B, search)
    assert [len(entry.pieces) for entries in listed for entry in entries] == [f for f in frames for _ in "12"]


def test_proposals_are_distinct_and_the_padding_does_not_matter() -> None:
    proposal = ProposalModel(talkative(), FULL, STREAMING)
    batch, longer = dummy_batch(), dummy_batch(padding=-9.0)
    listed = proposal.propose(batch.features_BTF, batch.feature_lens_B, BeamOptions())
    assert all(1 < len({entry.pieces for entry in entries}) == len(entries) <= 4 for entries in listed)
    again = proposal.propose(longer.features_BTF, longer.feature_lens_B, BeamOptions())
    assert [[e.pieces for e in entries] for entries in again] == [
        [e.pieces for e in entries] for entries in listed
    ]


def test_a_better_model_takes_over_and_no_other_does() -> None:
    proposal = ProposalModel(tiny_model(seed=1), FULL, STREAMING)
    assert not proposal.measured
    proposal.set_error(20.0)
    student, batch = tiny_model(seed=2), dummy_batch()
    before = proposal.fingerprint()
    for error in (25.0, 20.0, float("nan")):
        assert not proposal.consider(student, error)
    assert proposal.fingerprint() == before and proposal.context == FULL
    assert proposal.consider(student, 19.0)
    assert (float(proposal.error), int(proposal.updates), proposal.context) == (19.0, 1, STREAMING)
    # A copy: the student goes on without it.
    copied = proposal.propose(batch.features_BTF, batch.feature_lens_B, BeamOptions())
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1.0)
    assert proposal.propose(batch.features_BTF, batch.feature_lens_B, BeamOptions()) == copied
    assert not any(parameter.requires_grad for parameter in proposal.parameters())


def test_its_state_dict_takes_everything_along() -> None:
    one, other = (ProposalModel(tiny_model(seed), FULL, STREAMING) for seed in (1, 2))
    one.set_error(9.0)
    one.consider(tiny_model(seed=3), 8.0)
    other.load_state_dict(one.state_dict())
    assert other.fingerprint() == one.fingerprint()
    assert float(other.error) == 8.0 and other.context == STREAMING


def test_first_guesses_on_the_disk_are_checked(tmp_path: Path) -> None:
    path, guesses = tmp_path / "guesses.json", {"a": FirstGuess(3, -0.1), "b": FirstGuess(0, -1 / 3)}
    save_hypotheses(path, guesses, "f00")
    assert load_hypotheses(path, "f00") == guesses
    with pytest.raises(UserError, match="another first proposal model"):
        load_hypotheses(path, "ba4")
    for damaged in ("{", "[]", '{"proposal_model": "f00", "pieces_and_score_per_piece": {"a": [1]}}'):
        path.write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            load_hypotheses(path, "f00")
