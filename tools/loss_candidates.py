"""One implementation of the pruned transducer loss, measured in a process of its own.

    python tools/loss_candidates.py NAME WHAT B T S V

builds inputs, and for every line on standard input makes one forward and backward pass and prints its
milliseconds; for the line `memory` it prints instead by how many bytes the process grew at most meanwhile.
WHAT: `pruned`, the pruned loss of given logits; `whole`, everything between the encoder's and the
predictor's output and their gradients: projections, simple loss, ranges, joiner, pruned loss; `stage-two`,
what distillation evaluates on given ranges: the joiners of student and teacher, pruned loss and KL.

Runs under any torch that its candidate needs, so it imports nothing of kdasr but for kdasr's own candidate
and the linear layers, which all candidates of one torch share.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

WIDTH = 512
S_RANGE = 5
BLANK = 0
SCALES = {"lm_only_scale": 0.25, "am_only_scale": 0.0}


class Inputs:
    """Random inputs and the modules between them and the losses."""

    def __init__(self, B: int, T: int, S: int, V: int, linear: Callable[[int, int], Any]) -> None:
        torch.manual_seed(0)
        self.encoded = torch.randn(B, T, WIDTH, requires_grad=True)
        self.predicted = torch.randn(B, S + 1, WIDTH, requires_grad=True)
        self.symbols = torch.randint(1, V, (B, S))
        self.boundary = torch.tensor([[0, 0, S, T]]).expand(B, 4).contiguous()
        self.simple_am, self.simple_lm, self.output = (linear(WIDTH, V) for _ in range(3))
        self.project_am, self.project_lm = linear(WIDTH, WIDTH), linear(WIDTH, WIDTH)
        steps = torch.arange(T) * max(S + 1 - S_RANGE, 0) // max(T - 1, 1)
        self.ranges = (steps[:, None] + torch.arange(S_RANGE)).expand(B, T, S_RANGE).contiguous()
        self.logits = torch.randn(B, T, S_RANGE, V, requires_grad=True)


def simple_and_ranges(functions: Any, x: Inputs) -> tuple[Any, Any]:
    simple, grads = functions.rnnt_loss_smoothed(
        x.simple_lm(x.predicted),
        x.simple_am(x.encoded),
        x.symbols,
        BLANK,
        boundary=x.boundary,
        reduction="sum",
        return_grad=True,
        **SCALES,
    )
    return simple, functions.get_rnnt_prune_ranges(*grads, x.boundary, S_RANGE)


def whole_like_k2(functions: Any, x: Inputs) -> None:
    simple, ranges = simple_and_ranges(functions, x)
    am, lm = functions.do_rnnt_pruning(x.project_am(x.encoded), x.project_lm(x.predicted), ranges)
    logits = x.output(torch.tanh(am + lm))
    (simple + pruned_of(functions, x, logits, ranges)).backward()


def pruned_of(functions: Any, x: Inputs, logits: Any, ranges: Any) -> Any:
    return functions.rnnt_loss_pruned(logits, x.symbols, ranges, BLANK, x.boundary, reduction="sum")


def whole_kdasr(x: Inputs, keep_logits: bool = True) -> None:
    from kdasr.losses import pruned_rnnt
    from kdasr.losses.lattice.joiner import Joint
    from kdasr.losses.lattice.joint import joint_losses

    simple, ranges = simple_and_ranges(pruned_rnnt, x)
    joint = Joint(x.project_am(x.encoded), x.project_lm(x.predicted), x.output.weight, x.output.bias)
    losses = joint_losses(joint, x.symbols, ranges, BLANK, x.boundary, keep_logits=keep_logits)
    (simple + losses.rnnt_B.sum()).backward()


def whole_torchaudio(x: Inputs) -> None:
    import torchaudio

    hidden = torch.tanh(x.project_am(x.encoded)[:, :, None] + x.project_lm(x.predicted)[:, None])
    torchaudio.functional.rnnt_loss(
        x.output(hidden),
        x.symbols.int(),
        x.boundary[:, 3].int(),
        x.boundary[:, 2].int(),
        blank=BLANK,
        reduction="sum",
        fused_log_softmax=True,
    ).backward()


def stage_two(name: str, x: Inputs) -> None:
    sys.path.append(str(Path(__file__).parents[1] / "tests" / "helpers"))
    from straightforward import stage_two_losses

    from kdasr.losses.lattice.joiner import Joint
    from kdasr.losses.lattice.joint import joint_losses
    from kdasr.losses.lattice.kl import KlForm, PowerKl
    from kdasr.losses.lattice.power import PowerRule

    student = Joint(x.encoded, x.predicted, x.output.weight, x.output.bias)
    with torch.no_grad():
        teacher = Joint(x.encoded.flip(1), x.predicted.flip(1), x.simple_am.weight * 20, x.simple_am.bias)
    rule, form = PowerRule("entropy"), KlForm()
    if name == "straightforward":
        rnnt_B, kl_B = stage_two_losses(student, teacher, x.symbols, x.ranges, BLANK, x.boundary, rule, form)
    else:
        valid = torch.ones_like(x.ranges, dtype=torch.bool)
        term = PowerKl(teacher, rule, form, valid, by_occupation=True)
        losses = joint_losses(student, x.symbols, x.ranges, BLANK, x.boundary, nodes=[term])
        rnnt_B, kl_B = losses.rnnt_B, losses.nodes[0].value_B
    (rnnt_B.sum() + 0.3 * kl_B.sum()).backward()


def functions_of(name: str) -> Any:
    """The module with k2's functions."""
    if name == "fast_rnnt":
        sys.path.insert(0, str(Path("build/fast_rnnt").resolve()))
        import fast_rnnt

        return fast_rnnt
    if name == "k2":
        import k2

        return k2
    from kdasr.losses import pruned_rnnt

    return pruned_rnnt


def candidate(name: str, what: str, x: Inputs) -> Callable[[], None]:
    """One forward and backward pass."""
    if what == "stage-two":
        return lambda: stage_two(name, x)
    if name == "torchaudio":
        return lambda: whole_torchaudio(x)
    if what == "whole" and name.startswith("kdasr"):
        return lambda: whole_kdasr(x, keep_logits=name == "kdasr")
    functions = functions_of(name)
    if what == "whole":
        return lambda: whole_like_k2(functions, x)
    return lambda: pruned_of(functions, x, x.logits, x.ranges).backward()


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, or `VmHWM` at most since `forget_peak`."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return 1024 * int(line.split()[1])


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    name, what, *sizes = sys.argv[1:]
    torch.set_num_threads(1)
    try:
        from kdasr.nn.linear import Linear
    except ImportError:
        from torch.nn import Linear
    small = candidate(name, what, Inputs(2, 12, 6, 10, Linear))
    small()
    step = candidate(name, what, Inputs(*map(int, sizes), Linear))
    print("ready", flush=True)
    for line in sys.stdin:
        before = resident("VmRSS")
        forget_peak()
        start = time.perf_counter()
        step()
        elapsed = 1000 * (time.perf_counter() - start)
        print(resident("VmHWM") - before if line.strip() == "memory" else elapsed, flush=True)


if __name__ == "__main__":
    main()
