"""From cuts to a batch: features, masks, gain, pauses, pieces and their word times. Runs in loader workers.

Masks and gain are those of single utterances, before they are joined: an utterance looks the same alone and
among others.
"""

# Shapes: B joined utterances, U single utterances, T feature frames, F mel bins, S pieces, H pieces before.

from dataclasses import dataclass
from typing import NamedTuple

import torch
from lhotse import CutSet
from lhotse.cut import MixedCut, MonoCut, PaddingCut
from lhotse.dataset.input_strategies import BatchIO, OnTheFlyFeatures
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from kdasr.common.feature_frames import KALDI
from kdasr.common.special_pieces import BLANK_ID, NO_PIECE
from kdasr.data.augment import generator_for, spec_augment
from kdasr.data.batch import CLEAN, MASKED, REMASKED, UNMASKED, Batch
from kdasr.data.channel_augment import AudioTransform
from kdasr.data.data_config import DataConfig, JoinConfig
from kdasr.data.features import (
    FRAME_SHIFT_SECONDS,
    LOWEST_LOG_ENERGY,
    NUM_MEL_BINS,
    compute_features,
    load_cut_samples,
    lowest_log_energy,
)
from kdasr.data.join import segments_of
from kdasr.data.pauses import BACKGROUND, Pause, background_frames, noise_under, pause_features, with_gain
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import cut_text
from kdasr.data.word_times import aligned_words, times_of_pieces

HISTORY = 8
"""Pieces before an utterance that a batch holds; a predictor uses as many of them as its context has."""


class BatchPlan(NamedTuple):
    """What goes into one batch, and its place: the key of its random numbers."""

    epoch: int
    number: int
    cuts: CutSet


@dataclass
class _Utterance:
    """A single utterance as it is trained on."""

    cut: MonoCut
    features_TF: Tensor
    pieces: list[int]
    unmasked_TF: Tensor

    def background(self, as_teacher: bool = False) -> Tensor:
        """Frames in which nobody speaks, (T, F); the same number as a teacher hears them."""
        heard_TF = self.unmasked_TF if as_teacher else self.features_TF
        return background_frames(heard_TF, [word[1:] for word in aligned_words(self.cut)])


@dataclass
class _Joined:
    """A joined utterance: its features, and at which frame each of its utterances begins."""

    cut: MonoCut | MixedCut
    parts: list[Tensor]
    unmasked: list[Tensor]
    """The same parts as a teacher hears them, or with other masks."""
    utterances: list[_Utterance]
    begins: list[int]

    @property
    def pieces(self) -> list[int]:
        return [piece for utterance in self.utterances for piece in utterance.pieces]


class BatchMaker(Dataset[tuple[int, int, Batch]]):
    """Makes the batch of a plan; the same plan gives the same batch, in any process."""

    def __init__(
        self,
        strategy: BatchIO,
        tokenizer: Tokenizer,
        *,
        transform: AudioTransform | None = None,
        config: DataConfig | None = None,
        seed: tuple[int, ...] = (0,),
        word_times: bool = False,
        teacher_features: str = MASKED,
        teacher_kind: str = KALDI,
    ) -> None:
        """
        Args:
            strategy: where features come from.
            tokenizer: for the pieces.
            transform: what `strategy` does to the audio; it gets a generator for each batch.
            config: masks, gain and joining; None: no augmentation.
            seed: with the plan's place it decides all random numbers.
            word_times: whether batches say when the words of their pieces are spoken.
            teacher_features: one of `TEACHER_FEATURES`, or `REMASKED`.
            teacher_kind: of the features that a teacher hears. Where it is another one than the student's,
                they are computed from the audio, and are `CLEAN`.
        """
        self._strategy = strategy
        self._tokenizer = tokenizer
        self._transform = transform
        self._config = config
        self._join = config.join if config is not None and config.join.enabled else None
        self._seed = seed
        self._word_times = word_times
        self._teacher_kind = teacher_kind
        self._teacher_features = teacher_features if teacher_kind == KALDI else CLEAN

    def __getitem__(self, plan: BatchPlan) -> tuple[int, int, Batch]:
        """Epoch, number and batch of a plan, the longest utterance first."""
        generator = generator_for(*self._seed, plan.epoch, plan.number)
        cuts = sorted(plan.cuts, key=lambda cut: cut.duration, reverse=True)
        single = [segment for cut in cuts for segment in segments_of(cut) if isinstance(segment, MonoCut)]
        utterances = iter(self._utterances(single, generator))
        joined = []
        for cut in cuts:
            segments = segments_of(cut)
            own = [next(utterances) for segment in segments if isinstance(segment, MonoCut)]
            item = _assemble(cut, segments, own, generator, self._teacher_kind)
            joined.append(self._in_noise(item, generator))
        return plan.epoch, plan.number, self._batch(joined, generator)

    @property
    def hears_stored(self) -> bool:
        """Whether the student's features are stored ones; else they are computed from the audio."""
        return not isinstance(self._strategy, OnTheFlyFeatures)

    def read(self, cut: MonoCut) -> None:
        """Read what a batch needs of an utterance, to see whether it can be; raises what that raises."""
        if self.hears_stored:
            cut.load_features()
        if not self.hears_stored or self._teacher_kind != KALDI:
            load_cut_samples(cut)

    def _utterances(self, cuts: list[MonoCut], generator: torch.Generator) -> list[_Utterance]:
        """Features and pieces of single utterances, with masks and gain."""
        if not cuts:
            return []
        if self._transform is not None:
            self._transform.generator = generator
        features_UTF, lens_U = self._strategy(CutSet.from_cuts(cuts))[:2]
        unmasked_UTF = features_UTF
        gain_U = torch.zeros(len(cuts))
        if self._config is not None:
            if self._config.spec_augment.enabled:
                masks = self._config.spec_augment
                features_UTF = spec_augment(features_UTF, lens_U, masks, generator)
                if self._teacher_features == REMASKED:
                    unmasked_UTF = spec_augment(unmasked_UTF, lens_U, masks, generator)
            gain = self._config.gain
            if gain.probability > 0.0:
                changed_U, level_U = torch.rand(2, len(cuts), generator=generator)
                gain_U = gain.gain_db[0] + level_U * (gain.gain_db[1] - gain.gain_db[0])
                gain_U = gain_U * (changed_U < gain.probability)
                features_UTF = with_gain(features_UTF, gain_U[:, None, None])
                if self._teacher_features != MASKED:  # else nobody hears them
                    unmasked_UTF = with_gain(unmasked_UTF, gain_U[:, None, None])
        if self._teacher_kind != KALDI:
            unmasked_UTF = self._as_teachers_hear(cuts, features_UTF.shape[1], gain_U)
        each = zip(cuts, features_UTF, unmasked_UTF, lens_U.tolist(), strict=True)
        return [
            self._in_own_noise(
                _Utterance(cut, masked[:length], self._tokenizer.encode(cut_text(cut)), unmasked[:length]),
                generator,
            )
            for cut, masked, unmasked, length in each
        ]

    def _as_teachers_hear(self, cuts: list[MonoCut], num_frames: int, gain_U: Tensor) -> Tensor:
        """Features (U, T, F) of the teacher's kind, from the audio; the last frame is repeated."""
        rows, lowest = [], lowest_log_energy(self._teacher_kind)
        for cut, gain_db in zip(cuts, gain_U, strict=True):
            own_TF = compute_features(load_cut_samples(cut), self._teacher_kind)
            if not len(own_TF):
                own_TF = torch.full((1, NUM_MEL_BINS), lowest)
            places_T = torch.arange(num_frames).clamp(max=len(own_TF) - 1)
            rows.append(with_gain(own_TF, gain_db, lowest)[places_T])
        return torch.stack(rows)

    def _in_own_noise(self, utterance: _Utterance, generator: torch.Generator) -> _Utterance:
        """The utterance, some of them in a noise that ends with it."""
        if self._join is None or self._join.own_bed == 0.0 or not len(utterance.features_TF):
            return utterance
        own_TF = utterance.features_TF
        noise_TF = _drawn_noise(self._join, self._join.own_bed, [own_TF], len(own_TF), generator)
        if noise_TF is not None:
            utterance.features_TF = torch.logaddexp(own_TF, noise_TF)
            if self._teacher_features in (UNMASKED, REMASKED):
                utterance.unmasked_TF = torch.logaddexp(utterance.unmasked_TF, noise_TF)
        return utterance

    def _in_noise(self, item: _Joined, generator: torch.Generator) -> _Joined:
        """The joined utterance, some of them in one noise from the first frame to the last."""
        if self._join is None or not item.utterances:
            return item
        speech = [utterance.features_TF for utterance in item.utterances]
        num_frames = sum(map(len, item.parts))
        noise_TF = _drawn_noise(self._join, self._join.bed, speech, num_frames, generator)
        if noise_TF is not None:
            item.parts = [torch.logaddexp(torch.cat(item.parts), noise_TF)]
            if self._teacher_features in (UNMASKED, REMASKED):
                item.unmasked = [torch.logaddexp(torch.cat(item.unmasked), noise_TF)]
        return item

    def _batch(self, joined: list[_Joined], generator: torch.Generator) -> Batch:
        """The padded batch of joined utterances."""
        lens_B = torch.tensor([sum(len(part) for part in item.parts) for item in joined], dtype=torch.int64)
        unmasked = None
        if self._teacher_features != MASKED:
            unmasked = _padded([item.unmasked for item in joined])
        pieces = [torch.tensor(item.pieces, dtype=torch.int64) for item in joined]
        return Batch(
            features_BTF=_padded([item.parts for item in joined]),
            feature_lens_B=lens_B,
            tokens_BS=pad_sequence(pieces, batch_first=True),
            token_lens_B=torch.tensor([len(piece) for piece in pieces], dtype=torch.int64),
            ids=[item.cut.id for item in joined],
            texts=[" ".join(filter(None, (cut_text(u.cut) for u in item.utterances))) for item in joined],
            audio_seconds=sum(item.cut.duration for item in joined),
            word_times_BS2=self._times(joined) if self._word_times else None,
            history_BH=self._histories(joined, generator),
            teacher_features_BTF=unmasked,
            teacher_kind=self._teacher_kind,
        )

    def _times(self, joined: list[_Joined]) -> Tensor:
        """Start and end of the word of each piece (B, S, 2), in seconds from the joined utterance's begin."""
        rows = []
        for item in joined:
            times = [torch.zeros(0, 2)]
            for utterance, begin in zip(item.utterances, item.begins, strict=True):
                own_S2 = torch.tensor(times_of_pieces(utterance.cut, utterance.pieces, self._tokenizer))
                times.append(own_S2.view(-1, 2) + begin * FRAME_SHIFT_SECONDS)
            rows.append(torch.cat(times))
        return pad_sequence(rows, batch_first=True)

    def _histories(self, joined: list[_Joined], generator: torch.Generator) -> Tensor | None:
        """Last pieces (B, H) of another joined utterance of the batch, for some of them.

        An utterance that is alone in its batch has none.
        """
        if self._join is None or self._join.history == 0.0:
            return None
        start = [NO_PIECE] * (HISTORY - 1) + [BLANK_ID]
        chance_B = torch.rand(len(joined), generator=generator)
        # Never its own: those would tell how it ends.
        steps_B = torch.randint(1, max(len(joined), 2), (len(joined),), generator=generator)
        rows = []
        for place, (chance, step) in enumerate(zip(chance_B.tolist(), steps_B.tolist(), strict=True)):
            other = joined[(place + step) % len(joined)]
            pieces = other.pieces if chance < self._join.history and len(joined) > 1 else []
            rows.append([*start, *pieces][-HISTORY:])
        return torch.tensor(rows, dtype=torch.int64)


def _drawn_noise(
    config: JoinConfig, share: float, speech: list[Tensor], num_frames: int, generator: torch.Generator
) -> Tensor | None:
    """Features (T, F) of a noise under `speech`, at a drawn level; None for all but this share of draws."""
    chance, place = torch.rand(2, generator=generator).tolist()
    if chance >= share:
        return None
    lowest, highest = config.bed_snr_db
    return noise_under(num_frames, speech, lowest + place * (highest - lowest), generator)


def _assemble(
    cut: MonoCut | MixedCut,
    segments: list[MonoCut | PaddingCut],
    utterances: list[_Utterance],
    generator: torch.Generator,
    teacher_kind: str,
) -> _Joined:
    """Put utterances and pauses one after another; a pause takes its background from the one before it.

    A teacher with features of another kind hears the same pauses in its own.
    """
    parts: list[Tensor] = []
    unmasked: list[Tensor] = []
    begins: list[int] = []
    length = 0
    for segment in segments:
        if isinstance(segment, PaddingCut):
            assert segment.custom is not None and segment.num_frames is not None
            kind, level_db = segment.custom["kind"], segment.custom["level_db"]
            before = utterances[max(len(begins) - 1, 0)] if kind == BACKGROUND else None
            pause = Pause(kind, level_db, segment.num_frames)
            drawn = generator.get_state()
            background_TF = None if before is None else before.background()
            part = pause_features(pause, background_TF, generator)
            heard = part
            if teacher_kind != KALDI:
                again = torch.Generator()
                again.set_state(drawn)
                background_TF = None if before is None else before.background(as_teacher=True)
                heard = pause_features(pause, background_TF, again, teacher_kind)
            unmasked.append(heard)
        else:
            part = utterances[len(begins)].features_TF
            unmasked.append(utterances[len(begins)].unmasked_TF)
            begins.append(length)
        parts.append(part)
        length += len(part)
    return _Joined(cut, parts, unmasked, utterances, begins)


def _padded(rows: list[list[Tensor]]) -> Tensor:
    """Features (B, T, F) of rows that are given in parts."""
    lens = [sum(map(len, parts)) for parts in rows]
    features_BTF = torch.full((len(rows), max(lens), NUM_MEL_BINS), LOWEST_LOG_ENERGY)
    for row_TF, parts, length in zip(features_BTF, rows, lens, strict=True):
        torch.cat(parts, out=row_TF[:length])
    return features_BTF
