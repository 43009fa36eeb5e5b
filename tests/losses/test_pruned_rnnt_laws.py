"""Laws of the losses: gradients, occupations, impossible lattices, precision, arguments."""

import pytest
import torch

from kdasr.losses import pruned_rnnt
from kdasr.losses.pruned_rnnt import mutual_information_recursion
from kdasr.losses.pruned_rnnt.checks import check_values_everywhere, checks_values
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation

RNNT_TYPES = ("regular", "modified", "constrained")


def random_lattice(regular: bool, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    px = torch.randn(3, 4, 6 + regular, generator=generator, dtype=torch.float64)
    return px, torch.randn(3, 5, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("boundary", [None, [[0, 0, 4, 6], [1, 2, 3, 5], [0, 1, 0, 4]]])
def test_recursion_gradient_by_finite_differences(regular: bool, boundary: list[list[int]] | None) -> None:
    px, py = (x.requires_grad_() for x in random_lattice(regular))
    limits = None if boundary is None else torch.tensor(boundary)
    assert torch.autograd.gradcheck(lambda a, b: mutual_information_recursion(a, b, limits), (px, py))


@pytest.mark.parametrize("regular", [True, False])
def test_occupations_are_the_derivatives(regular: bool) -> None:
    px, py = (x.requires_grad_() for x in random_lattice(regular))
    boundary = torch.tensor([[0, 0, 4, 6], [1, 2, 3, 5], [0, 0, 2, 2]])
    total, occupations = mutual_information_recursion(px, py, boundary, return_grad=True)
    torch.testing.assert_close(occupations, torch.autograd.grad(total.sum(), (px, py)))


@pytest.mark.parametrize("regular", [True, False])
def test_begin_of_the_boundary_is_the_lattice_that_starts_there(regular: bool) -> None:
    px, py = random_lattice(regular)
    begun = mutual_information_recursion(px[:1], py[:1], torch.tensor([[1, 2, 3, 5]]))
    cut = mutual_information_recursion(px[:1, 1:3, 2 : 5 + regular], py[:1, 1:4, 2:5])
    torch.testing.assert_close(begun, cut)


def losses_of(rnnt_type: str, am: torch.Tensor, lm: torch.Tensor) -> torch.Tensor:
    """Every loss on one ragged batch, `(4, B)`."""
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    boundary = torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]])
    common = {"boundary": boundary, "rnnt_type": rnnt_type, "delay_penalty": 0.01, "reduction": "none"}
    simple, grads = pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0, **common, return_grad=True)
    smoothed = pruned_rnnt.rnnt_loss_smoothed(lm, am, symbols, 0, 0.2, 0.1, **common)
    ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, boundary, 3)
    pruned_am, pruned_lm = pruned_rnnt.do_rnnt_pruning(am, lm, ranges)
    logits = torch.sin(pruned_am + pruned_lm)
    pruned = pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, **common)
    hat = pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, **common, use_hat_loss=True)
    return torch.stack((simple, smoothed, pruned, hat))


def random_scores(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    am = torch.randn(3, 7, 5, generator=generator, dtype=torch.float64)
    lm = torch.randn(3, 5, 5, generator=generator, dtype=torch.float64)
    return am.to(dtype).requires_grad_(), lm.to(dtype).requires_grad_()


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_gradients_by_finite_differences(rnnt_type: str) -> None:
    scores = random_scores()
    assert torch.autograd.gradcheck(lambda am, lm: losses_of(rnnt_type, am, lm), scores, fast_mode=True)


def test_hat_splits_off_the_blank() -> None:
    logits = torch.tensor([[[[0.3, 1.0, -1.0], [0.5, 2.0, 1.0]]]])
    one_frame = torch.arange(2).expand(1, 1, 2)
    loss = pruned_rnnt.rnnt_loss_pruned(logits, torch.tensor([[2]]), one_frame, 0, use_hat_loss=True)
    emit = torch.sigmoid(torch.tensor(-0.3)) * torch.softmax(torch.tensor([1.0, -1.0]), 0)[1]
    torch.testing.assert_close(loss, -(emit * torch.sigmoid(torch.tensor(0.5))).log())


@pytest.mark.parametrize("rnnt_type", ["regular", "modified"])
def test_every_path_emits_all_symbols(rnnt_type: str) -> None:
    am, lm = random_scores()
    boundary = torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]])
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    _, (px_grad, py_grad) = pruned_rnnt.rnnt_loss_simple(
        lm, am, symbols, 0, boundary, rnnt_type, return_grad=True
    )
    num_symbols, num_frames = boundary[:, 2].double(), boundary[:, 3].double()
    torch.testing.assert_close(px_grad.sum((1, 2)), num_symbols)
    blanks = num_frames if rnnt_type == "regular" else num_frames - num_symbols
    torch.testing.assert_close(py_grad.sum((1, 2)), blanks)


def test_occupation_of_the_band_counts_a_paths_nodes() -> None:
    am, lm = random_scores()
    boundary = torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]])
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    ranges = torch.arange(5).expand(3, 7, 5)
    logits = am[:, :, None] + lm[:, None]
    loss, occupation = pruned_loss_and_occupation(logits, symbols, ranges, 0, boundary)
    torch.testing.assert_close(loss, pruned_rnnt.rnnt_loss(logits, symbols, 0, boundary, reduction="none"))
    # A regular path leaves S nodes by symbols and T nodes by blanks.
    torch.testing.assert_close(occupation.sum((1, 2)), (boundary[:, 2] + boundary[:, 3]).double())
    assert not occupation.requires_grad


@pytest.mark.parametrize("which", ["am", "lm"])
def test_simple_loss_ignores_a_constant_per_row(which: str) -> None:
    am, lm = random_scores()
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    shift = torch.randn(3, 7 if which == "am" else 5, 1, dtype=torch.float64)
    shifted = {"am": am + shift, "lm": lm} if which == "am" else {"am": am, "lm": lm + shift}
    before = pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0)
    torch.testing.assert_close(
        pruned_rnnt.rnnt_loss_simple(symbols=symbols, termination_symbol=0, **shifted), before
    )


def test_unreachable_ends_cost_inf_and_have_no_gradient() -> None:
    am, lm = random_scores(torch.float32)
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [1, 0, 0, 0]])
    # Four symbols do not fit into three frames of the modified lattice, nor one into none.
    boundary = torch.tensor([[0, 0, 4, 3], [0, 0, 2, 5], [0, 0, 1, 0]])
    loss, grads = pruned_rnnt.rnnt_loss_simple(
        lm, am, symbols, 0, boundary, "modified", reduction="none", return_grad=True
    )
    ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, boundary, 3)
    pruned_am, pruned_lm = pruned_rnnt.do_rnnt_pruning(am, lm, ranges)
    pruned = pruned_rnnt.rnnt_loss_pruned(
        pruned_am + pruned_lm, symbols, ranges, 0, boundary, "modified", reduction="none"
    )
    assert loss.isposinf().tolist() == [True, False, True]
    assert pruned.isposinf().tolist() == [True, False, True]
    (loss.sum() + pruned.sum()).backward()
    for scores in (am, lm):
        assert scores.grad is not None and scores.grad.isfinite().all()
        assert not scores.grad[[0, 2]].any() and scores.grad[1].any()


def test_rows_of_minus_infinity_give_no_nan() -> None:
    px, py = random_lattice(regular=True)
    px[0, 1], py[1, 2] = -torch.inf, -torch.inf
    px[2], py[2] = -torch.inf, -torch.inf
    px, py = px.requires_grad_(), py.requires_grad_()
    total = mutual_information_recursion(px, py)
    total.sum().backward()
    assert total.isneginf().tolist() == [True, False, True]
    assert px.grad is not None and py.grad is not None
    assert px.grad.isfinite().all() and py.grad.isfinite().all()
    assert not px.grad[[0, 2]].any() and not py.grad[[0, 2]].any()


def test_padding_does_not_matter() -> None:
    am, lm = (x.detach() for x in random_scores())
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    boundary = torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]])

    def losses(am: torch.Tensor, lm: torch.Tensor, symbols: torch.Tensor) -> list[torch.Tensor]:
        simple, grads = pruned_rnnt.rnnt_loss_smoothed(
            lm, am, symbols, 0, 0.25, 0.0, boundary, reduction="none", return_grad=True
        )
        ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, boundary, 3)
        pruned_am, pruned_lm = pruned_rnnt.do_rnnt_pruning(am, lm, ranges)
        logits = torch.tanh(pruned_am + pruned_lm)
        return [simple, pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary, reduction="none")]

    other_am, other_lm, other_symbols = am.clone(), lm.clone(), symbols.clone()
    other_am[1, 5:], other_am[2, 6:] = 9.0, -20.0
    other_lm[1, 3:], other_lm[2, 1:] = -5.0, 30.0
    other_symbols[1, 2:], other_symbols[2] = 4, 3
    torch.testing.assert_close(losses(other_am, other_lm, other_symbols), losses(am, lm, symbols))


@pytest.mark.parametrize("rnnt_type", RNNT_TYPES)
def test_a_batch_is_its_utterances_one_by_one(rnnt_type: str) -> None:
    am, lm = (x.detach() for x in random_scores())
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    sizes = [(4, 7), (2, 5), (0, 6)]
    boundary = torch.tensor([[0, 0, s, t] for s, t in sizes])
    logits = torch.tanh(am[:, :, None] + lm[:, None])
    ranges = torch.arange(5).expand(3, 7, 5)
    common = {"rnnt_type": rnnt_type, "delay_penalty": 0.3, "reduction": "none"}
    together = [
        pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0, boundary, **common),
        pruned_rnnt.rnnt_loss(logits, symbols, 0, boundary, **common),
        pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary, **common),
    ]
    for i, (s, t) in enumerate(sizes):
        one, own = slice(i, i + 1), symbols[i : i + 1, :s]
        alone = [
            pruned_rnnt.rnnt_loss_simple(lm[one, : s + 1], am[one, :t], own, 0, **common),
            pruned_rnnt.rnnt_loss(logits[one, :t, : s + 1], own, 0, **common),
            pruned_rnnt.rnnt_loss_pruned(
                logits[one, :t, : s + 1], own, ranges[one, :t, : s + 1], 0, **common
            ),
        ]
        torch.testing.assert_close(alone, [loss[one] for loss in together])


def test_delay_penalty_favors_early_symbols() -> None:
    am, lm = (x.detach() for x in random_scores())
    symbols = torch.tensor([[1, 2, 2, 4]] * 3)

    def mean_frame(penalty: float) -> torch.Tensor:
        _, (px_grad, _) = pruned_rnnt.rnnt_loss_simple(
            lm, am, symbols, 0, delay_penalty=penalty, return_grad=True
        )
        return (px_grad * torch.arange(8.0)).sum((1, 2)) / px_grad.sum((1, 2))

    assert (mean_frame(0.5) < mean_frame(0.0)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_input_and_autocast_give_float32(dtype: torch.dtype) -> None:
    am, lm = random_scores(dtype)
    exact = losses_of("regular", am.detach().float(), lm.detach().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = losses_of("regular", am.detach().float(), lm.detach().float())
        low = pruned_rnnt.rnnt_loss_simple(lm, am, torch.tensor([[1, 2, 2, 4]] * 3), 0)
    assert ours.dtype == low.dtype == torch.float32
    torch.testing.assert_close(ours, exact)
    low.backward()
    assert am.grad is not None and am.grad.dtype == dtype and am.grad.isfinite().all()


def test_reductions() -> None:
    am, lm = (x.detach() for x in random_scores())
    symbols = torch.tensor([[1, 2, 2, 4]] * 3)
    each = pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0, reduction="none")
    assert each.shape == (3,)
    torch.testing.assert_close(pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0), each.mean())
    torch.testing.assert_close(pruned_rnnt.rnnt_loss_simple(lm, am, symbols, 0, reduction="sum"), each.sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "avg"}, "reduction 'avg'"),
        ({"rnnt_type": "fast"}, "rnnt_type 'fast'"),
        ({"symbols": torch.zeros(3, 3, dtype=torch.int64)}, r"symbols \(3, 3\)"),
        ({"symbols": torch.zeros(3, 4)}, "torch.float32"),
        ({"boundary": torch.zeros(2, 4, dtype=torch.int64)}, r"boundary \(2, 4\)"),
        ({"boundary": torch.zeros(3, 4)}, "boundary torch.float32"),
        ({"boundary": torch.tensor([[0, 0, 4, 7], [0, 0, 5, 7], [0, 0, 6, 7]])}, r"boundary\[1\]"),
        ({"boundary": torch.tensor([[0, 0, 4, 7], [0, 0, 4, 7], [2, 0, 1, 7]])}, r"boundary\[2\]"),
        ({"symbols": torch.tensor([[1, 2, 3, 4], [1, 2, 5, 4], [1, -1, 0, 0]])}, r"symbols\[1, 2\] is 5"),
        ({"termination_symbol": 5}, "termination_symbol 5"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    am, lm = (x.detach() for x in random_scores())
    given = {"lm": lm, "am": am, "symbols": torch.zeros(3, 4, dtype=torch.int64), "termination_symbol": 0}
    with pytest.raises(ValueError, match=message):
        pruned_rnnt.rnnt_loss_simple(**(given | arguments))


@pytest.mark.parametrize("which", ["unpruned", "pruned"])
def test_nan_logits_are_found_but_not_in_the_padding(which: str) -> None:
    logits = torch.randn(2, 5, 4, 6)
    symbols, boundary = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[0, 0, 3, 5], [0, 0, 2, 3]])
    ranges = torch.arange(4).expand(2, 5, 4)

    def loss() -> torch.Tensor:
        if which == "unpruned":
            return pruned_rnnt.rnnt_loss(logits, symbols, 0, boundary)
        return pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary)

    logits[1, 3:] = torch.nan
    assert loss().isfinite()
    logits[1, 2, 1, 3] = torch.nan
    with pytest.raises(ValueError, match=r"logits \(2, 5, 4, 6\): NaN at logits\[1, 2, 1\]"):
        loss()


def test_too_narrow_a_range_is_refused() -> None:
    px_grad, py_grad = torch.zeros(1, 3, 5), torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match="s_range 1"):
        pruned_rnnt.get_rnnt_prune_ranges(px_grad, py_grad, torch.tensor([[0, 0, 3, 4]]), 1)


def test_second_derivatives_are_refused() -> None:
    """The occupations are constants of the backward pass: their own derivative would be missing."""
    px, py = (x.requires_grad_() for x in random_lattice(regular=True))
    total = mutual_information_recursion(px.square(), py).sum()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(total, px, create_graph=True)


def test_int32_lengths_and_windows_are_as_good() -> None:
    am, lm = (x.detach() for x in random_scores())
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0], [0, 0, 0, 0]])
    boundary, ranges = (
        torch.tensor([[0, 0, 4, 7], [0, 0, 2, 5], [0, 0, 0, 6]]),
        torch.arange(5).expand(3, 7, 5),
    )
    logits = am[:, :, None] + lm[:, None]
    expected = pruned_rnnt.rnnt_loss_pruned(logits, symbols, ranges, 0, boundary)
    torch.testing.assert_close(
        pruned_rnnt.rnnt_loss_pruned(logits, symbols.int(), ranges.int(), 0, boundary.int()), expected
    )


def test_values_on_another_device_are_looked_at_on_demand_only() -> None:
    elsewhere = torch.empty(0, device="meta")
    assert not checks_values(elsewhere)
    with check_values_everywhere():
        assert checks_values(elsewhere)
    assert not checks_values(elsewhere)
