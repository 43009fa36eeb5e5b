"""The objective of paired and unpaired batches."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from kdasr.common.errors import UserError
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.decoding.expansion import BeamOptions
from kdasr.distillation.lattice import LatticeBuilder
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import LabelConfig, RnntConfig, UnpairedConfig
from kdasr.distillation.step import Denominators, Losses, StepInput
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.nn.subsampling import subsampled_length
from kdasr.self_training.labels import FirstGuess, Labeler, Labels, Proposal
from kdasr.self_training.prior_matching import tiled_nll
from kdasr.self_training.proposals import ProposalModel
from kdasr.self_training.step import SemiSupervisedObjective, UnpairedParts
from kdasr.testing import dummy_batch, tiny_config, tiny_model

RNNT = RnntConfig(backend="native", warmup_steps=100)
CONTEXT = Context(left=4, chunk=2)
PAIRED = dummy_batch()
UNPAIRED = replace(
    PAIRED, paired=False, tokens_BS=PAIRED.tokens_BS[:, :0], token_lens_B=torch.zeros(3, dtype=torch.int64)
)
FIRST = {name: FirstGuess(2, -1.0) for name in PAIRED.ids}
LISTED = [
    [Proposal((3, 4), -1.0), Proposal((3,), -2.0)],
    [],
    [Proposal((5, 6, 7, 8, 9, 9), -1.0), Proposal((5, 6, 7), -3.0)],
]
"""With the tolerance below, (3, 4), (3,) and (5, 6, 7) fit 2 pieces."""


class Digits:
    """Every piece is a word: its number."""

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Listed(ProposalModel):
    """Proposes what it is told, and remembers what it heard."""

    def __init__(self, listed: Sequence[list[Proposal]]) -> None:
        super().__init__(tiny_model(seed=7), Context.full(), CONTEXT)
        self.listed = listed

    def propose(self, features_BTF: torch.Tensor, lens_B: torch.Tensor, search: BeamOptions) -> Any:
        self.heard_BTF = features_BTF
        return self.listed


def make_objective(
    listed: Sequence[list[Proposal]] = tuple(LISTED),
    masks: bool = False,
    rnnt: RnntConfig = RNNT,
    tolerance: float | None = 0.3,
    **options: Any,
) -> SemiSupervisedObjective:
    labels = LabelConfig(weights="uniform", length_tolerance=tolerance)
    config = UnpairedConfig(labels=labels, **options)
    parts = UnpairedParts(
        config=config,
        proposal=Listed(listed),
        labeler=Labeler(labels, FIRST),
        tokenizer=Digits(),
        spec_augment=SpecAugmentConfig(enabled=masks),
        transcripts={PAIRED.ids[0]: "3 4 5"},
    )
    return SemiSupervisedObjective(Objective(ObjectiveConfig(rnnt=rnnt), tiny_config(), None), parts)


def compute(objective: torch.nn.Module, model: Transducer, batch: Any, **options: Any) -> Losses:
    weights = {"rnnt": 1.0, "ctc": 0.3}
    inputs = StepInput(batch, loss_weights=weights, context=CONTEXT, step=50, **options)
    return objective(model, inputs)


def test_a_paired_batch_has_the_supervised_loss() -> None:
    objective, model = make_objective(), tiny_model()
    own, plain = (compute(one, model, PAIRED) for one in (objective, objective.paired))
    assert torch.equal(own.total, plain.total) and own.terms.keys() == plain.terms.keys()


@pytest.mark.parametrize("normalize", ["frames", "utterances"])
def test_an_unpaired_batch_has_the_weighted_loss_of_its_labels(normalize: str) -> None:
    """Divided by all utterances, or by their frames, though one has no label."""
    model = tiny_model()
    losses = compute(make_objective(normalize=normalize, weight=0.2), model, UNPAIRED)
    labels = Labels([0, 0, 2], [(3, 4), (3,), (5, 6, 7)], torch.ones(3), 3)
    encoded = model.encode(UNPAIRED.features_BTF, UNPAIRED.feature_lens_B, CONTEXT)
    nll = tiled_nll(model, encoded, labels, LatticeBuilder(RNNT), RNNT, step=50).tolist()
    expected = [(nll[0] + nll[1]) / 2, 0.0, nll[2]]
    frames = int(subsampled_length(UNPAIRED.feature_lens_B).sum())
    mean = sum(expected) / {"frames": frames, "utterances": 3}[normalize]
    assert losses.per_utterance["lpm"].tolist() == pytest.approx(expected)
    assert float(losses.terms["lpm"]) == pytest.approx(mean)
    assert float(losses.total.detach()) == pytest.approx(0.2 * mean)
    joint = compute(
        make_objective(normalize=normalize), model, UNPAIRED, denominators=Denominators(2.0 * frames, 6.0)
    )
    assert float(joint.terms["lpm"]) == pytest.approx(mean / 2)


def test_the_log_says_how_good_the_labels_are() -> None:
    """`3 4 5` against `3 4` and `3`: one and two words are missing."""
    terms = {
        name: float(value) for name, value in compute(make_objective(), tiny_model(), UNPAIRED).terms.items()
    }
    del terms["lpm"]
    assert terms == pytest.approx(
        {
            "survivors": 3 / 3,
            "filtered": 1 / 3,
            "weight_entropy": float(torch.tensor(2.0).log()) / 3,
            "proposal_updates": 0.0,
            "label_errors": 1.5 / 3,
            "label_words": 3 / 3,
        }
    )


def test_an_utterance_with_a_label_that_no_path_fits_counts_nothing() -> None:
    """Where a frame has at most one piece."""
    modified = replace(RNNT, rnnt_type="modified")
    long, short = Proposal((5, 6) * 100, -1.0), Proposal((5, 6, 7), -1.0)
    lost, without = (
        compute(make_objective([first, [], [short]], rnnt=modified, tolerance=None), tiny_model(), UNPAIRED)
        for first in ([short, long], [])
    )
    assert lost.per_utterance["lpm"].isinf().tolist() == [True, False, False]
    torch.testing.assert_close(lost.total, without.total)


def test_a_batch_without_labels_costs_nothing_and_keeps_a_graph() -> None:
    model = tiny_model()
    losses = compute(make_objective([[], [], []]), model, UNPAIRED)
    losses.total.backward()
    assert losses.total == 0.0 and losses.terms["filtered"] == 1.0
    assert losses.per_utterance["lpm"].shape == (3,)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_only_the_student_has_masked_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = []
    model, objective = tiny_model(), make_objective(masks=True)
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda x, *rest: (heard.append(x), encode(x, *rest))[1])
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        compute(objective, model, UNPAIRED)
    assert torch.equal(objective.parts.proposal.heard_BTF, UNPAIRED.features_BTF)  # type: ignore[attr-defined]
    assert not torch.equal(heard[0], UNPAIRED.features_BTF)
    assert torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[2])


def test_the_proposal_model_is_saved_but_never_trained() -> None:
    objective = make_objective().train()
    assert not any(parameter.requires_grad for parameter in objective.parameters())
    assert not any(module.training for module in objective.proposal.modules())
    assert {"proposal.error", "proposal.updates"} < set(objective.state_dict())


def test_what_cannot_be_is_named() -> None:
    for name, value in (("normalize", "batch"), ("update", "always"), ("weight", -1.0)):
        with pytest.raises(UserError, match=rf"unpaired\.{name}' is {value}"):
            make_objective(**{name: value})
