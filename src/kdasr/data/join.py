"""Utterances joined to longer ones with pauses between them: what a stream that goes on sounds like.

A joined utterance is a Lhotse `MixedCut`: the utterances are tracks at their offsets, and the pauses are
padding cuts that say what they hold. Which utterances come together depends on the seed and the epoch alone.
Utterances are taken from a window over the stream of cuts, so that memory does not grow with their number.
"""

import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence

from lhotse import SupervisionSegment
from lhotse.cut import MixedCut, MixTrack, MonoCut, PaddingCut

from kdasr.common.errors import UserError
from kdasr.data.data_config import JoinConfig
from kdasr.data.features import (
    FRAME_SHIFT_SAMPLES,
    FRAME_SHIFT_SECONDS,
    LOWEST_LOG_ENERGY,
    NUM_MEL_BINS,
    SAMPLE_RATE,
    num_feature_frames,
)
from kdasr.data.pauses import BACKGROUND, COLORS, SILENCE

WINDOW = 4000
"""Utterances that the next member of a joined one is chosen among."""


class JoinedCuts:
    """Joined utterances of some cuts, every cut in one of them. Each iteration gives the same ones."""

    def __init__(self, cuts: Iterable[MonoCut], config: JoinConfig, seed: tuple[int, ...]) -> None:
        """
        Args:
            cuts: in the order in which they are to be used, which should be a random one.
            config: how they are joined.
            seed: with `cuts` and `config` it decides everything.
        """
        self._cuts = cuts
        self._config = config
        self._seed = ":".join(map(str, seed))

    def __iter__(self) -> Iterator[MixedCut]:
        draws = random.Random(self._seed)
        waiting = _Waiting(iter(self._cuts))
        count = 0
        while (first := waiting.take_first()) is not None:
            yield _join(self._group(first, waiting, draws), self._config, draws)
            if draws.random() < self._config.empty:
                yield _empty(f"empty-{count}", self._config, draws)
                count += 1

    def _group(self, first: MonoCut, waiting: "_Waiting", draws: random.Random) -> list[MonoCut]:
        group, seconds = [first], first.duration
        for _ in range(draws.randint(1, self._config.max_utterances) - 1):
            same = draws.random() < self._config.same_speaker
            following = waiting.peek(_speaker(group[-1]) if same else None)
            if following is None or seconds + following.duration > self._config.max_seconds:
                break
            group.append(waiting.take(following))
            seconds += following.duration
        return group


class _Waiting:
    """The next cuts of a stream, in order and by speaker."""

    def __init__(self, cuts: Iterator[MonoCut]) -> None:
        self._cuts = cuts
        self._in_order: OrderedDict[str, MonoCut] = OrderedDict()
        self._by_speaker: dict[str, deque[MonoCut]] = {}
        self._fill()

    def peek(self, speaker: str | None) -> MonoCut | None:
        """The first cut of this speaker; the first of all if there is none, or no speaker is named."""
        queue = self._by_speaker.get(speaker) if speaker is not None else None
        if queue:
            return queue[0]
        return next(iter(self._in_order.values()), None)

    def take(self, cut: MonoCut) -> MonoCut:
        """Take out a cut that `peek` has shown, which is the first of its speaker; another one moves up."""
        del self._in_order[cut.id]
        speaker = _speaker(cut)
        self._by_speaker[speaker].popleft()
        if not self._by_speaker[speaker]:
            del self._by_speaker[speaker]
        self._fill()
        return cut

    def take_first(self) -> MonoCut | None:
        """Take the first cut out; None at the end."""
        first = self.peek(None)
        return None if first is None else self.take(first)

    def _fill(self) -> None:
        while len(self._in_order) < WINDOW and (cut := next(self._cuts, None)) is not None:
            self._in_order[cut.id] = cut
            self._by_speaker.setdefault(_speaker(cut), deque()).append(cut)


def stand_in(row: int, seconds: float, speaker: str | None) -> MonoCut:
    """What stands for a cut while it is planned which ones are joined: all that `JoinedCuts` looks at."""
    name = str(row)
    spoken = [SupervisionSegment(name, name, 0.0, seconds, speaker=speaker)] if speaker else []
    return MonoCut(name, 0.0, seconds, 0, supervisions=spoken)


def rows_of(cut: MixedCut) -> list[int]:
    """The rows of the stand-ins in a joined utterance."""
    return [int(segment.id) for segment in segments_of(cut) if isinstance(segment, MonoCut)]


def with_cuts(planned: MixedCut, cuts: Sequence[MonoCut]) -> MixedCut:
    """A joined utterance with the cuts themselves in the places of their stand-ins."""
    following = iter(cuts)
    segments = [next(following) if isinstance(part, MonoCut) else part for part in segments_of(planned)]
    return mixed("+".join(cut.id for cut in cuts) or planned.id, segments)


def check_join_config(config: JoinConfig) -> None:
    """What no single option shows.

    Raises:
        UserError: the shares of the pauses sum to more than 1.
    """
    if config.background + config.silence > 1.0:
        raise UserError("data.join.background and silence: together more than 1")


def segments_of(cut: MonoCut | MixedCut) -> list[MonoCut | PaddingCut]:
    """Utterances and pauses of a cut in their order; a cut that is not joined is its only utterance."""
    return [track.cut for track in cut.tracks] if isinstance(cut, MixedCut) else [cut]


def num_frames_of(segment: MonoCut | PaddingCut) -> int:
    """Feature frames of an utterance or a pause."""
    if isinstance(segment, PaddingCut):
        assert segment.num_frames is not None
        return segment.num_frames
    if segment.features is not None:
        return segment.features.num_frames
    return num_feature_frames(round(segment.duration * SAMPLE_RATE))


def _join(group: list[MonoCut], config: JoinConfig, draws: random.Random) -> MixedCut:
    """The utterances of a group with pauses between them, and before and after them."""
    name = "+".join(cut.id for cut in group)
    segments: list[MonoCut | PaddingCut] = []
    if draws.random() < 0.5:
        segments.append(_pause(f"{name}-lead", config.lead, config, draws))
    elif config.jitter > 0.0:
        seconds = draws.uniform(0.0, config.jitter)
        segments.append(_pause(f"{name}-jitter", [seconds, seconds], config, draws))
    for number, cut in enumerate(group):
        if number:
            segments.append(_pause(f"{name}-{number}", config.pause, config, draws))
        segments.append(cut)
    if draws.random() < 0.5:
        segments.append(_pause(f"{name}-trail", config.trail, config, draws))
    return mixed(name, [segment for segment in segments if num_frames_of(segment)])


def _empty(name: str, config: JoinConfig, draws: random.Random) -> MixedCut:
    """One to five seconds in which nobody speaks."""
    return mixed(name, [_pause(f"{name}-pause", [1.0, 5.0], config, draws, beside_speech=False)])


def mixed(name: str, segments: list[MonoCut | PaddingCut]) -> MixedCut:
    """Utterances and pauses, one after another."""
    tracks, frames = [], 0
    for segment in segments:
        tracks.append(MixTrack(segment, offset=round(frames * FRAME_SHIFT_SECONDS, 2)))
        frames += num_frames_of(segment)
    return MixedCut(name, tracks)


def _pause(
    name: str, seconds: list[float], config: JoinConfig, draws: random.Random, *, beside_speech: bool = True
) -> PaddingCut:
    """A pause of random length; what it holds is in its `custom` field, for `kdasr.data.pauses`."""
    lowest, highest = seconds
    frames = round((lowest + (highest - lowest) * draws.random() ** 3) / FRAME_SHIFT_SECONDS)
    choice, level_db = draws.random(), draws.uniform(*config.noise_db)
    kind = draws.choice(COLORS)
    if choice < config.silence:
        kind = SILENCE
    elif beside_speech and choice < config.silence + config.background:
        kind = BACKGROUND
    return PaddingCut(
        id=name,
        duration=round(frames * FRAME_SHIFT_SECONDS, 2),
        sampling_rate=SAMPLE_RATE,
        feat_value=LOWEST_LOG_ENERGY,
        num_frames=frames,
        num_features=NUM_MEL_BINS,
        frame_shift=FRAME_SHIFT_SECONDS,
        num_samples=frames * FRAME_SHIFT_SAMPLES,
        custom={"kind": kind, "level_db": level_db},
    )


def _speaker(cut: MonoCut) -> str:
    """The speaker; a name of its own for a cut that does not say."""
    return (cut.supervisions[0].speaker if cut.supervisions else None) or f"of {cut.id}"
