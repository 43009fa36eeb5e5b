"""The losses on a GPU, right and how fast: `PYTHONPATH=src python tools/bench_gpu.py`.

Needs what kdasr needs, Triton and a CUDA device, nothing else. First the Triton kernels against the CPU in
float64: losses, KL and all gradients, within 1e-4 of each tensor's largest value. Then forward + backward of
everything after the encoder (simple loss, ranges, joiner, pruned loss) and of stage two (both joiners, pruned
loss, KL), with the kernels and with torch's own operations in their place, and torchaudio's unpruned loss
where its lattice fits; times by CUDA events, in turns. Beside them a floor: the bytes that must move and the
products that must be made, at rates measured in the same run.
"""

import platform
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchaudio
import triton
from benchmarking import print_rows, run_benchmark

from kdasr.common.errors import UserError
from kdasr.losses.lattice import kernels
from kdasr.losses.lattice.joiner import Joint
from kdasr.losses.lattice.joint import joint_losses
from kdasr.losses.lattice.kl import KlForm, PowerKl
from kdasr.losses.lattice.power import PowerRule
from kdasr.losses.pruned_rnnt import get_rnnt_prune_ranges, rnnt_loss_smoothed

sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))  # the slow reference

from straightforward import stage_two_losses

SHAPES = [(64, 400, 100, 500), (32, 1000, 250, 5000)]
CHECKED = [(8, 60, 15, 100), (4, 200, 60, 5000)]
WIDTH = 512
S_RANGE = 5
RUNS = 15
TOLERANCE = 1e-4
LARGEST_LATTICE = 1 << 34
RULE, FORM = PowerRule("entropy"), KlForm()

Shape = tuple[int, int, int, int]


class Case:
    """Inputs of student and teacher."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype) -> None:
        B, T, S, V = shape
        generator = torch.Generator().manual_seed(0)

        def random(*sizes: int, scale: float = 1.0) -> torch.Tensor:
            values = scale * torch.randn(*sizes, generator=generator)
            return values.to(device, dtype)

        self.student = Joint(
            random(B, T, WIDTH), random(B, S + 1, WIDTH), random(V, WIDTH, scale=0.1), random(V)
        )
        self.teacher = Joint(
            random(B, T, WIDTH), random(B, S + 1, WIDTH), random(V, WIDTH, scale=0.3), random(V)
        )
        self.simple = random(V, WIDTH, scale=0.05), random(V, WIDTH, scale=0.05)
        for tensor in (*self.student, *self.simple):
            tensor.requires_grad_()
        self.symbols = torch.randint(1, V, (B, S), generator=generator).to(device)
        # Ragged, on the CPU: looking at lengths must not wait for the GPU.
        frames = torch.linspace(T, max(T // 2, S + 1), B).long()
        symbols = torch.linspace(S, S // 2, B).long()
        self.boundary = torch.stack((torch.zeros(B).long(), torch.zeros(B).long(), symbols, frames), 1)

    def simple_and_ranges(self) -> tuple[torch.Tensor, torch.Tensor]:
        am, lm = (x @ weight.t() for x, weight in zip(self.student[:2], self.simple, strict=True))
        simple, grads = rnnt_loss_smoothed(
            lm, am, self.symbols, 0, 0.25, 0.0, self.boundary, reduction="none", return_grad=True
        )
        return simple, get_rnnt_prune_ranges(*grads, self.boundary, S_RANGE)

    def valid(self, ranges: torch.Tensor) -> torch.Tensor:
        ends = self.boundary.to(ranges.device)
        frames = torch.arange(ranges.shape[1], device=ranges.device)
        return (frames < ends[:, 3:4])[:, :, None] & (ranges <= ends[:, 2, None, None])

    def whole(self) -> torch.Tensor:
        simple, ranges = self.simple_and_ranges()
        losses = joint_losses(self.student, self.symbols, ranges, 0, self.boundary)
        return (simple + losses.rnnt_B).sum()

    def stage_two(self, ranges: torch.Tensor) -> torch.Tensor:
        term = PowerKl(self.teacher, RULE, FORM, self.valid(ranges), by_occupation=True)
        losses = joint_losses(self.student, self.symbols, ranges, 0, self.boundary, nodes=[term])
        return losses.rnnt_B.sum() + losses.nodes[0].value_B.sum()

    def straightforward(self, ranges: torch.Tensor) -> torch.Tensor:
        rnnt_B, kl_B = stage_two_losses(
            self.student, self.teacher, self.symbols, ranges, 0, self.boundary.to(ranges.device), RULE, FORM
        )
        return rnnt_B.sum() + kl_B.sum()

    def torchaudio(self) -> torch.Tensor:
        am, lm, weight, bias = self.student
        logits = torch.nn.functional.linear(torch.tanh(am[:, :, None] + lm[:, None]), weight, bias)
        ends = self.boundary.int().to(logits.device)
        return torchaudio.functional.rnnt_loss(
            logits, self.symbols.int(), ends[:, 3].contiguous(), ends[:, 2].contiguous(), 0, reduction="sum"
        )


@contextmanager
def without_kernels() -> Iterator[None]:
    """torch's own operations on the GPU."""
    module, kernels._module = kernels._module, lambda _: None  # type: ignore[assignment]
    try:
        yield
    finally:
        kernels._module = module


def check(shape: Shape) -> dict[str, Any]:
    """Largest error of the losses and of each gradient, relative to the tensor's largest value."""
    exact, ours = Case(shape, "cpu", torch.float64), Case(shape, "cuda", torch.float32)
    _, ranges = exact.simple_and_ranges()
    row: dict[str, Any] = {"shape": list(shape), "what": "error against float64 on the CPU"}
    parts: dict[str, Callable[[Case], torch.Tensor]] = {
        "simple": lambda case: case.simple_and_ranges()[0].sum(),
        "stage two": lambda case: case.stage_two(ranges.to(case.symbols.device)),
    }
    for name, part in parts.items():
        theirs, mine = part(exact), part(ours)
        row[f"{name} loss"] = abs(mine.item() / theirs.item() - 1)
        leaves = (*exact.student, *exact.simple), (*ours.student, *ours.simple)
        grads = (
            torch.autograd.grad(x, leaf, allow_unused=True)
            for x, leaf in zip((theirs, mine), leaves, strict=True)
        )
        row[f"{name} gradients"] = largest_error(*grads)
    row["ok"] = all(value <= TOLERANCE for value in row.values() if isinstance(value, float))
    return row


def largest_error(exact: Sequence[torch.Tensor | None], ours: Sequence[torch.Tensor | None]) -> float:
    """Of some gradients, each relative to its largest value; infinite where one side alone has one."""
    errors = [
        torch.inf if a is None or b is None else float((b.cpu().double() - a).abs().max() / a.abs().max())
        for a, b in zip(exact, ours, strict=True)
        if a is not None or b is not None
    ]
    return float(torch.tensor(errors, dtype=torch.float64).max())  # nan where one is


def check_result(result: dict[str, Any]) -> None:
    """
    Raises:
        UserError: a loss or a gradient is wrong.
    """
    wrong = [
        f"{name} {value:.3g} at {tuple(row['shape'])}"
        for row in result["checks"]
        for name, value in row.items()
        if isinstance(value, float) and not value <= TOLERANCE
    ]
    if wrong:
        raise UserError(f"errors above {TOLERANCE:g}: {', '.join(wrong)}")


def timed(function: Callable[[], torch.Tensor], case: Case) -> float:
    """Milliseconds of forward and backward."""
    for tensor in (*case.student, *case.simple):
        tensor.grad = None
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    function().backward()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def peak_mib(function: Callable[[], torch.Tensor], case: Case) -> float:
    timed(function, case)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    timed(function, case)
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def rates() -> tuple[float, float]:
    """Bytes per millisecond of a copy, and products (one with its sum: 2) per millisecond of a matmul."""
    source = torch.empty(1 << 28, device="cuda")
    target = torch.empty_like(source)
    left = torch.randn(8192, 8192, device="cuda")

    def best(function: Callable[[], Any]) -> float:
        times = []
        for _ in range(5):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            function()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return min(times)

    return 2 * source.nbytes / best(lambda: target.copy_(source)), 2 * 8192**3 / best(lambda: left @ left)


def floor_ms(shape: Shape, joiners: int) -> float:
    """Logits move six times and take three products per joiner; a teacher's move four times and take one."""
    B, T, _, V = shape
    nodes = B * T * S_RANGE
    bytes_per_ms, products_per_ms = rates()
    moved = 4 * nodes * V * (6 + 4 * (joiners - 1))
    products = 2 * nodes * V * WIDTH * (3 + (joiners - 1))
    return moved / bytes_per_ms + products / products_per_ms


def measure_shape(shape: Shape) -> list[dict[str, Any]]:
    case = Case(shape, "cuda", torch.float32)
    _, ranges = case.simple_and_ranges()
    ranges = ranges.detach()

    def torch_only(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with without_kernels():
                return function()

        return run

    whole, stage_two = case.whole, lambda: case.stage_two(ranges)
    comparisons: list[tuple[str, str, Callable[[], torch.Tensor], Callable[[], torch.Tensor], int]] = [
        ("whole", "torch operations", whole, torch_only(whole), 1),
        ("stage two", "torch operations", stage_two, torch_only(stage_two), 2),
        ("stage two", "straightforward", stage_two, lambda: case.straightforward(ranges), 2),
    ]
    B, T, S, V = shape
    if 4 * B * T * (S + 1) * V <= LARGEST_LATTICE:
        comparisons.append(("whole", "torchaudio", whole, case.torchaudio, 1))
    rows: list[dict[str, Any]] = []
    for what, against, ours, theirs, joiners in comparisons:
        try:
            our_mib, their_mib = peak_mib(ours, case), peak_mib(theirs, case)
            pairs = [(timed(ours, case), timed(theirs, case)) for _ in range(RUNS)]
        except torch.OutOfMemoryError:
            rows.append({"shape": list(shape), "against": against, "what": what, "left_out": "out of memory"})
            continue
        rows.append(
            {
                "shape": list(shape),
                "against": against,
                "what": what,
                "ours_ms": statistics.median(a for a, _ in pairs),
                "theirs_ms": statistics.median(b for _, b in pairs),
                "time_ratio": statistics.median(a / b for a, b in pairs),
                "memory_ratio": our_mib / their_mib,
                "ours_mib": our_mib,
                "floor_ms": floor_ms(shape, joiners),
            }
        )
    return rows


def clock_mhz() -> int | None:
    """The GPU's clock now; None where nothing is installed that tells it (nvidia-ml-py)."""
    try:
        return torch.cuda.clock_rate()
    except (ImportError, RuntimeError):
        return None


def measure() -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(0)
    machine = {
        "device": properties.name,
        "clock_mhz": clock_mhz(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }
    print_rows([machine])
    checks = [check(shape) for shape in CHECKED]
    print_rows(checks)
    rows = [row for shape in SHAPES for row in measure_shape(shape)]
    print_rows(rows)
    return {"machine": machine, "checks": checks, "rows": rows}


if __name__ == "__main__":
    if not torch.cuda.is_available():
        raise SystemExit("bench_gpu.py: error: torch sees no CUDA device here")
    run_benchmark(
        "The losses on a GPU, forward + backward, float32, (B, T, S, V)",
        measure,
        "exp/bench/gpu.json",
        check_result,
    )
