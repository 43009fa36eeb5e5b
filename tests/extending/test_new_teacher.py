"""A teacher that kdasr did not train, with frames of 20 ms: its layers teach, and nothing else."""

# Shapes: B utterances, T student frames, F features, D width.

from pathlib import Path

import pytest
import torch
from layers_teacher import LayersTeacher
from tiny_system import CHUNKED, VOCAB, fit, random_batch, small_config, small_model, tiny_system
from torch import Tensor, nn

from kdasr.common.errors import UserError
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import StageConfig
from kdasr.distillation.step import StepInput
from kdasr.distillation.terms import ObjectiveConfig


class Network(nn.Module):
    """Stands for a network from elsewhere: `(B, T, F)` to `(B, U, D)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv1d(16, 16, 5, stride=2)

    def forward(self, features_BTF: Tensor) -> Tensor:
        return torch.tanh(self.layer(features_BTF.transpose(1, 2))).transpose(1, 2)


@pytest.fixture
def teacher() -> LayersTeacher:
    torch.manual_seed(9)
    return LayersTeacher(Network(), num_features=16, vocab_size=VOCAB)


def test_a_frame_is_compared_with_the_teacher_in_its_middle(teacher: LayersTeacher) -> None:
    student, batch = small_model().eval(), random_batch(1)
    objective = Objective(ObjectiveConfig(), small_config(), teacher)
    inputs = StepInput(batch, loss_weights={"hidden_mse": 1.0}, context=CHUNKED, step=1000)
    found_B = objective(student, inputs).per_utterance["hidden_mse"]
    encoded, taught_BUD = (
        student.encode(batch.features_BTF, batch.feature_lens_B, CHUNKED),
        teacher.network(batch.features_BTF),
    )
    for row, length in enumerate(encoded.lens_B.tolist()):
        # The middle of a frame of 40 ms is where the second of two frames of 20 ms begins.
        target_TD = taught_BUD[row, 1 : 2 * length : 2]
        errors = [(layer[row, :length] - target_TD).square().mean() for layer in encoded.hidden]
        torch.testing.assert_close(found_B[row], torch.stack(errors).mean())


def test_a_student_learns_from_it_and_its_weights_stay(teacher: LayersTeacher, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in teacher.network.state_dict().items()}
    stage = StageConfig(name="only", num_steps=3, loss_weights={"rnnt": 1.0, "hidden_mse": 1.0})
    objective = Objective(ObjectiveConfig(), small_config(), teacher)
    fit(tiny_system(tmp_path, contexts=[CHUNKED], stages=[stage], objective=objective))
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert '"hidden_mse"' in (tmp_path / "metrics.jsonl").read_text()


def test_a_term_that_compares_outputs_is_refused(teacher: LayersTeacher) -> None:
    objective = Objective(ObjectiveConfig(), small_config(), teacher)
    inputs = StepInput(random_batch(1), loss_weights={"output_kl": 1.0}, context=CHUNKED, step=1000)
    with pytest.raises(UserError, match="hidden_mse"):
        objective(small_model(), inputs)
