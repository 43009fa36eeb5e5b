"""The loss of weighted labels: one encoder forward for all of them equals one for each."""

import pytest
import torch
from torch import Tensor

from kdasr.data.batch import Batch
from kdasr.distillation.lattice import LatticeBuilder
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.step import Denominators, StepInput
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.labels import Labels
from kdasr.self_training.prior_matching import nothing_to_learn, tiled_nll, weighted_sums
from kdasr.testing import dummy_batch, tiny_config, tiny_model

RNNT = RnntConfig(backend="native", warmup_steps=100)
CONTEXT = Context(left=4, chunk=2)


def make_labels(owners: list[int], weights: list[float], num_utterances: int = 3, seed: int = 0) -> Labels:
    """Random pieces, one more each time."""
    generator = torch.Generator().manual_seed(seed)
    pieces = [
        tuple(torch.randint(3, 11, (1 + place,), generator=generator).tolist())
        for place in range(len(owners))
    ]
    return Labels(owners, pieces, torch.tensor(weights), num_utterances)


def shared(model: Transducer, batch: Batch, labels: Labels, step: int = 50) -> Tensor:
    encoded = model.encode(batch.features_BTF, batch.feature_lens_B, CONTEXT)
    return tiled_nll(model, encoded, labels, LatticeBuilder(RNNT), RNNT, step)


def supervised(model: Transducer, batch: Batch, rows: list[int], labels: Labels, step: int = 50) -> Tensor:
    """What the objective says of these pieces as transcripts of rows of the batch; with gradient."""
    tokens_NS, token_lens_N = labels.padded()
    tokens_NS = tokens_NS + 5 * (torch.arange(tokens_NS.shape[1]) >= token_lens_N[:, None])  # loud padding
    paired = Batch(
        batch.features_BTF[rows],
        batch.feature_lens_B[rows],
        tokens_NS,
        token_lens_N,
        [""] * len(rows),
        [""] * len(rows),
        0.0,
    )
    objective = Objective(ObjectiveConfig(rnnt=RNNT), tiny_config(), None)
    weights = {"rnnt": 1.0}
    return objective(
        model,
        StepInput(
            paired,
            loss_weights=weights,
            context=CONTEXT,
            step=step,
            denominators=Denominators(1.0, 1.0),
        ),
    ).total


@pytest.mark.parametrize("step", [50, 1000])
def test_one_label_of_weight_one_is_a_transcript(step: int) -> None:
    model, batch, labels = tiny_model(), dummy_batch(), make_labels([0, 1, 2], [1.0, 1.0, 1.0])
    loss = weighted_sums(shared(model, batch, labels, step), labels).sum()
    torch.testing.assert_close(loss, supervised(model, batch, [0, 1, 2], labels, step))


def test_shared_encodings_equal_separate_ones() -> None:
    """Values, and the gradient of every parameter, the encoder's among them."""
    weights = [0.7, 0.2, 0.1, 0.6, 0.4]
    batch, labels = dummy_batch(), make_labels([0, 0, 0, 2, 2], weights)
    one, many = tiny_model(), tiny_model()
    together = weighted_sums(shared(one, batch, labels), labels)
    together.sum().backward()
    apart = [0.0, 0.0, 0.0]
    for row, (owner, weight) in enumerate(zip(labels.owners, weights, strict=True)):
        single = Labels([0], [labels.pieces[row]], torch.ones(1), 1)
        loss = weight * supervised(many, batch, [owner], single)
        loss.backward()
        apart[owner] += float(loss.detach())
    assert together.tolist() == pytest.approx(apart, rel=1e-4)
    assert together[1] == 0.0
    for (name, own), other in zip(one.named_parameters(), many.parameters(), strict=True):
        if other.grad is None:
            assert own.grad is None, name
        else:
            torch.testing.assert_close(own.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert next(one.encoder.layers[0].parameters()).grad.any()


def test_nothing_to_learn_is_zero_and_has_a_graph() -> None:
    model = tiny_model()
    model.ctc_head.requires_grad_(False)
    loss = nothing_to_learn(model)
    loss.backward()
    assert loss == 0.0
    for name, parameter in model.named_parameters():
        trained = not name.startswith("ctc_head")
        assert (parameter.grad is not None) == trained, name
        assert not trained or not parameter.grad.any(), name
