"""What a step on speech without transcripts costs: `make bench-lpm`.

A step of local prior matching on a batch, by its parts (search for the proposals, their prior under the
language model, loss forward and backward), against a supervised step on the same audio. Both have the
transducer loss alone, one thread and the same trained model; the optimizer's own time is in neither. The
search is batched over the utterances of a batch; the language model scores all proposals in one forward.
Timed with the labels of the paper, four proposals, and with those of the shipped recipe.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from benchmarking import CONF, print_rows, require, run_tool
from lhotse import CutSet

from kdasr.bundle import load_bundle
from kdasr.common.files import write_json
from kdasr.data.batch import Batch
from kdasr.data.data_config import DataConfig
from kdasr.data.folder import load_cuts
from kdasr.data.loader import valid_batches
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import LabelConfig, RnntConfig
from kdasr.distillation.step import StepInput
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.language_model.scorer import load_language_model
from kdasr.nn.context import Context
from kdasr.self_training.labels import Labeler, label_search
from kdasr.self_training.prior_matching import tiled_nll, weighted_sums
from kdasr.self_training.proposals import ProposalModel, seed_hypotheses
from kdasr.study.recipe import load_recipe

PART = "train-clean-360"
RECIPE = CONF / "lpm" / "lpm.yaml"
ROW = "lpm"
RNNT = RnntConfig(warmup_steps=0)
CONTEXT = Context(left=32, chunk=8, right=0)
STEP = 10000


class Parts(NamedTuple):
    """Milliseconds of one batch."""

    paired: float
    search: float
    prior: float
    loss: float

    @property
    def unpaired(self) -> float:
        """The whole unpaired step."""
        return self.search + self.prior + self.loss


def milliseconds(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function()
    return result, 1000 * (time.perf_counter() - start)


def measure(
    model_path: Path, language_model: Path, data: Path, config: LabelConfig, num_batches: int
) -> dict[str, Any]:
    """Medians over batches, each timed in turn."""
    bundle, own = load_bundle(model_path, as_trained=True), load_bundle(model_path, as_trained=True)
    prior = load_language_model(language_model, bundle.tokenizer, source=str(model_path))
    student = own.model.train().requires_grad_(True)
    objective = Objective(ObjectiveConfig(rnnt=RNNT), student.config, None)
    proposal = ProposalModel(bundle.model, bundle.context, CONTEXT)
    cuts = CutSet.from_cuts(list(load_cuts(data, PART))[: 40 * (num_batches + 1)])
    batches = list(valid_batches(cuts, bundle.tokenizer, DataConfig(max_duration=40.0)))[: num_batches + 1]
    search = label_search(config)
    labeler = Labeler(config, seed_hypotheses(proposal, batches, "cpu", search), prior)

    def supervised(batch: Batch) -> None:
        student.zero_grad()
        losses = objective(student, StepInput(batch, loss_weights={"rnnt": 1.0}, context=CONTEXT, step=STEP))
        losses.total.backward()

    def learn(batch: Batch, labels: Any) -> None:
        student.zero_grad()
        encoded = student.encode(batch.features_BTF, batch.feature_lens_B, CONTEXT)
        nll_N = tiled_nll(student, encoded, labels, objective.lattices, RNNT, STEP)
        weighted_sums(nll_N, labels).sum().backward()

    def timed(batch: Batch) -> tuple[Parts, int]:
        _, paired = milliseconds(lambda: supervised(batch))
        proposals, searching = milliseconds(
            lambda: proposal.propose(batch.features_BTF, batch.feature_lens_B, search)
        )
        labels, scoring = milliseconds(lambda: labeler(batch.ids, proposals))
        _, loss = milliseconds(lambda: learn(batch, labels))
        return Parts(paired, searching, scoring, loss), len(labels.pieces)

    found = [timed(batch) for batch in batches][1:]  # the first one warms up
    parts = [row for row, _ in found]
    utterances = sum(len(batch) for batch in batches[1:])
    return {
        "beam": config.beam,
        "batches": len(parts),
        "audio_seconds": statistics.mean(batch.audio_seconds for batch in batches[1:]),
        "labels_per_utterance": sum(count for _, count in found) / utterances,
        **{f"{name}_ms": statistics.median(getattr(row, name) for row in parts) for name in Parts._fields},
        "unpaired_ms": statistics.median(row.unpaired for row in parts),
        "time_ratio": statistics.median(row.unpaired / row.paired for row in parts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="An unpaired step against a paired one, by its parts")
    parser.add_argument(
        "--model", type=Path, default=Path("exp/demo/teacher"), help="proposes, and is trained"
    )
    parser.add_argument("--lm", type=Path, default=Path("exp/lm/demo"), help="language model over its pieces")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="prepared corpus")
    parser.add_argument("--batches", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("exp/bench/lpm.json"))
    options = parser.parse_args()
    require(options.model, options.data)
    require(options.lm, made_by="make lm")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rules = {"paper": LabelConfig(), RECIPE.name: load_recipe(RECIPE).systems[ROW].unpaired.labels}
    rows = [
        {"labels": name, **measure(options.model, options.lm, options.data, labels, options.batches)}
        for name, labels in rules.items()
    ]
    print_rows(rows)
    write_json(options.out, rows)
    for row in rows:
        print(f"{row['labels']}: an unpaired step takes {row['time_ratio']:.2f} times a paired one")
    print(f"written to {options.out}")


if __name__ == "__main__":
    run_tool(main)
