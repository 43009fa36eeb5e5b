"""What distillation costs: `make bench-distill`.

First what comes after the encoders in stage two (joiners of student and teacher, pruned loss, KL, forward and
backward) against the same written the short way by autograd, in time and peak memory. Then whole training
steps of the recipe's students: stage two (`rnnt`, `ctc`, `output_kl`) against a plain step (`rnnt`, `ctc`),
with the teacher's forward timed apart. Then steps in two modes that agree (`rnnt_full`, `ctc_full`,
`mode_kl`) against a plain one, in time and peak memory, whole and in two pieces. The models are untrained,
which is the most expensive case: the KL runs on the nodes that the student's paths visit, and an untrained
student's paths go everywhere.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from benchmarking import CONF, compare_processes, print_rows, run_benchmark

from kdasr.distillation.objective import Objective
from kdasr.distillation.step import StepInput
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.experiment.recipe_file import load_experiment
from kdasr.losses.lattice import nodes
from kdasr.models.transducer.build import build_transducer
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch

SHAPE = (16, 400, 100, 500)
SIZES = ("demo", "base", "large")
RUNS = 7
PLAIN = {"rnnt": 1.0, "ctc": 0.3}


def loss_row() -> dict[str, Any]:
    script = str(Path(__file__).with_name("loss_candidates.py"))
    ours, theirs = (
        [sys.executable, script, name, "stage-two", *map(str, SHAPE)] for name in ("kdasr", "straightforward")
    )
    return {"shape": list(SHAPE), "against": "straightforward", **compare_processes(ours, theirs, RUNS)}


def step_row(size: str) -> dict[str, Any]:
    """Medians of a recipe's student on 60 s of noise, and by how much the KL lengthens its step."""
    config = load_experiment(CONF / f"{size}.yaml", "two-stage", [])
    config.model.vocab_size = config.data.vocab_size
    torch.manual_seed(0)
    student, teacher = build_transducer(config.model), build_transducer(config.model)
    objective = Objective(config.objective, config.model, TransducerTeacher(teacher, Context.full()))
    batch = dummy_batch(8, config.data.vocab_size, max_frames=760, max_tokens=30)

    def step(loss_weights: dict[str, float]) -> None:
        student.zero_grad()
        context = Context(left=32, chunk=8, right=0)
        inputs = StepInput(batch, loss_weights=loss_weights, context=context, step=10000)
        objective(student, inputs).total.backward()

    def teach() -> None:
        assert objective.teacher is not None
        objective.teacher.encode(batch).nodes()

    parts: list[Callable[[], None]] = [lambda: step(PLAIN), lambda: step({**PLAIN, "output_kl": 0.3}), teach]
    for part in parts:
        part()
    with patch.object(nodes, "nodes_with_weight", wraps=nodes.nodes_with_weight) as chosen:
        step({**PLAIN, "output_kl": 0.3})
        plan, weights_BTK, num_states = chosen.call_args.args
    weighted = nodes.nodes_with_weight(plan, weights_BTK, num_states)
    rounds = [[_milliseconds(part) for part in parts] for _ in range(RUNS)]
    plain, with_kl, forward = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "student": size,
        "plain_step_ms": plain,
        "stage_two_step_ms": with_kl,
        "teacher_forward_ms": forward,
        "nodes_with_weight": len(weighted.rows_N) / plan.states_FK.numel(),
        "kl_overhead": statistics.median((b - c) / a - 1 for a, b, c in rounds),
    }


def modes_row(size: str, pieces: int) -> dict[str, Any]:
    """A step in two modes against a plain one, which is computed in one piece."""
    script = str(Path(__file__).with_name("mode_steps.py"))
    ours = [sys.executable, script, "two-modes", size, str(pieces)]
    plain = [sys.executable, script, "plain", size, "1"]
    return {"two_modes": size, "pieces": pieces, **compare_processes(ours, plain, RUNS)}


def _milliseconds(part: Callable[[], None]) -> float:
    start = time.perf_counter()
    part()
    return 1000 * (time.perf_counter() - start)


def measure() -> dict[str, Any]:
    losses, steps = loss_row(), [step_row(size) for size in SIZES]
    modes = [modes_row(size, pieces) for size in SIZES for pieces in (1, 2)]
    print_rows([losses, *steps, *modes])
    return {
        "time_ratio": losses["time_ratio"],
        "memory_ratio": losses["memory_ratio"],
        "kl_overhead": max(row["kl_overhead"] for row in steps),
        "losses": losses,
        "steps": steps,
        "modes": modes,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_benchmark(
        "Stage two, forward + backward, one thread: losses after the encoders, then whole steps",
        measure,
        "exp/bench/distill.json",
    )
