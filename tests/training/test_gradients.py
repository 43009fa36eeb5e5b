"""However a joint batch is split, over accumulation steps or processes, its gradient is the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_system import (
    CHUNKED,
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
from torch import Tensor
from two_processes import run_two, under_torchrun

from kdasr.checkpoint import load_checkpoint
from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.data.data_config import SpecAugmentConfig
from kdasr.decoding.expansion import BeamOptions
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import StageConfig, UnpairedConfig
from kdasr.distillation.step import StepObjective
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms import ObjectiveConfig
from kdasr.models.encoders.zipformer2 import attention
from kdasr.models.encoders.zipformer2.config import Zipformer2Config
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.self_training.hypotheses import Hypotheses, UnpairedDistillation
from kdasr.self_training.labels import Labels
from kdasr.self_training.step import SemiSupervisedObjective, UnpairedParts
from kdasr.training.devices import make_fabric
from kdasr.training.interrupt import TrainingInterrupted
from kdasr.training.module import TrainingModule
from kdasr.training.resume import batches_per_process
from kdasr.training.system import System
from kdasr.training.training_config import TrainerConfig
from kdasr.training.update import Updater
from zipformer2_models import small_config as small_zipformer2

# All kinds of denominators: frames (rnnt, ctc) and utterances (hidden_mse, output_kl).
ALL_TERMS = {"rnnt": 1.0, "ctc": 0.5, "hidden_mse": 2.0, "output_kl": 0.5}
SIZES = ((60, 47, 52), (44, 40))


def gradients(
    batches: list[Batch], config: TrainerConfig | None = None, model: Transducer | None = None
) -> dict[str, Tensor]:
    """Gradients and logged values of an optimizer step of this process."""
    config = config or trainer_config()
    fabric = make_fabric(config)
    module = TrainingModule(model or small_model(), small_objective(with_teacher=True))
    updater = Updater(fabric, module, StageConfig(loss_weights=ALL_TERMS), config.optim)
    result = updater.gradients(batches, CHUNKED, 2, ALL_TERMS)
    values = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    terms = {f"term {name}": value for name, value in result.terms.items()}
    if fabric.world_size > 1:
        terms = {name: fabric.all_reduce(value, reduce_op="mean") for name, value in terms.items()}
    return {**values, **terms, "norm": result.gradient_norm}


def split_batches() -> list[Batch]:
    return [random_batch(seed, sizes) for seed, sizes in enumerate(SIZES)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_layers_that_are_computed_again_give_the_same_bits(dropout: float) -> None:
    """Those that draw random numbers too; in evaluation nothing is computed twice."""
    found, calls = [], []
    for recompute in (False, True):
        model = small_model(dropout=dropout)
        if recompute:
            model.encoder.recompute_layers()
        count: list[int] = []
        # Before its forward: the second one ends as soon as it has what the backward pass needs.
        model.encoder.layers[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        found.append(gradients([random_batch(0)], model=model.train()))
        found[-1]["next random number"] = torch.rand(1)
        calls.append(len(count))
        with torch.no_grad():
            model.eval().encode(random_batch(0).features_BTF, random_batch(0).feature_lens_B, CHUNKED)
        assert len(count) == calls[-1] + 1
    assert calls == [1, 2]
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_an_encoder_that_cannot_compute_again_says_so() -> None:
    encoder = build_transducer(TransducerConfig(vocab_size=5, encoder=Zipformer2Config())).encoder
    with pytest.raises(UserError, match=r"recompute_layers.*'zipformer2'"):
        encoder.recompute_layers()


def joined_batch() -> Batch:
    """The same utterances in one batch."""
    one, other = split_batches()
    frames, pieces = one.features_BTF.shape[1], max(one.tokens_BS.shape[1], other.tokens_BS.shape[1])

    def padded(x: Tensor, length: int) -> Tensor:
        missing = torch.full((x.shape[0], length - x.shape[1], *x.shape[2:]), 1, dtype=x.dtype)
        return torch.cat([x, missing], dim=1)

    return Batch(
        features_BTF=torch.cat([one.features_BTF, padded(other.features_BTF, frames)]),
        feature_lens_B=torch.cat([one.feature_lens_B, other.feature_lens_B]),
        tokens_BS=torch.cat([padded(one.tokens_BS, pieces), padded(other.tokens_BS, pieces)]),
        token_lens_B=torch.cat([one.token_lens_B, other.token_lens_B]),
        ids=one.ids + other.ids,
        texts=one.texts + other.texts,
        audio_seconds=one.audio_seconds + other.audio_seconds,
    )


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert {"term rnnt", "term ctc", "term hidden_mse", "term output_kl"} <= left.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.fixture(scope="module")
def joint() -> dict[str, Tensor]:
    return gradients([joined_batch()])


def test_accumulated_batches_give_the_gradient_of_the_joint_batch(joint: dict[str, Tensor]) -> None:
    assert_same(gradients(split_batches()), joint)


PenaltyGradient = Callable[[list[Batch], Callable[[Objective], StepObjective]], Tensor]


@pytest.fixture
def penalty_gradient(monkeypatch: pytest.MonkeyPatch) -> PenaltyGradient:
    """What the penalty of attention scores adds to the gradient of some batches of a step: of Zipformer2,
    without what it does by chance."""
    monkeypatch.setattr("kdasr.nn.schedule.Ramp.__call__", lambda self: 0.0)
    for module in ("nn.gradient_shaping", "models.encoders.zipformer2.layer"):
        monkeypatch.setattr(f"kdasr.{module}.by_chance", lambda probability: False)
    monkeypatch.setattr(attention, "by_chance", lambda rate: rate == attention.PENALTY_PROBABILITY)
    monkeypatch.setattr("kdasr.models.encoders.zipformer2.stack.POSITION_DROPOUT", 0.0)
    monkeypatch.setattr(attention, "LARGEST_SCORE", 0.0)
    config = replace(small_config(), encoder=small_zipformer2(encoder_unmasked_dim=[8, 12, 10]))

    def gradient(
        batches: list[Batch], penalty: float, objective_of: Callable[[Objective], StepObjective]
    ) -> Tensor:
        monkeypatch.setattr(attention, "SCORE_PENALTY", penalty)
        torch.manual_seed(0)
        model, objective = build_transducer(config).train(), Objective(ObjectiveConfig(), config, None)
        module = TrainingModule(model, objective_of(objective))
        weights = {"rnnt": 1.0}
        updater = Updater(
            make_fabric(trainer_config()), module, StageConfig(loss_weights=weights), trainer_config().optim
        )
        updater.gradients(batches, CHUNKED, 2, weights)
        return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])

    return lambda batches, objective_of: (
        gradient(batches, 100.0, objective_of) - gradient(batches, 0.0, objective_of)
    )


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_split_batch_has_the_attention_penalty_of_the_whole_one(
    count: int, penalty_gradient: PenaltyGradient
) -> None:
    batch = random_batch(0, (60, 60, 60, 60))
    whole, parts = (
        penalty_gradient(batches, lambda own: own) for batches in ([batch], list(batch.split(count)))
    )
    assert whole.norm() > 1.0
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


class LabeledByTranscript(SemiSupervisedObjective):
    """The labels are the pieces that the batch has after all."""

    def _label(self, batch: Batch) -> Labels:
        rows = zip(batch.tokens_BS.tolist(), batch.token_lens_B.tolist(), strict=True)
        pieces = [tuple(row[:length]) for row, length in rows]
        return Labels(list(range(len(batch))), pieces, torch.ones(len(batch)), len(batch))

    def _statistics(self, labels: Labels, batch: Batch) -> dict[str, float]:
        return {}


@pytest.mark.parametrize("method", ["distillation", "labels"])
def test_a_batch_without_transcripts_has_the_attention_penalty_by_its_weight(
    method: str, penalty_gradient: PenaltyGradient
) -> None:
    """As it has its losses. In a step on both kinds the penalties add up."""
    paired = random_batch(0, (60, 60))
    unpaired = replace(random_batch(1, (60, 60)), paired=False)

    def objective_of(weight: float) -> Callable[[Objective], StepObjective]:
        options = UnpairedConfig(weight=weight)
        if method == "distillation":
            return lambda own: UnpairedDistillation(own, options, Hypotheses(None, BeamOptions(), Letters()))
        parts: dict[str, Any] = {"proposal": None, "labeler": None, "tokenizer": Letters(), "transcripts": {}}
        masks = SpecAugmentConfig(enabled=False)
        return lambda own: LabeledByTranscript(own, UnpairedParts(options, spec_augment=masks, **parts))

    alone, half, joint = (
        penalty_gradient(batches, objective_of(weight))
        for batches, weight in (([unpaired], 1.0), ([unpaired], 0.5), ([paired, unpaired], 0.5))
    )
    own = penalty_gradient([paired], objective_of(1.0))
    assert alone.norm() > 1.0
    for found, expected in ((half, 0.5 * alone), (joint, own + 0.5 * alone)):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(alone.abs().max()))


def gradients_of_rank(rank: int, port: int, out: Path) -> None:
    under_torchrun(rank, port)
    torch.save(gradients([split_batches()[rank]]), out / f"{rank}.pt")


def test_two_processes_give_the_gradient_of_the_joint_batch(joint: dict[str, Tensor], tmp_path: Path) -> None:
    assert run_two(gradients_of_rank, tmp_path) == [0, 0]
    for rank in range(2):
        assert_same(torch.load(tmp_path / f"{rank}.pt", weights_only=True), joint)


def of_both_kinds(rank: int) -> list[Batch]:
    """A batch with transcripts and one without, of other frames and utterances."""
    paired, unpaired = random_batch(rank, SIZES[rank]), random_batch(2 + rank, SIZES[1 - rank])
    return [paired, replace(unpaired, paired=False)]


def gradients_of_both_kinds(batches: list[Batch], weight: float = 0.3) -> dict[str, Tensor]:
    """`gradients` where batches without transcripts have what the teacher says, and other terms."""
    fabric = make_fabric(trainer_config())
    objective = small_objective(with_teacher=True)
    assert isinstance(objective.teacher, TransducerTeacher)
    says = Hypotheses(objective.teacher, BeamOptions(beam=1), Letters())
    options = UnpairedConfig(weight=weight)
    module = TrainingModule(small_model(), UnpairedDistillation(objective, options, says))
    stage = StageConfig(
        loss_weights={"rnnt": 1.0, "ctc": 0.5}, unpaired_weights={"hidden_mse": 2.0, "rnnt": 1.0}
    )
    updater = Updater(fabric, module, stage, trainer_config().optim)
    updater.gradients(batches, CHUNKED, 2, stage.loss_weights)
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def gradients_of_both_kinds_of_rank(rank: int, port: int, out: Path) -> None:
    under_torchrun(rank, port)
    torch.save(gradients_of_both_kinds(of_both_kinds(rank)), out / f"{rank}.pt")


def test_both_kinds_of_batches_add_up_by_their_weight_on_any_number_of_processes(tmp_path: Path) -> None:
    """Each kind is divided by its own frames and utterances; the heads that one kind leaves out are there."""
    each = [of_both_kinds(rank) for rank in range(2)]
    paired, unpaired = ([batches[kind] for batches in each] for kind in range(2))
    joint = gradients_of_both_kinds([*paired, *unpaired])
    alone = [gradients_of_both_kinds(batches, weight=1.0) for batches in (paired, unpaired)]
    assert any("ctc_head" in name for name in joint) and any("adapters" in name for name in joint)
    for name, value in joint.items():
        parts = [one.get(name, torch.zeros_like(value)) for one in alone]
        torch.testing.assert_close(value, parts[0] + 0.3 * parts[1], rtol=1e-4, atol=1e-6, msg=name)
    assert run_two(gradients_of_both_kinds_of_rank, tmp_path) == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in joint.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)


class Unequal(RandomBatches):
    """The batches of one of two processes, whose batches have other sizes than those of the other one."""

    def __init__(self, rank: int, **harm: object) -> None:
        super().__init__(first=10 * rank, **harm)  # type: ignore[arg-type]
        self.rank = rank

    def __next__(self) -> Batch:
        batch = super().__next__()
        return batch if self.rank == 0 else batch.select([1, 2])


def train_rank(rank: int, port: int, exp_dir: Path, until: str | None, stop: int) -> None:
    """Batch 2 of process 1 is not finite; its batch `stop` asks for a stop. The model's schedules go by what
    a process has heard."""
    under_torchrun(rank, port)
    stages = [StageConfig(name=name, num_steps=3, loss_weights={"rnnt": 1.0}) for name in ("a", "b")]
    source = Unequal(rank, bad=(12,), interrupt_at=stop)
    config = replace(small_config(), encoder=small_zipformer2())
    torch.manual_seed(0)
    model, objective = build_transducer(config), Objective(ObjectiveConfig(), config, None)
    changes = {"stages": stages, "train_batches": source, "model": model, "objective": objective}
    with suppress(TrainingInterrupted):
        fit(tiny_system(exp_dir, **changes), until_stage=until)


def test_two_processes_train_skip_and_resume_together(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run_two(train_rank, whole, None, -1) == [0, 0]
    assert run_two(train_rank, parts, "a", -1) == [0, 0]
    assert run_two(train_rank, parts, None, 14) == [0, 0]
    assert load_checkpoint(parts / "checkpoints" / "last.pt")["train_steps"] == 4
    assert run_two(train_rank, parts, None, -1) == [0, 0]
    one, other = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (whole, parts))
    assert one["train_steps"] == other["train_steps"] == 6
    # The bad batch of one process cost both of them a batch.
    positions = [process["batches"]["position"] for process in one["trainer"]["processes"]]
    assert positions == [7, 17]
    heard = [
        [int(process["buffers"]["encoder.trained_frames"]) for process in checkpoint["trainer"]["processes"]]
        for checkpoint in (one, other)
    ]
    assert heard[0] == heard[1] and heard[0][0] != heard[0][1]
    for name, value in one["model"].items():
        assert torch.equal(value, other["model"][name]), name


class Shared(RandomBatches):
    """Batch n of a process is number 2 n + rank of all; a state of another number of processes will do."""

    def __init__(self, rank: int, processes: int) -> None:
        super().__init__()
        self.rank, self.processes = rank, processes

    def __next__(self) -> Batch:
        self.position += 1
        return random_batch((self.position - 1) * self.processes + self.rank)

    def state_dict(self) -> dict[str, int]:
        return {"done": self.position * self.processes}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["done"] // self.processes


def two_stages(exp_dir: Path, rank: int, world_size: int) -> System:
    """Two batches per step in all; what `kdasr.experiment.run` does with `accumulate`."""
    stages = [StageConfig(name=name, num_steps=3, loss_weights={"rnnt": 1.0}) for name in ("a", "b")]
    accumulate = batches_per_process(exp_dir, 2 // world_size, world_size)
    config = trainer_config(accumulate=accumulate)
    return tiny_system(exp_dir, stages=stages, config=config, train_batches=Shared(rank, world_size))


def share_rank(rank: int, port: int, exp_dir: Path, until: str | None) -> None:
    under_torchrun(rank, port)
    fit(two_stages(exp_dir, rank, 2), until_stage=until)


def test_one_process_goes_on_where_two_were_and_two_where_one_was(tmp_path: Path) -> None:
    alone, joined, parted = tmp_path / "alone", tmp_path / "joined", tmp_path / "parted"
    fit(two_stages(alone, 0, 1))
    assert run_two(share_rank, joined, "a") == [0, 0]
    fit(two_stages(joined, 0, 1))
    fit(two_stages(parted, 0, 1), until_stage="a")
    assert run_two(share_rank, parted, None) == [0, 0]
    expected = load_checkpoint(alone / "checkpoints" / "last.pt")
    for other in (joined, parted):
        found = load_checkpoint(other / "checkpoints" / "last.pt")
        assert found["trainer"]["progress"]["batches_per_step"] == 2 and found["train_steps"] == 6
        for name, value in expected["model"].items():
            torch.testing.assert_close(found["model"][name], value, rtol=1e-3, atol=1e-5, msg=name)
