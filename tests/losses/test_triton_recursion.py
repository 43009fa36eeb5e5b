"""The recursion's kernels, interpreted on the CPU, against the recursion written cell by cell."""

import math
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from triton_without_gpu import Interpreter, compile_kernel

from kdasr.losses import pruned_rnnt
from kdasr.losses.pruned_rnnt import recursion
from kdasr.losses.pruned_rnnt.pruned import pruned_loss_and_occupation
from kdasr.losses.pruned_rnnt.recursion import Columns

pytest.importorskip("triton")

MODULE = "kdasr.losses.pruned_rnnt.triton_recursion"
TOLERANCES = {
    torch.float32: {"rtol": 2e-6, "atol": 2e-6},
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
}


def random_columns(shifts: tuple[int, ...] | None, num_columns: int = 9, num_slots: int = 5) -> Columns:
    """Ragged ends, among them one outside the column and one at once; arcs that are missing."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.tensor([9, 7, 9, 5, 1, 0, 9]).clamp(max=num_columns)
    batch = len(ends)
    shape = (num_columns, 2, batch, num_slots)
    arcs = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) - 2
    arcs[torch.rand(shape, generator=generator) < 0.05] = -math.inf
    arcs[3, :, 2] = -math.inf  # no way through the column
    chosen = None
    if shifts is not None:
        picks = torch.randint(len(shifts), (batch, num_columns), generator=generator)
        # Laid out by utterance, as the band makes them.
        chosen = torch.tensor(shifts)[picks].t()
        chosen[:2] = 0  # the first slot is where paths begin
        chosen[num_columns // 2, 6] = 2 * num_slots  # beyond all slots
    columns = Columns(arcs, chosen, ends, torch.zeros_like(ends))
    # The likeliest ends, but one that has no slot.
    end_slots = forward(columns)[ends, torch.arange(batch), 1:-1].argmax(-1)
    end_slots[3] = -1
    return columns._replace(end_slots_B=end_slots)


def log_add(a: float, b: float) -> float:
    larger = max(a, b)
    if larger == -math.inf:
        return larger
    return larger + math.log(math.exp(a - larger) + math.exp(b - larger))


def sources(columns: Columns, n: int, b: int, slot: int) -> list[int | None]:
    """Slots of column n from which the symbol and the blank come; None: outside."""
    shift = 0 if columns.shifts_NB is None else int(columns.shifts_NB[n, b])
    return [s if 0 <= s < columns.arcs_N2BK.shape[3] else None for s in (slot + shift - 1, slot + shift)]


def forward(columns: Columns) -> Tensor:
    """Totals cell by cell; -inf beyond the ends."""
    num_columns, _, batch, num_slots = columns.arcs_N2BK.shape
    totals = torch.full((num_columns + 1, batch, num_slots + 2), -math.inf, dtype=torch.float64)
    totals[0, :, 1] = 0.0
    for b in range(batch):
        for n, slot in product(range(int(columns.ends_B[b])), range(num_slots)):
            arrived = [-math.inf, -math.inf]
            for kind, source in enumerate(sources(columns, n, b, slot)):
                if source is not None:
                    arrived[kind] = float(totals[n, b, source + 1] + columns.arcs_N2BK[n, kind, b, slot])
            totals[n + 1, b, slot + 1] = log_add(*arrived)
    return totals


def occupation_of(columns: Columns, totals: Tensor) -> Tensor:
    """Share of the paths that use an arc, from totals of both directions."""
    num_columns, _, batch, num_slots = columns.arcs_N2BK.shape
    occupation = torch.zeros_like(columns.arcs_N2BK)
    for b in range(batch):
        end, end_slot = int(columns.ends_B[b]), int(columns.end_slots_B[b])
        whole = float(totals[end, b, end_slot + 1])
        if whole == -math.inf:
            continue
        onward = torch.full((num_columns + 1, num_slots), -math.inf, dtype=torch.float64)
        onward[end, end_slot] = 0.0
        for n, slot in product(range(end - 1, -1, -1), range(num_slots)):
            for kind, source in enumerate(sources(columns, n, b, slot)):
                if source is None:
                    continue
                rest = float(columns.arcs_N2BK[n, kind, b, slot] + onward[n + 1, slot])
                occupation[n, kind, b, slot] = math.exp(float(totals[n, b, source + 1]) + rest - whole)
                onward[n, source] = log_add(float(onward[n, source]), rest)
    return occupation


def run(interpreted: Interpreter, columns: Columns) -> tuple[Tensor, Tensor]:
    totals, _ = interpreted(f"{MODULE}.advance", columns)
    occupation, _ = interpreted(f"{MODULE}.occupy", totals, columns)
    return totals, occupation


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shifts", [None, (0, 1), (0, 0, 1, 2)], ids=str)
def test_equals_the_recursion_cell_by_cell(
    interpreted: Interpreter, shifts: tuple[int, ...] | None, dtype: torch.dtype
) -> None:
    columns = random_columns(shifts)
    columns = columns._replace(arcs_N2BK=columns.arcs_N2BK.to(dtype))
    exact = columns._replace(arcs_N2BK=columns.arcs_N2BK.double())
    totals, occupation = run(interpreted, columns)
    expected = forward(exact)
    assert totals.dtype == torch.float64 and occupation.dtype == dtype
    torch.testing.assert_close(totals, expected, **TOLERANCES[dtype])
    shares = occupation_of(exact, expected)
    torch.testing.assert_close(occupation.double(), shares, **TOLERANCES[dtype])
    # Every arc of a path counts once, and most utterances have paths.
    assert shares.sum() > columns.ends_B[:2].sum()


@pytest.mark.parametrize("num_slots", [1, 7, 30, 70])
def test_any_width(interpreted: Interpreter, num_slots: int) -> None:
    columns = random_columns((0, 1) if num_slots < 30 else None, num_columns=4, num_slots=num_slots)
    totals, occupation = run(interpreted, columns)
    expected = forward(columns)
    torch.testing.assert_close(totals, expected, **TOLERANCES[torch.float64])
    torch.testing.assert_close(occupation, occupation_of(columns, expected), **TOLERANCES[torch.float64])


def test_long_lattices_keep_their_digits(interpreted: Interpreter) -> None:
    """Totals of 2000 nats and more have float32 neighbors 2e-4 apart: summed so, this fails."""
    generator = torch.Generator().manual_seed(0)
    arcs = (torch.randn((250, 2, 1, 3), generator=generator) - 10).float()
    columns = Columns(arcs, torch.arange(250)[:, None] % 2, torch.tensor([250]), torch.tensor([1]))
    totals, occupation = run(interpreted, columns)
    exact = columns._replace(arcs_N2BK=arcs.double())
    expected = forward(exact)
    assert expected[250, 0, 2] < -2000
    torch.testing.assert_close(totals[250], expected[250], rtol=1e-7, atol=0)
    torch.testing.assert_close(occupation.double(), occupation_of(exact, expected), rtol=1e-5, atol=1e-7)


def test_nan_reaches_the_total(interpreted: Interpreter) -> None:
    columns = random_columns(None)
    columns.arcs_N2BK[1, 0, 0, 1] = math.nan
    totals, _ = interpreted(f"{MODULE}.advance", columns)
    assert totals[columns.ends_B[0], 0, columns.end_slots_B[0] + 1].isnan()


@pytest.mark.parametrize("rnnt_type", ["regular", "modified", "constrained"])
def test_the_losses_lattices(
    interpreted: Interpreter, monkeypatch: pytest.MonkeyPatch, rnnt_type: str
) -> None:
    """The full lattice and a band as the losses lay them out."""
    generator = torch.Generator().manual_seed(2)
    am = torch.randn((2, 9, 6), generator=generator, dtype=torch.float64)
    lm = torch.randn((2, 5, 6), generator=generator, dtype=torch.float64)
    symbols = torch.tensor([[1, 2, 2, 4], [3, 1, 0, 0]])
    boundary = torch.tensor([[0, 0, 4, 9], [0, 0, 2, 7]])

    def losses() -> tuple[Tensor, ...]:
        loss, grads = pruned_rnnt.rnnt_loss_simple(
            lm, am, symbols, 0, boundary, rnnt_type, reduction="none", return_grad=True
        )
        ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, boundary, s_range=3)
        logits = torch.stack(pruned_rnnt.do_rnnt_pruning(am, lm, ranges)).sum(0)
        pruned = pruned_loss_and_occupation(logits, symbols, ranges, 0, boundary, rnnt_type)
        return loss, *grads, *pruned

    expected = losses()
    calls = []

    def interpret(name: str) -> Callable[..., Tensor]:
        def call(*arguments: Any) -> Tensor:
            calls.append(name)
            return interpreted(f"{MODULE}.{name}", *arguments)[0]

        return call

    kernels = SimpleNamespace(advance=interpret("advance"), occupy=interpret("occupy"))
    monkeypatch.setattr(recursion, "recursion_kernels", lambda arcs: kernels)
    torch.testing.assert_close(losses(), expected, rtol=1e-10, atol=1e-10)
    assert calls == ["advance", "occupy"] * 2


@pytest.mark.usefixtures("triton_cache")
@pytest.mark.parametrize(
    ("arcs", "num_slots", "shifted"), [("*fp32", 5, True), ("*fp32", 251, False), ("*fp64", 101, False)]
)
def test_compiles_for_a_gpu(arcs: str, num_slots: int, shifted: bool) -> None:
    from kdasr.losses.pruned_rnnt import triton_recursion

    shifts = torch.zeros((2, 1), dtype=torch.int64) if shifted else None
    ends = torch.zeros(1, dtype=torch.int64)
    layout = triton_recursion._layout(Columns(torch.zeros(2, 2, 1, num_slots), shifts, ends, ends))
    constants = {name: value for name, value in layout.items() if name.isupper()}
    types = {"arcs_ptr": arcs, "occupation_ptr": arcs, "totals_ptr": "*fp64"}
    types |= dict.fromkeys(("shifts_ptr", "ends_ptr", "end_slots_ptr"), "*i64")
    for kernel in (triton_recursion._advance_kernel, triton_recursion._occupy_kernel):
        ptx = compile_kernel(kernel, types, constants, layout["num_warps"])
        assert ".entry" in ptx and "cp.async" in ptx  # arcs are fetched ahead
