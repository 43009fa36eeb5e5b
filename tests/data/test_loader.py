"""The loader: every cut once per epoch, exact resume, and batches that depend on nothing else."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from lhotse import CutSet, Recording

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import KALDI, NEMO
from kdasr.data.batch import Batch
from kdasr.data.data_config import DataConfig, JoinConfig, NoiseConfig, SpecAugmentConfig
from kdasr.data.loader import TrainLoader, valid_batches
from kdasr.data.reported import Made
from kdasr.data.tokenizer import Tokenizer
from kdasr.testing import dummy_cuts, tone

PLAIN = SpecAugmentConfig(enabled=False)


def config(**changes: object) -> DataConfig:
    """Batches of about eight seconds from three buckets."""
    return DataConfig(max_duration=8.0, num_buckets=3, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    """Thirty cuts of one to three seconds, with features."""
    return dummy_cuts(30)


def same(one: Batch, two: Batch) -> bool:
    """Whether two batches are equal bit for bit."""
    return (
        one.ids == two.ids
        and one.texts == two.texts
        and torch.equal(one.features_BTF, two.features_BTF)
        and torch.equal(one.feature_lens_B, two.feature_lens_B)
        and torch.equal(one.tokens_BS, two.tokens_BS)
        and torch.equal(one.token_lens_B, two.token_lens_B)
    )


def epoch_of(loader: TrainLoader, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch of a fresh loader."""
    for batch in loader:
        if loader.epoch > epoch:
            return
        if loader.epoch == epoch:
            yield batch


def test_a_batch_holds_the_features_and_pieces_of_its_cuts(cuts: CutSet, tokenizer: Tokenizer) -> None:
    by_id = {cut.id: cut for cut in cuts}
    for batch in epoch_of(TrainLoader(cuts, tokenizer, config(spec_augment=PLAIN), seed=0), 0):
        assert batch.features_BTF.dtype == torch.float32
        assert batch.feature_lens_B.dtype == batch.token_lens_B.dtype == batch.tokens_BS.dtype == torch.int64
        assert batch.features_BTF.shape[1] == int(batch.feature_lens_B.max())
        assert batch.audio_seconds == pytest.approx(sum(by_id[name].duration for name in batch.ids))
        for row, name in enumerate(batch.ids):
            frames = batch.features_BTF[row, : int(batch.feature_lens_B[row])]
            np.testing.assert_array_equal(frames, by_id[name].load_features())
            assert batch.texts[row] == by_id[name].supervisions[0].text
            pieces = batch.tokens_BS[row, : int(batch.token_lens_B[row])].tolist()
            assert pieces == tokenizer.encode(batch.texts[row])
            assert not batch.tokens_BS[row, len(pieces) :].any()


def test_each_epoch_has_every_cut_once_in_another_order(cuts: CutSet, tokenizer: Tokenizer) -> None:
    loader = TrainLoader(cuts, tokenizer, config(), seed=0)
    orders: dict[int, list[str]] = {0: [], 1: [], 2: []}
    while True:
        batch = next(loader)
        if loader.epoch == 3:
            break
        orders[loader.epoch] += batch.ids
    assert all(sorted(order) == sorted(cut.id for cut in cuts) for order in orders.values())
    assert orders[0] != orders[1] != orders[2]


def test_batches_keep_to_the_duration_and_pad_little(cuts: CutSet, tokenizer: Tokenizer) -> None:
    batches = list(epoch_of(TrainLoader(cuts, tokenizer, config(), seed=0), 0))
    padded = sum(batch.features_BTF.shape[0] * batch.features_BTF.shape[1] for batch in batches)
    valid = sum(int(batch.feature_lens_B.sum()) for batch in batches)
    # Lhotse stops before one more cut of the longest length would be too much: the last adds up to 3 s.
    assert all(batch.features_BTF.shape[0] * batch.features_BTF.shape[1] < 1100 for batch in batches)
    assert valid > 0.8 * padded
    assert all(batch.feature_lens_B.diff().le(0).all() for batch in batches)


@pytest.mark.parametrize("joined", [False, True])
def test_every_tenth_of_an_epoch_holds_its_share_of_each_part(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, joined: bool
) -> None:
    monkeypatch.setattr("kdasr.data.epoch_plan.POOL", 60)  # as of a corpus of many pools
    base = list(dummy_cuts(30))
    cuts = CutSet.from_cuts(base[number % 30].with_id(f"cut-{number}") for number in range(1500))
    part_of = {f"cut-{number}": number // 500 for number in range(1500)}
    join = JoinConfig(enabled=joined, max_utterances=2)
    plans = TrainLoader(cuts, tokenizer, config(join=join), seed=0).plans()
    epochs: list[list[int]] = [[], []]
    for plan in plans:
        if plan.epoch == 2:
            break
        for cut in plan.cuts:
            epochs[plan.epoch] += [part_of[one] for one in cut.id.split("+") if one in part_of]
    for parts in epochs:
        assert len(parts) == 1500
        for tenth in np.array_split(parts, 10):
            assert all(abs(np.mean(tenth == part) - 1 / 3) < 0.15 for part in range(3))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("num_buckets", [1, 2, 30, 100])
def test_any_number_of_buckets_serves_every_cut(cuts: CutSet, tokenizer: Tokenizer, num_buckets: int) -> None:
    settings = DataConfig(max_duration=8.0, num_buckets=num_buckets)
    batches = epoch_of(TrainLoader(cuts, tokenizer, settings, seed=0), 0)
    assert sum(len(batch) for batch in batches) == len(cuts)


def test_resume_is_exact_from_every_batch_of_three_epochs(cuts: CutSet, tokenizer: Tokenizer) -> None:
    loader = TrainLoader(cuts, tokenizer, config(), seed=7)
    states, batches = [json.dumps(loader.state_dict())], []
    while loader.epoch < 2:
        batches.append(next(loader))
        states.append(json.dumps(loader.state_dict()))
    resumed = TrainLoader(cuts, tokenizer, config(), seed=7)
    for step in range(len(batches) - 1):
        resumed.load_state_dict(json.loads(states[step]))
        assert same(next(resumed), batches[step])
        assert json.dumps(resumed.state_dict()) == states[step + 1]
        assert same(next(resumed), batches[step + 1])


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_do_not_change_the_batches(cuts: CutSet, tokenizer: Tokenizer, num_workers: int) -> None:
    alone = TrainLoader(cuts, tokenizer, config(), seed=3)
    helped = TrainLoader(cuts, tokenizer, config(num_workers=num_workers), seed=3)
    for _ in range(12):
        assert same(next(alone), next(helped))
        assert alone.state_dict() == helped.state_dict()
    # Workers have read ahead; the state says what was handed out.
    helped.load_state_dict(helped.state_dict())
    assert same(next(alone), next(helped))
    assert alone.epoch > 0


def test_loading_draws_nothing_from_the_global_random_state(cuts: CutSet, tokenizer: Tokenizer) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    loader = TrainLoader(cuts, tokenizer, config(), seed=3)
    first = [next(loader) for _ in range(3)]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    again = TrainLoader(cuts, tokenizer, config(), seed=3)
    assert all(same(batch, next(again)) for batch in first)


def test_seed_decides_order_and_masks(cuts: CutSet, tokenizer: Tokenizer) -> None:
    orders = [
        [batch.ids for batch in epoch_of(TrainLoader(cuts, tokenizer, config(), seed=seed), 0)]
        for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_masks_differ_from_epoch_to_epoch(tokenizer: Tokenizer) -> None:
    one = dummy_cuts(1, min_seconds=3.0)
    loader = TrainLoader(one, tokenizer, config(), seed=1)
    first, second = next(loader), next(loader)
    assert loader.epoch == 1
    assert first.ids == second.ids
    assert not torch.equal(first.features_BTF, second.features_BTF)


def test_a_second_copy_differs_from_the_first_in_its_masks_alone(tokenizer: Tokenizer) -> None:
    one = dummy_cuts(1, min_seconds=3.0)
    masked = next(TrainLoader(one, tokenizer, config(), seed=1, teacher_features="remasked"))
    plain = next(TrainLoader(one, tokenizer, config(), seed=1, teacher_features="unmasked"))
    first, second, whole = masked.features_BTF, masked.teacher_features_BTF, plain.teacher_features_BTF
    assert second is not None and whole is not None
    assert torch.equal(first, plain.features_BTF), "the first copy is what it would be alone"
    changed = [(copy != whole) for copy in (first, second)]
    assert all(0.02 < float(mask.float().mean()) < 0.9 for mask in changed)
    assert not torch.equal(*changed)
    # Where neither is masked they are the same, and each mask is of whole frames or whole bins.
    assert torch.equal(first[~changed[0] & ~changed[1]], second[~changed[0] & ~changed[1]])


@pytest.mark.parametrize("count", [30, 7])
def test_ranks_share_the_epoch_in_step(cuts: CutSet, tokenizer: Tokenizer, count: int) -> None:
    cuts = CutSet.from_cuts([*list(cuts)[1:count], next(iter(cuts)).with_id("a_dup0")])
    loaders = [TrainLoader(cuts, tokenizer, config(), seed=4, rank=rank, world_size=2) for rank in range(2)]
    seen: Counter[str] = Counter()
    while True:
        batches = [next(loader) for loader in loaders]
        assert loaders[0].state_dict() == loaders[1].state_dict()
        if loaders[0].epoch == 1:
            break
        together = set(batches[0].ids) & set(batches[1].ids)
        assert not together or len(batches[0]) == len(batches[1]) == 1
        seen.update(name for batch in batches for name in batch.ids)
    assert {cut.id for cut in cuts} == set(seen)
    # A last odd batch is shared out, and a single cut of it may then serve both.
    assert sum(seen.values()) <= len(cuts) + 1


def test_a_state_of_other_data_or_settings_is_refused(cuts: CutSet, tokenizer: Tokenizer) -> None:
    state = TrainLoader(cuts, tokenizer, config(), seed=4).state_dict()
    fewer = CutSet.from_cuts(list(cuts)[:20])
    for loader, key in (
        (TrainLoader(cuts, tokenizer, config(), seed=5), "seed"),
        (TrainLoader(fewer, tokenizer, config(), seed=4), "num_cuts"),
        (TrainLoader(cuts, tokenizer, DataConfig(max_duration=9.0), seed=4), "max_duration"),
    ):
        with pytest.raises(UserError, match=f"cannot resume the data stream: {key}"):
            loader.load_state_dict(state)


def test_features_on_the_fly_equal_the_stored_ones(cuts: CutSet, tokenizer: Tokenizer) -> None:
    stored = TrainLoader(cuts, tokenizer, config(), seed=2)
    computed = TrainLoader(cuts, tokenizer, config(on_the_fly=True), seed=2)
    for _ in range(5):
        one, two = next(stored), next(computed)
        assert one.ids == two.ids
        assert torch.equal(one.feature_lens_B, two.feature_lens_B)
        assert torch.allclose(one.features_BTF, two.features_BTF, atol=1e-3)


def test_without_stored_features_they_are_computed(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    bare = dummy_cuts(4, with_features=False)
    with caplog.at_level(logging.INFO, logger="kdasr"):
        batch = next(TrainLoader(bare, tokenizer, config(), seed=2))
    assert batch.features_BTF.shape[2] == 80
    assert "no stored features" in caplog.text
    assert sum(len(batch) for batch in valid_batches(bare, tokenizer, config())) == 4


@pytest.mark.parametrize(("on_the_fly", "teacher_kind"), [(True, KALDI), (False, NEMO), (False, KALDI)])
def test_audio_that_is_damaged_later_costs_its_utterance_where_it_is_heard(
    tokenizer: Tokenizer, tmp_path: Path, on_the_fly: bool, teacher_kind: str
) -> None:
    """Also where the features of the utterance are stored: for another teacher, or when they are not used."""
    cuts = list(dummy_cuts(6))
    for cut in cuts:
        path = tmp_path / f"{cut.id}.wav"
        soundfile.write(path, cut.load_audio()[0], 16000)
        cut.recording = Recording.from_file(path, recording_id=cut.id)
    (tmp_path / f"{cuts[2].id}.wav").write_bytes(b"RIFF, and no more")
    options = config(on_the_fly=on_the_fly, max_bad="1")
    loader = TrainLoader(CutSet.from_cuts(cuts), tokenizer, options, seed=0, teacher_kind=teacher_kind)
    heard = {name for batch in epoch_of(loader, 0) for name in batch.ids}
    is_heard = on_the_fly or teacher_kind == NEMO
    assert heard == {cut.id for cut in cuts} - ({cuts[2].id} if is_heard else set())


def test_training_ends_where_nothing_can_be_read(tokenizer: Tokenizer) -> None:
    """However many may be bad: the loader would look for a batch for ever."""
    gone = dummy_cuts(3, with_features=False)
    for cut in gone:
        cut.recording.sources[0].type, cut.recording.sources[0].source = "file", "/gone/away.wav"
    with pytest.raises(UserError, match="3 of 3 utterances cannot be read, so nothing is left"):
        next(TrainLoader(gone, tokenizer, config(max_bad="100%"), seed=0))


def test_only_the_wanted_speeds_are_trained_on(tokenizer: Tokenizer) -> None:
    plain = list(dummy_cuts(4, with_features=False))
    slow = [cut.perturb_speed(0.9).with_custom("speed", 0.9) for cut in plain]
    both = CutSet.from_cuts([*plain, *slow])
    for speeds, count in (([1.0], 4), ([0.9, 1.0, 1.1], 8)):
        loader = TrainLoader(both, tokenizer, config(speed_perturbation=speeds), seed=0)
        assert sum(len(batch) for batch in epoch_of(loader, 0)) == count
    with pytest.raises(UserError, match=r"speed_perturbation.*1\.3.*\[0\.9, 1\.0\]"):
        TrainLoader(both, tokenizer, config(speed_perturbation=[1.3]), seed=0)


def test_noise_needs_audio_and_resumes_exactly(cuts: CutSet, tokenizer: Tokenizer, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "noise.wav", tone(4.0, seed=9), 16000)
    noise = NoiseConfig(musan_dir=str(tmp_path), probability=1.0)
    with pytest.raises(UserError, match=r"data\.on_the_fly"):
        TrainLoader(cuts, tokenizer, config(noise=noise), seed=1)
    changed = config(noise=noise, on_the_fly=True, spec_augment=PLAIN)
    loader = TrainLoader(cuts, tokenizer, changed, seed=1)
    clean = TrainLoader(cuts, tokenizer, config(on_the_fly=True, spec_augment=PLAIN), seed=1)
    next(loader), next(clean)
    state = loader.state_dict()
    batch = next(loader)
    equal = [torch.equal(*rows) for rows in zip(batch.features_BTF, next(clean).features_BTF, strict=True)]
    assert not any(equal)
    again = TrainLoader(cuts, tokenizer, changed, seed=1)
    again.load_state_dict(state)
    assert same(next(again), batch)


def test_pinned_batches_hold_the_same(
    cuts: CutSet, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a data loader makes them for a GPU, which this machine may lack: all but the lengths is moved."""
    moved: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: moved.append(self.clone()) or moved[-1])
    made = Made((0, 1, next(TrainLoader(cuts, tokenizer, config(join=JoinConfig(enabled=True)), seed=1))))
    _, number, pinned = made.pin_memory().item
    assert number == 1 and same(pinned, made.item[2])
    assert len(moved) == 3 and pinned.features_BTF is moved[0]  # features, pieces, history
    assert pinned.feature_lens_B is made.item[2].feature_lens_B
    assert Made(None).pin_memory().item is None


def test_nothing_usable_is_an_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no usable training utterances"):
        TrainLoader(dummy_cuts(2, with_features=False), tokenizer, config(min_seconds=10.0), seed=0)


def test_validation_is_fixed_complete_and_unmasked(cuts: CutSet, tokenizer: Tokenizer) -> None:
    by_id = {cut.id: cut for cut in cuts}
    # The limits of training utterances are none for those that choose the checkpoint.
    batches = valid_batches(cuts, tokenizer, config(min_seconds=1.5, max_seconds=2.0))
    first, second = list(batches), list(batches)
    assert len(first) == len(batches)
    assert all(same(one, two) for one, two in zip(first, second, strict=True))
    assert sorted(name for batch in first for name in batch.ids) == sorted(by_id)
    for batch in first:
        assert batch.features_BTF.shape[0] * batch.features_BTF.shape[1] <= 801
        for row, name in enumerate(batch.ids):
            frames = batch.features_BTF[row, : int(batch.feature_lens_B[row])]
            np.testing.assert_array_equal(frames, by_id[name].load_features())
