"""Training on speech with and without transcripts: exact resume, replaced proposal models, the log."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from tiny_system import (
    CHUNKED,
    TWO_TERMS,
    Letters,
    RandomBatches,
    fit,
    random_batch,
    small_config,
    small_model,
    small_objective,
    tiny_system,
    trainer_config,
)

from kdasr.checkpoint import load_checkpoint
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.data.unpaired import InterleavedBatches
from kdasr.decoding.expansion import BeamOptions
from kdasr.decoding.greedy import greedy_search
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import LabelConfig, RnntConfig, StageConfig, UnpairedConfig
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.evaluation.wer import word_errors
from kdasr.experiment.semi_supervised import update_when_better
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.self_training.hypotheses import Hypotheses, UnpairedDistillation
from kdasr.self_training.labels import Labeler
from kdasr.self_training.proposals import ProposalModel, seed_hypotheses
from kdasr.self_training.step import SemiSupervisedObjective, UnpairedParts
from kdasr.training.interrupt import TrainingInterrupted
from kdasr.training.metrics import Meter
from kdasr.training.system import System


def talkative(seed: int) -> Transducer:
    """A random model that emits pieces."""
    model = small_model(seed=seed, dropout=0.2)
    with torch.no_grad():
        model.joiner.output.weight.mul_(8.0)
    return model


def semi_supervised_system(exp_dir: Path, error: float | None = None, **changes: Any) -> System:
    """One paired step, two unpaired ones; dropout and masks. `error` is taken for the proposal model's."""
    proposal = ProposalModel(talkative(seed=7), Context.full(), later_context=CHUNKED)
    first = seed_hypotheses(
        proposal, [random_batch(number) for number in range(4)], "cpu", BeamOptions(beam=1)
    )
    labels = LabelConfig(weights="uniform", length_tolerance=0.5)
    parts = UnpairedParts(
        config=UnpairedConfig(ratio=2, labels=labels),
        proposal=proposal,
        labeler=Labeler(labels, first),
        tokenizer=Letters(),
        spec_augment=SpecAugmentConfig(),
        transcripts={},
    )
    if error is not None:
        proposal.set_error(error)
    objective = Objective(ObjectiveConfig(rnnt=RnntConfig(warmup_steps=4)), small_config(), None)
    system = tiny_system(
        exp_dir,
        contexts=[CHUNKED],
        model=small_model(dropout=0.2),
        objective=SemiSupervisedObjective(objective, parts),
        stages=[StageConfig(name="only", num_steps=8, loss_weights=dict(TWO_TERMS))],
        train_batches=InterleavedBatches(RandomBatches(), RandomBatches(first=2), ratio=2),
    )
    system = replace(system, **changes)
    return replace(system, after_validation=update_when_better(system, objective, proposal))


def distilled_system(exp_dir: Path, mixing: str, **changes: Any) -> System:
    """A paired batch and two unpaired ones, in steps of their own or in one; dropout and two stages."""
    teacher = TransducerTeacher(talkative(seed=7), Context.full())
    objective = Objective(ObjectiveConfig(rnnt=RnntConfig(warmup_steps=4)), small_config(), teacher)
    options = UnpairedConfig(ratio=2, mixing=mixing, weight=0.5)
    says = Hypotheses(teacher, BeamOptions(beam=1), Letters())
    hidden = {**TWO_TERMS, "hidden_mse": 1.0}
    stages = [
        StageConfig(name="hidden", num_steps=4, loss_weights=hidden, unpaired_weights={"hidden_mse": 1.0}),
        StageConfig(name="output", num_steps=4, loss_weights={**hidden, "output_kl": 0.3}),
    ]
    system = tiny_system(
        exp_dir,
        contexts=[CHUNKED, Context.full()],
        model=small_model(dropout=0.2),
        objective=UnpairedDistillation(objective, options, says),
        stages=stages,
        train_batches=InterleavedBatches(RandomBatches(), RandomBatches(first=2), ratio=2),
        batches_at_once=3 if mixing == "joint" else 1,
    )
    return replace(system, **changes)


@pytest.mark.parametrize("mixing", ["steps", "joint"])
def test_a_resumed_distillation_ends_with_the_same_bits(tmp_path: Path, mixing: str) -> None:
    """Stopped in the first stage, between the batches of a step where it has several."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(distilled_system(whole, mixing))
    stop = RandomBatches(first=2, interrupt_at=4)
    interrupted = InterleavedBatches(RandomBatches(), stop, ratio=2)
    with pytest.raises(TrainingInterrupted):
        fit(distilled_system(parts, mixing, train_batches=interrupted))
    fit(distilled_system(parts, mixing))
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, parts))
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name
    assert rows(whole) == rows(parts)
    taken = one["trainer"]["processes"][0]["batches"]
    assert taken["count"] == (24 if mixing == "joint" else 8)
    terms = [set(row["terms"]) for row in rows(whole) if row["split"] == "train"]
    assert "unpaired_hidden_mse" in terms[0] and "unpaired_rnnt" not in terms[0]
    assert {"unpaired_output_kl", "unpaired_rnnt", "output_kl"} <= terms[-1] | terms[-2]


def rows(exp_dir: Path) -> list[dict[str, Any]]:
    lines = (exp_dir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize(("stop_at", "error"), [(0, 1e9), (3, 1e9), (0, None)])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stop_at: int, error: float | None) -> None:
    """Stopped before and after a validation at which the proposal model is replaced; or before the first one
    has measured its error."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(semi_supervised_system(whole, error=error))
    interrupted = InterleavedBatches(
        RandomBatches(), RandomBatches(first=2, interrupt_at=2 + stop_at), ratio=2
    )
    with pytest.raises(TrainingInterrupted):
        fit(semi_supervised_system(parts, error=error, train_batches=interrupted))
    fit(semi_supervised_system(parts, error=error))
    one, other = (load_checkpoint(folder / "checkpoints" / "last.pt") for folder in (whole, parts))
    assert error is None or one["trainer"]["objective"]["proposal.updates"] >= 1
    for a, b in (
        (one["model"], other["model"]),
        (one["trainer"]["objective"], other["trainer"]["objective"]),
    ):
        assert a.keys() == b.keys()
        for name in a:
            assert torch.equal(a[name], b[name]), name
    assert rows(whole) == rows(parts)


def test_the_log_has_the_terms_of_both_kinds(tmp_path: Path) -> None:
    fit(semi_supervised_system(tmp_path, error=1e9, config=trainer_config(log_every=3)))
    first, second, _ = [row["terms"] for row in rows(tmp_path) if row["split"] == "train"]
    assert {"rnnt", "ctc", "lpm", "survivors", "filtered", "weight_entropy", "proposal_updates"} <= set(first)
    assert first["survivors"] > 0 and first["lpm"] > 0
    assert (first["proposal_updates"], second["proposal_updates"]) == (0.0, 1.0)
    assert set(rows(tmp_path)[-1]["terms"]) >= {"rnnt", "ctc"}


def test_the_first_validation_measures_the_proposal_model(tmp_path: Path) -> None:
    system = semi_supervised_system(tmp_path)
    assert isinstance(system.objective, SemiSupervisedObjective)
    proposal, before = system.objective.proposal, system.objective.proposal.fingerprint()
    errors = words = 0
    for batch in system.valid_batches():
        encoded = proposal.model.encode(batch.features_BTF, batch.feature_lens_B, Context.full())
        for text, found in zip(
            batch.texts, greedy_search(proposal.model, encoded.encoded_BTD, encoded.lens_B), strict=True
        ):
            counts = word_errors(text, Letters().decode(found.tokens))
            errors, words = errors + counts.total, words + counts.words
    assert system.after_validation is not None
    validation = fit_validation(system, wer=1e9)
    assert float(proposal.error) == pytest.approx(100 * errors / words)
    assert proposal.fingerprint() == before and validation == 1e9
    assert not any(module.training for module in proposal.modules())
    fit_validation(system, wer=0.0)
    assert float(proposal.error) == 0.0 and int(proposal.updates) == 1


def fit_validation(system: System, wer: float) -> float:
    """What the trainer does after a validation with this result."""
    from kdasr.training.validation import Validation

    validation = Validation(total=0.0, terms={}, scores={"wer": wer})
    assert system.after_validation is not None
    system.after_validation(Fabric(accelerator="cpu", devices=1), validation, system.model)
    return validation.criterion


def test_means_are_over_the_steps_that_had_a_value() -> None:
    fabric, meter = Fabric(accelerator="cpu", devices=1), Meter()
    for values in ({"total": 1.0, "rnnt": 4.0}, {"total": 2.0, "lpm": 6.0}, {"total": 3.0, "lpm": 8.0}):
        meter.add({name: torch.tensor(value) for name, value in values.items()}, 0.0, 1.0)
    resumed = Meter()
    resumed.load_state_dict(meter.state_dict(), torch.device("cpu"))
    for one in (meter, resumed):
        assert one.means(fabric)[0] == {"total": 2.0, "rnnt": 4.0, "lpm": 7.0}


def test_supervised_training_knows_nothing_of_it(tmp_path: Path) -> None:
    fit(tiny_system(tmp_path, objective=small_objective()))
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pt")
    assert not any("proposal" in name for name in saved["trainer"]["objective"])
    assert set(rows(tmp_path)[0]["terms"]) == {"rnnt", "rnnt_simple", "rnnt_pruned", "ctc"}
