"""Teachers with other numbers and rates of frames, and averages of several."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.distillation.alignment import AlignedTeacher, MeanLogits, source_frames
from kdasr.distillation.objective import Objective
from kdasr.distillation.step import Losses, StepInput
from kdasr.distillation.teacher import TeacherFrames, TeacherOutput, TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.distillation.terms.output_kl import OutputConfig
from kdasr.losses.lattice.joiner import Joint, NodeLogits
from kdasr.losses.lattice.shift import MovedLogits, at_frames
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch, tiny_config, tiny_model

# Shapes: B utterances, T frames, D width, N nodes, V pieces.

ALL = {"rnnt": 1.0, "hidden_mse": 1.0, "output_kl": 1.0, "path_kl": 1.0}
LENS_B = torch.tensor([24, 10])


def test_a_frame_has_the_partner_that_covers_its_middle() -> None:
    same = source_frames(24, LENS_B, 0.04, torch.tensor([23, 10]), 0.04)
    assert same is not None and same[0].tolist() == [*range(23), 22]
    half = source_frames(24, LENS_B, 0.04, torch.tensor([12, 5]), 0.08)
    assert half is not None and half[0].tolist() == [t // 2 for t in range(24)]
    assert half[1, :10].tolist() == [t // 2 for t in range(10)] and half[1].max() == 4
    double = source_frames(24, LENS_B, 0.04, torch.tensor([48, 20]), 0.02)
    assert double is not None and double[0].tolist() == [2 * t + 1 for t in range(24)]
    thirds = source_frames(24, LENS_B, 0.04, torch.tensor([16, 7]), 0.06)
    assert thirds is not None and thirds[0, :6].tolist() == [0, 1, 1, 2, 3, 3]
    assert source_frames(24, LENS_B, 0.04, LENS_B, 0.04) is None


@pytest.mark.parametrize(("lens", "seconds"), [([12, 5], 0.04), ([24, 10], 0.08), ([0, 0], 0.04)])
def test_a_wrong_rate_is_named(lens: list[int], seconds: float) -> None:
    with pytest.raises(UserError, match=r"teacher has \d+ frames of \d+ ms where the student has"):
        source_frames(24, LENS_B, 0.04, torch.tensor(lens), seconds)


class Resampled:
    """A teacher with fewer frames: `shorter` fewer at the end, each `step` times as long."""

    def __init__(
        self, teacher: TransducerTeacher, shorter: int = 0, step: int = 1, bare: bool = False
    ) -> None:
        self.teacher, self.shorter, self.step, self.bare = teacher, shorter, step, bare
        self.vocab_size, self.num_features = teacher.vocab_size, teacher.num_features
        own = teacher.geometry
        layers = tuple(replace(layer, stride=layer.stride * step) for layer in own.hidden)
        self.geometry = replace(own, stride=own.stride * step, hidden=layers)

    def encode(self, batch: Batch) -> TeacherOutput:
        output = self.teacher.encode(batch)
        lens_B = (output.lens_B - self.shorter) // self.step
        kept = slice(self.step // 2, max(int(lens_B.max()) * self.step, 1), self.step)
        seconds = output.frame_seconds * self.step
        hidden = [TeacherFrames(x.values_BTD[:, kept], lens_B, seconds) for x in output.hidden]

        def nodes() -> NodeLogits:
            joint = output.nodes()
            assert isinstance(joint, Joint)
            own = joint._replace(am_BTD=joint.am_BTD[:, kept].contiguous())
            return Bare(own) if self.bare else own

        return TeacherOutput(hidden, lens_B, hidden[0].values_BTD.shape[1], seconds, nodes)


class Bare:
    """Logits that show nothing of how they are made."""

    def __init__(self, logits: NodeLogits) -> None:
        self._logits = logits

    def logits_of(self, frames_N: Tensor, states_N: Tensor) -> Tensor:
        return self._logits.logits_of(frames_N, states_N)


def compute(*teachers: object, **options: object) -> Losses:
    output = OutputConfig(**options)  # type: ignore[arg-type]
    objective = Objective(ObjectiveConfig(output=output), tiny_config(), teachers[0], teachers[1:])  # type: ignore[arg-type]
    inputs = StepInput(dummy_batch(), loss_weights=ALL, context=Context(left=4, chunk=2), step=1000)
    losses = objective(tiny_model(), inputs)
    losses.total.backward()
    return losses


def plain(seed: int = 1) -> TransducerTeacher:
    return TransducerTeacher(tiny_model(seed=seed), Context.full())


@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("options", [{"shorter": 1}, {"step": 2}, {"shorter": 2, "step": 2}], ids=str)
def test_a_teacher_of_other_frames_teaches_nearly_the_same(options: dict[str, int], bare: bool) -> None:
    expected = compute(plain(), node_weights="both", shift=1).terms
    found = compute(Resampled(plain(), bare=bare, **options), node_weights="both", shift=1).terms
    for name in ("hidden_mse", "output_kl", "path_kl"):
        # With the shift of one frame, output_kl never looks at the teacher's last frame.
        unseen = name == "output_kl" and options == {"shorter": 1}
        assert bool(found[name] == expected[name]) == unseen
        torch.testing.assert_close(found[name], expected[name], rtol=0.3, atol=0.05)


@pytest.mark.parametrize("options", [{}, {"node_weights": "both", "classes": "collapsed"}], ids=str)
def test_bare_logits_teach_as_the_joiner_behind_them(options: dict[str, object]) -> None:
    torch.testing.assert_close(
        compute(Resampled(plain(), bare=True), **options).terms, compute(plain(), **options).terms
    )


def test_the_mean_of_a_teacher_and_itself_is_that_teacher() -> None:
    torch.testing.assert_close(compute(plain(), plain()).terms, compute(plain()).terms, rtol=1e-4, atol=1e-6)


def test_several_teachers_are_averaged_over_their_probabilities() -> None:
    members = [Joint(*(torch.randn(*s) for s in ((1, 2, 3), (1, 2, 3), (5, 3), (5,)))) for _ in range(3)]
    nodes = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    expected = torch.stack([one.logits_of(*nodes).softmax(1) for one in members]).mean(0)
    torch.testing.assert_close(MeanLogits(members).logits_of(*nodes).exp(), expected)
    mixed = compute(plain(), Resampled(plain(2), step=2)).terms
    alone = compute(plain()).terms
    assert mixed["hidden_mse"] == alone["hidden_mse"] and mixed["output_kl"] != alone["output_kl"]


def test_frames_are_looked_up_within_their_utterance() -> None:
    joint = Joint(*(torch.randn(*s) for s in ((2, 3, 4), (2, 2, 4), (5, 4), (5,))))
    sources_BT = torch.tensor([[0, 2], [1, 1]])
    moved, bare = at_frames(joint, sources_BT, 3), at_frames(Bare(joint), sources_BT, 3)
    assert isinstance(moved, Joint) and isinstance(bare, MovedLogits)
    frames_N, states_N = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 3])
    expected = joint.logits_of(torch.tensor([0, 2, 4, 4]), states_N)
    for logits in (moved, bare):
        torch.testing.assert_close(logits.logits_of(frames_N, states_N), expected)


def test_a_layer_that_is_padded_otherwise_is_cut_to_the_student() -> None:
    layer_BTD = torch.randn(2, 30, 3)
    frames = TeacherFrames(layer_BTD, LENS_B, 0.04)
    output = TeacherOutput([frames], LENS_B, 30, 0.04, lambda: Bare(None))  # type: ignore[arg-type]
    aligned_BTD = AlignedTeacher([output], 24, LENS_B, 0.04).hidden(0)
    assert torch.equal(aligned_BTD[0], layer_BTD[0, :24]) and torch.equal(
        aligned_BTD[1, :10], layer_BTD[1, :10]
    )
