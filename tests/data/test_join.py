"""Joined utterances: nothing is lost, an utterance is the same alone and among others, pauses are empty."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from lhotse import CutSet
from lhotse.cut import MonoCut, PaddingCut
from lhotse.supervision import AlignmentItem

from kdasr.common.errors import UserError
from kdasr.common.feature_frames import KALDI, NEMO
from kdasr.common.special_pieces import NO_PIECE
from kdasr.data.batch import Batch
from kdasr.data.batch_maker import HISTORY
from kdasr.data.data_config import DataConfig, GainConfig, JoinConfig, SpecAugmentConfig
from kdasr.data.features import LOWEST_LOG_ENERGY, compute_features
from kdasr.data.join import JoinedCuts, segments_of
from kdasr.data.loader import TrainLoader
from kdasr.data.pauses import Pause, background_frames, noise_under, pause_features, with_gain
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.word_times import times_of_pieces
from kdasr.models.predictors.stateless import StatelessPredictor
from kdasr.testing import dummy_cuts

JOIN = JoinConfig(enabled=True, max_utterances=3, max_seconds=9.0, empty=0.2, bed=0.0, jitter=0.4)
PLAIN = SpecAugmentConfig(enabled=False)


@pytest.fixture(scope="module")
def cuts() -> CutSet:
    """Forty cuts of one to three seconds, of five speakers, with features and word times."""
    cuts = dummy_cuts(40)
    for number, cut in enumerate(cuts):
        (spoken,) = cut.supervisions
        spoken.speaker = f"speaker {number % 5}"
        words = spoken.text.split()
        length = cut.duration / (len(words) + 1)
        items = [AlignmentItem(word, length * (k + 0.5), length) for k, word in enumerate(words)]
        cut.supervisions = [spoken.with_alignment("word", items)]
    return cuts


def loader(
    cuts: CutSet, tokenizer: Tokenizer, seed: int = 0, teacher_kind: str = KALDI, **changes: object
) -> TrainLoader:
    """Batches of about 20 seconds of joined utterances."""
    config = DataConfig(max_duration=20.0, num_buckets=2, spec_augment=PLAIN, join=JOIN)
    return TrainLoader(
        cuts,
        tokenizer,
        replace(config, **changes),  # type: ignore[arg-type]
        seed=seed,
        word_times=True,
        teacher_kind=teacher_kind,
    )


def first_epoch(batches: TrainLoader) -> list[Batch]:
    """All batches of the first epoch."""
    found = []
    for batch in batches:
        if batches.epoch:
            return found
        found.append(batch)
    return found


def spoken(name: str) -> list[str]:
    """The utterances in a joined one, by its name."""
    return [] if name.startswith("empty") else name.split("+")


def test_every_cut_is_in_one_joined_utterance(cuts: CutSet, tokenizer: Tokenizer) -> None:
    batches = first_epoch(loader(cuts, tokenizer))
    used = Counter(name for batch in batches for joined in batch.ids for name in spoken(joined))
    assert used == Counter(cut.id for cut in cuts)
    assert max(len(spoken(joined)) for batch in batches for joined in batch.ids) == JOIN.max_utterances
    longest = max(float(batch.feature_lens_B.max()) for batch in batches)
    for batch in batches:  # as without joining: what is beyond the limit is less than an utterance
        assert (len(batch) - 1) * batch.features_BTF.shape[1] <= 2000 + longest


def test_an_utterance_is_the_same_alone_and_joined(cuts: CutSet, tokenizer: Tokenizer) -> None:
    by_id = {cut.id: cut for cut in cuts}
    num_joined = 0
    for batch in first_epoch(loader(cuts, tokenizer)):
        assert batch.word_times_BS2 is not None
        for row, name in enumerate(batch.ids):
            features_TF = batch.features_BTF[row, : int(batch.feature_lens_B[row])]
            pieces, times = [], []
            for cut in (by_id[part] for part in spoken(name)):
                own_TF = torch.from_numpy(cut.load_features()).float()
                begin = find(own_TF, features_TF)
                own = tokenizer.encode(cut.supervisions[0].text)
                pieces += own
                times += [
                    (start + 0.01 * begin, end + 0.01 * begin)
                    for start, end in times_of_pieces(cut, own, tokenizer)
                ]
            num_joined += len(spoken(name)) > 1
            assert batch.tokens_BS[row, : int(batch.token_lens_B[row])].tolist() == pieces
            assert batch.texts[row] == " ".join(by_id[part].supervisions[0].text for part in spoken(name))
            found = batch.word_times_BS2[row, : len(pieces)]
            torch.testing.assert_close(found, torch.tensor(times).view(-1, 2))
    assert num_joined > 5


@pytest.mark.parametrize("gain", [GainConfig(), GainConfig(probability=1.0, gain_db=[-9.0, -3.0])], ids=str)
def test_a_teacher_hears_the_same_audio_in_its_own_features(
    cuts: CutSet, tokenizer: Tokenizer, gain: GainConfig
) -> None:
    by_id = {cut.id: cut for cut in cuts}
    join = replace(JOIN, bed=0.5, own_bed=0.5)
    masked = {"join": join, "spec_augment": SpecAugmentConfig(enabled=True), "gain": gain}
    plain = first_epoch(loader(cuts, tokenizer))
    both = [first_epoch(loader(cuts, tokenizer, teacher_kind=kind, **masked)) for kind in (KALDI, NEMO)]
    num_joined = num_pauses = 0
    for clean, without, batch in zip(plain, *both, strict=True):
        assert torch.equal(batch.features_BTF, without.features_BTF), "the student's are what they were"
        heard = batch.for_teacher()
        assert (batch.kind, heard.kind) == (KALDI, NEMO) and heard.features_BTF.isfinite().all()
        assert heard.features_BTF.shape == batch.features_BTF.shape
        for row, name in enumerate(batch.ids):
            heard_TF = heard.features_BTF[row, : int(batch.feature_lens_B[row])]
            spoken_T = torch.zeros(len(heard_TF), dtype=torch.bool)
            for cut in (by_id[part] for part in spoken(name)):
                stored_TF = torch.from_numpy(cut.load_features()).float()
                begin = find(stored_TF, clean.features_BTF[row])
                own_TF = compute_features(torch.from_numpy(cut.load_audio()), NEMO)
                louder_TF = heard_TF[begin : begin + len(own_TF)] - own_TF
                audible_TF = own_TF > -12.0
                level = float(louder_TF[audible_TF].mean())
                assert -9.1 / 4.34 < level < -2.9 / 4.34 or (gain.probability == 0 and level == 0)
                assert (louder_TF[audible_TF] - level).abs().max() < 1e-3
                spoken_T[begin : begin + len(stored_TF)] = True
            num_joined += len(spoken(name)) > 1
            pause_KF = heard_TF[~spoken_T]
            num_pauses += len(pause_KF) > 0
            assert (pause_KF >= math.log(2**-24) - 1e-3).all()
    assert num_joined > 5 and num_pauses > 5


def find(part_KF: torch.Tensor, whole_TF: torch.Tensor) -> int:
    """Where a stretch of frames lies in others."""
    for start in range(len(whole_TF) - len(part_KF) + 1):
        if torch.equal(whole_TF[start], part_KF[0]) and torch.equal(
            whole_TF[start : start + len(part_KF)], part_KF
        ):
            return start
    raise AssertionError("not found")


def test_joining_depends_on_seed_and_epoch_alone(cuts: CutSet) -> None:
    def names(*seed: int) -> list[str]:
        return [cut.id for cut in JoinedCuts(list(cuts), JOIN, seed)]

    assert names(1, 0) == names(1, 0)
    assert len({tuple(names(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_pauses_and_lengths_keep_to_their_limits(cuts: CutSet) -> None:
    config = replace(JOIN, pause=[0.2, 1.0], lead=[0.1, 0.5], trail=[0.3, 0.6])
    joined = list(JoinedCuts(list(cuts), config, (0,)))
    empty = [cut for cut in joined if cut.id.startswith("empty")]
    assert empty and not any(cut.supervisions for cut in empty)
    limits = {"lead": config.lead, "trail": config.trail, "pause": [1.0, 5.0], "1": config.pause}
    limits |= {"2": config.pause, "jitter": [0.0, config.jitter]}
    seen = set()
    for cut in joined:
        for segment in segments_of(cut):
            if isinstance(segment, PaddingCut):
                kind = segment.id.rsplit("-", 1)[1]
                seen.add(kind)
                assert limits[kind][0] - 1e-6 <= segment.duration <= limits[kind][1] + 1e-6
        utterances = [part for part in segments_of(cut) if isinstance(part, MonoCut)]
        assert len(utterances) == 1 or sum(part.duration for part in utterances) <= config.max_seconds
    assert seen == set(limits)


@pytest.mark.parametrize("jitter", [0.0, 0.4])
def test_first_words_stand_anywhere_in_a_chunk(cuts: CutSet, jitter: float) -> None:
    config = replace(JOIN, jitter=jitter, lead=[0.0, 0.0], empty=0.0)
    joined = [cut for epoch in range(20) for cut in JoinedCuts(cuts, config, (0, epoch))]
    leads = [0.0 if isinstance(first, MonoCut) else first.duration for first, *_ in map(segments_of, joined)]
    if jitter == 0.0:
        assert max(leads) == 0.0
        return
    # Half of all have the lead, which is of no length here; the others any place of the first 0.4 s.
    drawn = [lead for lead in leads if lead > 0.0]
    assert max(drawn) <= 0.4 and 0.3 < len(drawn) / len(leads) < 0.6
    counts = np.histogram(drawn, bins=4, range=(0.0, 0.4))[0]
    assert counts.min() > 0.6 * len(drawn) / 4


def test_the_next_utterance_is_of_the_same_speaker_if_asked(cuts: CutSet) -> None:
    for share, most in ((1.0, 1), (0.0, 3)):
        config = replace(JOIN, same_speaker=share)
        joined = list(JoinedCuts(list(cuts), config, (0,)))
        # Towards the end some speakers have nothing left to say.
        speakers = [{item.speaker for item in cut.supervisions} for cut in joined[:10]]
        assert max(len(group) for group in speakers) == most


def test_a_predictor_goes_on_after_a_history(tokenizer: Tokenizer, cuts: CutSet) -> None:
    predictor = StatelessPredictor(vocab_size=24, dim=8, context_size=3).eval()
    before, after = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[3, 4]])
    whole = predictor(torch.cat([before, after], dim=1))
    torch.testing.assert_close(predictor(after, before), whole[:, before.shape[1] :])
    short = predictor(after, torch.tensor([[NO_PIECE, 0]]))
    torch.testing.assert_close(short, predictor(after))

    starts = 0
    for batch in first_epoch(loader(cuts, tokenizer, join=replace(JOIN, history=0.8))):
        assert batch.history_BH is not None and batch.history_BH.shape[1] == HISTORY
        rows = [
            row[: int(length)].tolist()
            for row, length in zip(batch.tokens_BS, batch.token_lens_B, strict=True)
        ]
        start = [NO_PIECE] * (HISTORY - 1) + [0]
        for place, history in enumerate(batch.history_BH.tolist()):
            starts += history != start
            others = [[], *rows[:place], *rows[place + 1 :]]
            assert history in [[*start, *row][-HISTORY:] for row in others]
    assert starts > 3


def test_an_utterance_that_is_alone_in_its_batch_has_no_history(tokenizer: Tokenizer, cuts: CutSet) -> None:
    join = replace(JOIN, history=1.0)
    for batch in first_epoch(loader(cuts, tokenizer, max_duration=1.0, join=join)):
        assert len(batch) == 1 and batch.history_BH is not None
        assert batch.history_BH.tolist() == [[NO_PIECE] * (HISTORY - 1) + [0]]


def test_a_gain_on_features_is_one_on_samples() -> None:
    samples = torch.from_numpy(np.random.default_rng(0).standard_normal(8000).astype(np.float32) * 0.05)
    for gain_db in (-90.0, -20.0, 6.0):
        louder = compute_features(samples * 10 ** (gain_db / 20))
        torch.testing.assert_close(with_gain(compute_features(samples), gain_db), louder, atol=2e-2, rtol=0)


def test_gain_changes_a_share_of_the_utterances(cuts: CutSet, tokenizer: Tokenizer) -> None:
    gain = GainConfig(probability=0.5, gain_db=[-6.0, -3.0])
    by_id = {cut.id: cut for cut in cuts}
    changes = []
    for batch in first_epoch(loader(cuts, tokenizer, join=JoinConfig(), gain=gain)):
        for name, features_TF in zip(batch.ids, batch.features_BTF, strict=True):
            own_TF = by_id[name].load_features()
            change = np.median(features_TF[: len(own_TF)].numpy() - own_TF)
            changes.append(change * 10 / math.log(10))
    changed = [change for change in changes if abs(change) > 1e-3]
    assert 10 <= len(changed) <= 30
    assert all(-6.1 <= change <= -2.9 for change in changed)


def test_pauses_sound_as_they_say() -> None:
    draw = torch.Generator().manual_seed(0)
    silent = pause_features(Pause("silence", 0.0, 30), None, draw)
    torch.testing.assert_close(silent, compute_features(torch.zeros(4800)))
    white = pause_features(Pause("white", -60.0, 400), None, draw)
    noise = np.random.default_rng(5).standard_normal(64000).astype(np.float32) * 1e-3
    expected_F = compute_features(torch.from_numpy(noise)).mean(dim=0)
    torch.testing.assert_close(white.mean(dim=0), expected_F, atol=0.35, rtol=0)
    frames = torch.arange(50.0)[:, None].expand(50, 80)
    picked = pause_features(Pause("background", 0.0, 20), frames[10:20], draw)
    assert picked.shape == (20, 80) and picked.min() >= 10 and picked.max() < 20
    assert pause_features(Pause("background", 0.0, 4), None, draw).max() == pytest.approx(LOWEST_LOG_ENERGY)


def test_background_lies_outside_the_words_or_is_quiet() -> None:
    frames = torch.arange(100.0)[:, None].expand(100, 80)
    outside = background_frames(frames, [(0.2, 0.5), (0.5, 0.8)])[:, 0]
    assert outside.max() >= 83 and not any(20 <= value < 80 for value in outside.tolist())
    quiet = background_frames(frames, [])[:, 0]
    assert sorted(quiet.tolist()) == list(range(10))


def test_noise_lies_under_speech_at_its_level() -> None:
    draw = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(1)
    loud = torch.from_numpy(rng.standard_normal(16000).astype(np.float32) * 0.1)
    soft = loud * 0.1
    speech = [compute_features(loud), compute_features(soft)]
    whole_TF = torch.cat([speech[0], torch.full((200, 80), LOWEST_LOG_ENERGY), speech[1]])
    noisy_TF = torch.logaddexp(whole_TF, noise_under(len(whole_TF), speech, 20.0, draw))
    assert (noisy_TF >= whole_TF - 1e-5).all()
    noise = noisy_TF[110:290].exp().sum(dim=1).mean()
    power = speech[1].exp().sum(dim=1).mean()
    assert 10 * math.log10(float(power / noise)) == pytest.approx(20.0, abs=0.3)
    louder = noisy_TF[:90].exp().sum() / whole_TF[:90].exp().sum()
    assert float(louder) == pytest.approx(1.0001, abs=2e-4)  # 40 dB above the noise


@pytest.mark.parametrize("option", ["bed", "own_bed"])
def test_a_share_of_the_joined_utterances_lies_in_noise(
    cuts: CutSet, tokenizer: Tokenizer, option: str
) -> None:
    plain = replace(JOIN, silence=1.0, background=0.0)
    clean, noisy = (
        first_epoch(loader(cuts, tokenizer, join=join)) for join in (plain, replace(plain, **{option: 0.5}))
    )
    changed = {
        name: not torch.equal(one_TF, two_TF)
        for one, two in zip(clean, noisy, strict=True)
        for name, one_TF, two_TF in zip(one.ids, one.features_BTF, two.features_BTF, strict=True)
    }
    spoken_in = [noise for name, noise in changed.items() if spoken(name)]
    # Of up to three utterances that each have a noise of their own, most have one somewhere.
    assert 0.2 < sum(spoken_in) / len(spoken_in) < 0.95
    assert not any(noise for name, noise in changed.items() if not spoken(name))


@pytest.mark.parametrize("option", ["bed", "own_bed"])
@pytest.mark.parametrize("heard", ["masked", "unmasked", "clean"])
def test_a_teacher_hears_speech_without_masks_or_noise(
    cuts: CutSet, tokenizer: Tokenizer, heard: str, option: str
) -> None:
    join = replace(JOIN, silence=1.0, background=0.0)
    masks = SpecAugmentConfig(num_time_masks=2, max_time_fraction=0.3)
    config = DataConfig(
        max_duration=20.0, num_buckets=2, spec_augment=masks, join=replace(join, **{option: 1.0})
    )
    noisy = first_epoch(TrainLoader(cuts, tokenizer, config, seed=0, word_times=True, teacher_features=heard))
    clean = first_epoch(loader(cuts, tokenizer, join=join))
    for batch, other in zip(noisy, clean, strict=True):
        assert batch.ids == other.ids
        if heard == "masked":
            assert batch.teacher_features_BTF is None and batch.for_teacher() is batch
            continue
        teacher_BTF = batch.for_teacher().features_BTF
        first_1TF = batch.select([0]).for_teacher().features_BTF
        assert torch.equal(first_1TF, teacher_BTF[:1, : other.feature_lens_B[0]])
        rows = zip(batch.ids, teacher_BTF, batch.features_BTF, other.features_BTF, strict=True)
        for name, own_TF, student_TF, clean_TF in rows:
            assert torch.equal(own_TF, clean_TF) == (heard == "clean" or not spoken(name))
            same = float((own_TF == student_TF).float().mean())
            assert same < 0.98 or not spoken(name)
            assert same > 0.2 or heard == "clean"


def test_shares_of_pauses_that_sum_to_more_than_one_are_named(cuts: CutSet, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"data\.join\.background and silence"):
        loader(cuts, tokenizer, join=replace(JOIN, background=0.9))
