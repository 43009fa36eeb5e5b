"""What ends a training from outside is one line, and the same command goes on to the same bits."""

import os
import signal
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.utils import fastcopy
from tiny_system import RandomBatches, fit, random_batch, tiny_system, trainer_config, two_stage_system

from kdasr.checkpoint import load_checkpoint
from kdasr.common.errors import UserError
from kdasr.data.batch import Batch
from kdasr.data.batch_maker import BatchMaker
from kdasr.data.data_config import DataConfig, JoinConfig
from kdasr.data.loader import TrainLoader, valid_batches
from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import dummy_cuts
from kdasr.training.step_errors import StepError, naming_batches, pieces_of
from kdasr.training.update import Updater

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("at", [1, 5])
def test_out_of_memory_names_the_batch_and_the_resume_is_exact(
    tmp_path: Path, error: Exception, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(two_stage_system(whole))
    gradients, calls = Updater.gradients, [0]

    def failing(self: Updater, batches: Any, *rest: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            torch.randn(3)  # some dropout has been drawn when memory runs out
            raise error
        return gradients(self, batches, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "gradients", failing)
        with pytest.raises(UserError) as caught:
            fit(two_stage_system(parts))
    message = str(caught.value)
    assert message.startswith(
        f"step {at}: out of memory in a batch of 6 utterances, the longest of 0.6 s and 6 "
    )
    assert "utt-" in message and "training.split_batches, now 1" in message and "\n" not in message
    assert ("last.pt is saved: the same command goes on" in message) == (at > 1)
    assert at == 1 or load_checkpoint(parts / "checkpoints" / "last.pt")["train_steps"] == at - 1
    if at > 1:
        fit(two_stage_system(parts))
        one, other = (load_checkpoint(path / "checkpoints" / "last.pt")["model"] for path in (whole, parts))
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_other_errors_are_seen_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), naming_batches([], trainer_config(), "step 1"):
        raise RuntimeError("shape mismatch")


def test_a_batch_in_pieces_is_the_same_step(tmp_path: Path) -> None:
    ended = []
    for count in (1, 2, 9):
        system = tiny_system(tmp_path / str(count), config=trainer_config(split_batches=count))
        fit(system)
        ended.append(system.model.state_dict())
    for other in ended[1:]:
        for name, value in ended[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-5, msg=name)
    batch = random_batch(1)
    parts = pieces_of(batch, 2)
    assert [name for part in parts for name in part.ids] == batch.ids and len(parts) == 2
    assert sum(part.audio_seconds for part in parts) == pytest.approx(batch.audio_seconds)
    assert parts[1].features_BTF.shape[1] == max(parts[1].feature_lens_B)


def test_bad_batches_are_named_in_pieces_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(
        "kdasr.training.bad_batches.logger.warning", lambda text, *values: messages.append(text % values)
    )
    config = trainer_config(split_batches=3)
    fit(tiny_system(tmp_path, config=config, train_batches=RandomBatches(bad=(2,))))
    assert len(messages) == 1 and messages[0].endswith("batch skipped: utt-2-1")


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    return dummy_cuts(20)


def loader(cuts: CutSet, tokenizer: Tokenizer, num_workers: int) -> TrainLoader:
    return TrainLoader(cuts, tokenizer, DataConfig(max_duration=8.0, num_workers=num_workers), seed=1)


def test_a_killed_loader_worker_is_named(
    cuts: CutSet, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BatchMaker, "__getitem__", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with (
        pytest.raises(StepError, match=r"^step 1: a data loader worker was killed.*data\.num_workers$"),
        naming_batches([], trainer_config(), "step 1"),
    ):
        next(loader(cuts, tokenizer, 1))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_goes_wrong_in_a_worker_is_one_line(
    cuts: CutSet, tokenizer: Tokenizer, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(BatchMaker, "__getitem__", out_of_memory)
        with pytest.raises(UserError, match=r"^out of memory while a batch of .* \(cut-.*data\.num_workers$"):
            next(loader(cuts, tokenizer, num_workers))
    gone = CutSet.from_cuts(cut.drop_features() for cut in cuts)
    for cut in gone:
        cut.recording.sources[0].type, cut.recording.sources[0].source = "file", f"/gone/{cut.id}.wav"
    for batches in (loader(gone, tokenizer, num_workers), valid_batches(gone, tokenizer, DataConfig())):
        with pytest.raises(
            UserError, match=r"cannot be read, more than data\.max_bad 1%.*/gone/cut-\d+\.wav \(audio of"
        ):
            next(iter(batches))


def test_stored_features_that_cannot_be_read_are_named(cuts: CutSet, tokenizer: Tokenizer) -> None:
    spoilt = list(dummy_cuts(3))
    for cut in spoilt:
        cut.features.storage_key = b"not an array"
    with pytest.raises(UserError, match=r"of 3 utterances cannot be read, more than data\.max_bad 1%"):
        next(iter(valid_batches(CutSet.from_cuts(spoilt), tokenizer, DataConfig())))
    assert np.isfinite(next(iter(valid_batches(cuts, tokenizer, DataConfig()))).features_BTF).all()


def test_a_fault_that_passes_costs_nothing(
    cuts: CutSet, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, make = next(loader(cuts, tokenizer, 0)), BatchMaker.__getitem__
    faults = [OSError("the network is down")]

    def fails_once(self: BatchMaker, plan: Any) -> Any:
        if faults:
            raise faults.pop()
        return make(self, plan)

    monkeypatch.setattr(BatchMaker, "__getitem__", fails_once)
    found = next(loader(cuts, tokenizer, 0))
    assert found.ids == expected.ids and torch.equal(found.features_BTF, expected.features_BTF)


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_audio_that_cannot_be_read_costs_its_utterance(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture, num_workers: int, joined: bool
) -> None:
    whole = list(dummy_cuts(12))
    spoilt = [
        fastcopy(cut, features=replace(cut.features, storage_key=b"no array")) if number == 5 else cut
        for number, cut in enumerate(whole)
    ]
    config = DataConfig(
        max_duration=6.0,
        max_bad="1",
        num_workers=num_workers,
        join=JoinConfig(enabled=joined, max_utterances=2),
    )

    def first_epoch(cuts: list[MonoCut], state: dict[str, Any] | None = None) -> list[Batch]:
        batches = TrainLoader(CutSet.from_cuts(cuts), tokenizer, config, seed=1)
        if state is not None:
            batches.load_state_dict(state)
        return list(takewhile(lambda _: batches.epoch == 0, batches))

    names = {name for batch in first_epoch(spoilt) for name in batch.ids for name in name.split("+")}
    assert {cut.id for cut in whole} - names == {"cut-0005"}
    assert caplog.text.count("1 of 12 utterances cannot be read: cut-0005") <= 1
    assert "left out, 1 of 12 utterances cannot be read" in caplog.text
    # What is resumed is what came uninterrupted; the batches without it are those of the sound data.
    batches = TrainLoader(CutSet.from_cuts(spoilt), tokenizer, config, seed=1)
    next(batches), next(batches)
    rest, again = first_epoch(spoilt)[2:], first_epoch(spoilt, batches.state_dict())
    for one, other in zip(rest, again, strict=True):
        assert one.ids == other.ids and torch.equal(one.features_BTF, other.features_BTF)
    sound = {tuple(batch.ids): batch for batch in first_epoch(whole)}
    assert all(
        torch.equal(batch.features_BTF, sound[tuple(batch.ids)].features_BTF)
        for batch in rest
        if tuple(batch.ids) in sound
    )
