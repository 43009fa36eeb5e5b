"""Training steps of a student in one mode or in two, measured in a process of its own.

    python tools/mode_steps.py plain|two-modes SIZE PIECES

builds the student of `conf/SIZE.yaml` and its optimizer, and for every line on standard input makes one step
on 60 s of noise, computed in PIECES pieces (`training.split_batches`), and prints its milliseconds; for the
line `memory` it prints instead by how many bytes the process was larger at most than before there was a
student: weights, gradients and the optimizer's state included.
"""

import argparse
import sys
import time

import torch
from benchmarking import CONF, run_tool
from loss_candidates import forget_peak, resident

from kdasr.distillation.objective import Objective
from kdasr.distillation.step import StepInput
from kdasr.experiment.recipe_file import load_experiment
from kdasr.models.transducer.build import build_transducer
from kdasr.nn.context import Context
from kdasr.testing import dummy_batch

CONTEXT = Context(left=32, chunk=8)
WEIGHTS = {
    "plain": {"rnnt": 1.0, "ctc": 0.3},
    "two-modes": {"rnnt": 0.5, "rnnt_full": 0.5, "ctc": 0.15, "ctc_full": 0.15, "mode_kl": 0.3},
}


class Student:
    """A student of a recipe with its optimizer."""

    def __init__(self, what: str, size: str, pieces: int, utterances: int) -> None:
        config = load_experiment(CONF / f"{size}.yaml", "streaming", [])
        config.model.vocab_size = config.data.vocab_size
        torch.manual_seed(0)
        self.model = build_transducer(config.model)
        self.objective = Objective(config.objective, config.model, None)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        self.batch = dummy_batch(utterances, config.data.vocab_size, max_frames=760, max_tokens=30)
        self.weights, self.pieces = WEIGHTS[what], pieces

    def step(self) -> None:
        """Forward, backward and update."""
        self.optimizer.zero_grad()
        denominators = self.objective.count(self.batch)
        for part in self.batch.split(self.pieces):
            inputs = StepInput(
                part, loss_weights=self.weights, context=CONTEXT, step=10000, denominators=denominators
            )
            self.objective(self.model, inputs).total.backward()
        self.optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(WEIGHTS))
    parser.add_argument("size", help="such as demo or base")
    parser.add_argument("pieces", type=int)
    options = parser.parse_args()
    what, size = options.what, options.size
    torch.set_num_threads(1)
    Student(what, size, 1, utterances=1).step()
    before = resident("VmRSS")
    student = Student(what, size, options.pieces, utterances=8)
    student.step()
    print("ready", flush=True)
    for line in sys.stdin:
        forget_peak()
        start = time.perf_counter()
        student.step()
        elapsed = 1000 * (time.perf_counter() - start)
        print(resident("VmHWM") - before if line.strip() == "memory" else elapsed, flush=True)


if __name__ == "__main__":
    run_tool(main)
