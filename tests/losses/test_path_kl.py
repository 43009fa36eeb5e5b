"""The divergence between paths, against the list of all paths."""

import math

import pytest
import torch
from path_lattice import BOUNDARY, FULL, NARROW, PRUNED, SYMBOLS, evaluate, random_joint
from straightforward import joiner_logits
from torch import Tensor

from kdasr.losses import pruned_rnnt
from kdasr.losses.lattice import blocks
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.path_kl import NORMALIZE, PathForm, PathKl
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.lattice.teacher_band import teacher_band
from kdasr.losses.pruned_rnnt.arcs import node_log_probs
from kdasr.losses.pruned_rnnt.checks import RNNT_TYPES

BANDS = pytest.mark.parametrize("ranges", [FULL, PRUNED, NARROW], ids=["full", "pruned", "narrow"])
FORMS = [
    PathForm(),
    PathForm("teacher"),
    PathForm("none"),
    PathForm("both", 0.5),
    PathForm("teacher", 2.0),
]


def all_paths(log_probs_TSV: Tensor, item: int, ranges: Tensor, rnnt_type: str) -> Tensor:
    """Log-probability of every path of one utterance that leaves none but the band's nodes."""
    _, _, s_end, t_end = BOUNDARY[item].tolist()
    band = [set(states) for states in ranges[item].tolist()]
    found: list[Tensor] = []

    def walk(t: int, s: int, so_far: Tensor) -> None:
        if (t, s) == (t_end, s_end):
            found.append(so_far)
        if t == t_end or s not in band[t]:
            return
        walk(t + 1, s, so_far + log_probs_TSV[t, s, 0])
        if s == s_end:
            return
        emitted = so_far + log_probs_TSV[t, s, SYMBOLS[item, s]]
        if rnnt_type == "regular":
            walk(t, s + 1, emitted)
        elif rnnt_type == "modified":
            walk(t + 1, s + 1, emitted)
        elif s + 1 in band[t]:
            walk(t + 1, s + 1, emitted + log_probs_TSV[t, s + 1, 0])

    walk(0, 0, log_probs_TSV.new_zeros(()))
    return torch.stack(found) if found else log_probs_TSV.new_zeros(0)


def divergence_of_paths(student: Tensor, teacher: Tensor, form: PathForm) -> Tensor:
    """Of two lists of paths, by the definition."""
    teacher = form.exponent * teacher
    if form.normalize != "none":
        teacher = teacher.log_softmax(0)
    if form.normalize == "both":
        student = student.log_softmax(0)
    return (teacher.exp() * (teacher - student)).sum()


def by_definition(
    student: Joint, teacher: Joint, form: PathForm, ranges: Tensor, rnnt_type: str
) -> tuple[Tensor, list[int]]:
    """The divergence of each utterance, and its number of paths."""
    own, taught = (joiner_logits(joint, FULL).log_softmax(-1) for joint in (student, teacher))
    values, counts = [], []
    for i in range(3):
        paths = all_paths(own[i], i, ranges, rnnt_type)
        values.append(divergence_of_paths(paths, all_paths(taught[i].detach(), i, ranges, rnnt_type), form))
        counts.append(len(paths))
    return torch.stack(values), counts


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one not full."""
    monkeypatch.setitem(blocks.NODES_AT_ONCE, "cpu", 13)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
@BANDS
def test_values_and_gradients_are_those_of_all_paths(form: PathForm, rnnt_type: str, ranges: Tensor) -> None:
    student, teacher = random_joint(), random_joint(1)
    theirs, counts = by_definition(student, teacher, form, ranges, rnnt_type)
    possible = torch.tensor(counts) > 0
    assert max(counts) > 1
    losses = evaluate(student, teacher, form, ranges, rnnt_type)
    torch.testing.assert_close(losses.paths[0][possible], theirs[possible])
    assert not losses.paths[0][~possible].any() and losses.rnnt_B[~possible].isinf().all()
    scale = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((losses.paths[0] * scale).sum(), student),
        torch.autograd.grad((theirs * scale)[possible].sum(), student),
    )


def test_the_lists_of_paths_are_complete() -> None:
    """A regular path is an order of S symbols and T - 1 blanks; a modified one a choice of S frames of T."""
    nothing = torch.zeros(4, 4, 5)
    assert len(all_paths(nothing, 0, FULL, "regular")) == math.comb(6, 3)
    assert len(all_paths(nothing, 0, FULL, "modified")) == math.comb(4, 3)
    # Pruned, frame 1 is left from state 1 (2 ways there, 3 on) or from state 2 (3 ways there, 2 on).
    assert len(all_paths(nothing, 0, PRUNED, "regular")) == 2 * 3 + 3 * 2
    assert len(all_paths(nothing, 0, NARROW, "regular")) == 2


@BANDS
@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_nothing_to_learn_from_oneself(ranges: Tensor, rnnt_type: str) -> None:
    student = random_joint()
    losses = evaluate(student, student, ranges=ranges, rnnt_type=rnnt_type)
    torch.testing.assert_close(losses.paths[0], torch.zeros_like(losses.paths[0]))
    for grad in torch.autograd.grad(losses.paths[0].sum(), student):
        torch.testing.assert_close(grad, torch.zeros_like(grad))


@pytest.mark.parametrize("exponent", [0.3, 1.0, 3.0])
def test_never_negative(exponent: float) -> None:
    for seed in range(10):
        losses = evaluate(random_joint(seed), random_joint(100 + seed), PathForm("both", exponent), PRUNED)
        assert (losses.paths[0][:2] > 1e-6).all()
        # A transcript without pieces has one path only.
        torch.testing.assert_close(losses.paths[0][2], torch.zeros_like(losses.paths[0][2]))


def test_the_students_total_is_the_transducer_loss() -> None:
    student, teacher = random_joint(), random_joint(1)
    both, cross = (evaluate(student, teacher, PathForm(name), PRUNED) for name in ("both", "teacher"))
    torch.testing.assert_close(cross.paths[0], both.paths[0] + both.rnnt_B)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_delay_penalty_and_fast_emit_are_the_losss_own(normalize: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    plain = evaluate(student, teacher, PathForm(normalize))
    tilted = evaluate(student, teacher, PathForm(normalize), delay_penalty=0.5, fast_emit=0.5)
    assert (tilted.rnnt_B[:2] - plain.rnnt_B[:2]).abs().min() > 0.01
    torch.testing.assert_close(tilted.paths[0], plain.paths[0])
    torch.testing.assert_close(
        torch.autograd.grad(tilted.paths[0].sum(), student),
        torch.autograd.grad(plain.paths[0].sum(), student),
    )


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_gradients_by_finite_differences(normalize: str) -> None:
    teacher = random_joint(1)

    def total(*tensors: Tensor) -> Tensor:
        losses = evaluate(Joint(*tensors), teacher, PathForm(normalize), PRUNED)
        return losses.paths[0] + 0.3 * losses.rnnt_B

    assert torch.autograd.gradcheck(total, tuple(random_joint()), fast_mode=True)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_constant_of_a_frame_in_the_teachers_logits_changes_nothing(normalize: str) -> None:
    student, teacher = random_joint(), random_joint(1)
    constant = torch.randn(3, 4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    lifted = Joint(
        torch.cat((teacher.am_BTD, constant), dim=2),
        torch.cat((teacher.lm_BSD, torch.zeros(3, 4, 1)), dim=2),
        torch.cat((teacher.weight_VD, torch.full((5, 1), 4.0)), dim=1),
        teacher.bias_V,
    )
    difference = joiner_logits(lifted, FULL) - joiner_logits(teacher, FULL)
    torch.testing.assert_close(difference, 4 * constant.tanh()[:, :, None].expand_as(difference))
    torch.testing.assert_close(
        evaluate(student, lifted, PathForm(normalize)).paths[0],
        evaluate(student, teacher, PathForm(normalize)).paths[0],
    )


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_a_full_range_is_the_unpruned_lattice(normalize: str) -> None:
    """By the occupations of the unpruned recursion, on a lattice with too many paths for a list."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (
        Joint(*(torch.randn(*shape, generator=generator) for shape in ((2, 20, 4), (2, 9, 4), (7, 4), (7,))))
        for _ in range(2)
    )
    symbols = torch.randint(1, 7, (2, 8), generator=generator)
    ranges = torch.arange(9).expand(2, 20, 9)
    path = PathKl(teacher_band(teacher, symbols, ranges, 0), PathForm(normalize))
    ours = joint_losses(student, symbols, ranges, 0, paths=[path]).paths[0]

    nodes = torch.nn.functional.pad(symbols, (0, 1))[:, None, :].expand(2, 20, 9)
    totals, arcs = [], []
    for joint in (student, teacher):
        px, py = (x.transpose(1, 2) for x in node_log_probs(joiner_logits(joint, ranges), nodes, 0))
        px = torch.nn.functional.pad(px[:, :8], (0, 1), value=-torch.inf)
        total, used = pruned_rnnt.mutual_information_recursion(px, py, return_grad=True)
        totals.append(total)
        arcs.append((px[:, :, :-1], py, used[0][:, :, :-1], used[1]))
    (own_px, own_py, *_), (px, py, px_used, py_used) = arcs
    expected = (px_used * (px - own_px)).sum((1, 2)) + (py_used * (py - own_py)).sum((1, 2))
    if normalize == "none":
        expected = totals[1].exp() * expected
    else:
        expected = expected - totals[1] + (totals[0] if normalize == "both" else 0.0)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("keep_logits", [True, False])
def test_all_losses_share_the_backward_pass(normalize: str, keep_logits: bool) -> None:
    student, teacher = random_joint(), random_joint(1)
    inside = (torch.arange(4) < BOUNDARY[:, 3:4])[:, :, None] & (BOUNDARY[:, 2, None, None] >= PRUNED)
    term = PowerKl(teacher, PowerRule("fixed"), KlForm(), inside, True)
    form = PathForm(normalize)
    losses = evaluate(student, teacher, form, PRUNED, nodes=[term], keep_logits=keep_logits)
    alone = evaluate(student, teacher, form, PRUNED)
    torch.testing.assert_close(losses.paths[0], alone.paths[0])
    three = (losses.rnnt_B, losses.nodes[0].value_B, losses.paths[0])
    each = [torch.autograd.grad(x.sum(), student, retain_graph=True) for x in three]
    torch.testing.assert_close(each[2], torch.autograd.grad(alone.paths[0].sum(), student))
    together = torch.autograd.grad((2 * three[0] + 3 * three[1] + 5 * three[2]).sum(), student)
    torch.testing.assert_close(together, tuple(2 * a + 3 * b + 5 * c for a, b, c in zip(*each, strict=True)))
