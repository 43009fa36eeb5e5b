"""Log-mel features: one definition for training, offline decoding and the stored copies, and another one
for teachers of NeMo."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse import Fbank, FbankConfig, Features, LilcomChunkyWriter
from lhotse.augmentation import AudioTransform
from lhotse.cut import Cut, MonoCut
from numpy.typing import NDArray
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.feature_frames import FRAME_LENGTH_SECONDS, FRAME_SHIFT_SECONDS, KALDI, NEMO
from kdasr.common.logging import get_logger
from kdasr.data.audio_reading import AudioError, fault_in_digest, fault_in_samples, read_audio
from kdasr.data.bad import BadUtterance
from kdasr.data.channels import mix_down
from kdasr.data.nemo_log_mel import LOG_GUARD, nemo_log_mel

# Shapes: N samples, C channels, T feature frames (10 ms), F mel bins.

log = get_logger(__name__)

SAMPLE_RATE = 16000
NUM_MEL_BINS = 80
FRAME_SHIFT_SAMPLES = 160
FRAME_LENGTH_SAMPLES = 400
TICK_POWER = -8
"""Stored features are multiples of 2^-8: as exact as float16 at the energies of speech, in less space."""
ARCHIVE_SUFFIX = ".lca"
_WHOLE = 1e-3
"""Seconds by which the duration of a cut of a whole recording may differ: Lhotse reads all of it then."""
LOWEST_LOG_ENERGY = math.log(np.finfo(np.float32).eps)
"""Log energy of digital silence: Kaldi's features have this floor, and so have ours."""


def lowest_log_energy(kind: str = KALDI) -> float:
    """Log energy of digital silence in features of a kind."""
    return math.log(LOG_GUARD) if kind == NEMO else LOWEST_LOG_ENERGY


@cache
def feature_extractor() -> Fbank:
    """Lhotse's Kaldi-compatible filterbank with sherpa's settings.

    80 bins at 16 kHz, 25 ms Povey windows every 10 ms, 20 Hz to 400 Hz below Nyquist, no dither, edges
    reflected (`snip_edges=False`), no normalization: that is a buffer of the model.
    """
    return Fbank(
        FbankConfig(
            sampling_rate=SAMPLE_RATE,
            num_mel_bins=NUM_MEL_BINS,
            frame_length=FRAME_LENGTH_SECONDS,
            frame_shift=FRAME_SHIFT_SECONDS,
            high_freq=-400.0,
            dither=0.0,
            snip_edges=False,
        )
    )


def num_feature_frames(num_samples: int) -> int:
    """Frames that `compute_features` makes of `num_samples` samples."""
    return (num_samples + FRAME_SHIFT_SAMPLES // 2) // FRAME_SHIFT_SAMPLES


def compute_features(samples_N: Tensor, kind: str = KALDI) -> Tensor:
    """Raw log-mel energies (T, 80), float32, of float samples in [-1, 1] at 16 kHz; `kind`: of
    `feature_frames.KINDS`.

    Audio shorter than half a frame shift has no frames. Each utterance is computed by itself: in a
    padded batch the reflected last frame would depend on the neighbors' lengths.
    """
    samples_N = samples_N.to(torch.float32).reshape(-1)
    if kind == NEMO:
        return nemo_log_mel(samples_N)
    num_frames = num_feature_frames(samples_N.numel())
    if num_frames == 0:
        return torch.zeros(0, NUM_MEL_BINS)
    if samples_N.numel() < FRAME_LENGTH_SAMPLES // 2:
        # Too short to be reflected: zeros stand in for what follows.
        samples_N = torch.nn.functional.pad(samples_N, (0, FRAME_LENGTH_SAMPLES - samples_N.numel()))
    return torch.as_tensor(feature_extractor().extract(samples_N, SAMPLE_RATE))[:num_frames]


@dataclass
class FeatureStats:
    """Sums from which the mean and the standard deviation of each bin follow; sums add up over parts."""

    total_F: np.ndarray = field(default_factory=lambda: np.zeros(NUM_MEL_BINS))
    squares_F: np.ndarray = field(default_factory=lambda: np.zeros(NUM_MEL_BINS))
    num_frames: int = 0

    def add(self, features_TF: np.ndarray) -> None:
        """Count the frames of one utterance."""
        self.total_F = self.total_F + features_TF.sum(axis=0, dtype=np.float64)
        self.squares_F = self.squares_F + np.square(features_TF, dtype=np.float64).sum(axis=0)
        self.num_frames += len(features_TF)

    def merge(self, other: "FeatureStats") -> None:
        """Count what `other` counted."""
        self.total_F = self.total_F + other.total_F
        self.squares_F = self.squares_F + other.squares_F
        self.num_frames += other.num_frames

    def summary(self) -> dict[str, object]:
        """`{"mean": [F], "std": [F], "num_frames": n}`, the content of `feature_stats.json`."""
        count = max(1, self.num_frames)
        mean_F = self.total_F / count
        # A floor keeps a constant bin from becoming a division by zero in the model.
        std_F = np.sqrt(np.maximum(self.squares_F / count - mean_F**2, 1e-4))
        return {"mean": mean_F.tolist(), "std": std_F.tolist(), "num_frames": self.num_frames}

    def to_json(self) -> dict[str, object]:
        """Plain containers that `from_json` reads back exactly."""
        return {
            "total": self.total_F.tolist(),
            "squares": self.squares_F.tolist(),
            "num_frames": self.num_frames,
        }

    @classmethod
    def from_json(cls, value: dict) -> "FeatureStats":
        """The inverse of `to_json`."""
        return cls(np.array(value["total"]), np.array(value["squares"]), int(value["num_frames"]))


def utterance_of(cut: MonoCut) -> str:
    """The utterance that a cut is a copy of, at whatever speed."""
    return utterance_name(cut.id, cut.custom)


def utterance_name(name: str, custom: Mapping[str, Any] | None) -> str:
    """The same, of the name of a cut and its `custom` fields."""
    speed = (custom or {}).get("speed", 1.0)
    return name if speed == 1.0 else name.removesuffix(f"_sp{speed}")


def load_cut_samples(cut: MonoCut) -> Tensor:
    """Mono samples of a cut, (N,) float32; speed perturbation included. See `mix_down` for several channels.

    Raises:
        AudioError: the audio is not there, cannot be decoded to its end, or holds what cannot be samples; the
            message names the file.
        UserError: out of memory.
    """
    mono, canceled = mix_down(load_cut_channels(cut))
    if canceled:
        log.warning("%s: %s", cut.id, canceled)
    return torch.from_numpy(mono)


def load_cut_channels(cut: Cut) -> NDArray[np.float32]:
    """The samples of a cut of any kind, (N, C) float32, at its own rate; raises as `load_cut_samples`."""
    require_audio(cut)
    source = _source(cut)
    try:
        whole, digest = _with_digest(cut)
        samples_CN = whole.load_audio()
    except MemoryError:
        raise UserError(f"{source}: out of memory for '{cut.id}' of {cut.duration:.0f} s of audio") from None
    except Exception as error:  # every audio backend raises its own kind
        raise AudioError(source, f"cannot be decoded ({_reason(source, error)}): copy it again") from error
    assert samples_CN is not None
    fault = fault_in_samples(samples_CN) or digest.fault
    if fault is not None:
        raise AudioError(source, fault)
    return samples_CN.T


@dataclass
class _Digest(AudioTransform):
    """Changes nothing: notes what a file says against the samples that were read of it.

    As the first transform of a recording it hears them before their speed is changed, so that an utterance is
    bad in all of its copies or in none.
    """

    path: str = ""
    """Empty: there is nothing to compare."""
    fault: str | None = None

    def __call__(self, samples: np.ndarray, sampling_rate: int) -> np.ndarray:
        if self.path:
            self.fault = fault_in_digest(Path(self.path), samples.T)
        return samples

    def reverse_timestamps(
        self, offset: float, duration: float | None, sampling_rate: int
    ) -> tuple[float, float | None]:
        return offset, duration


def _with_digest(cut: Cut) -> tuple[Cut, _Digest]:
    """The cut with a `_Digest`, which looks at the samples where the cut is the whole of one file."""
    digest = _Digest()
    recording = getattr(cut, "recording", None)  # a mixture has none
    if recording is None or len(recording.sources) != 1 or recording.sources[0].type != "file":
        return cut, digest
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    is_whole = cut.start == 0 and abs(cut.duration - recording.duration) < _WHOLE
    if is_whole and len(channels) == recording.num_channels:
        digest.path = str(recording.sources[0].source)
        transforms = [digest, *(recording.transforms or [])]
        cut = replace(cut, recording=replace(recording, transforms=transforms))
    return cut, digest


def _reason(source: str, error: Exception) -> str:
    """What libsndfile says of a file; Lhotse tries several decoders, and says what each of them says."""
    try:
        read_audio(Path(source))
    except AudioError as known:
        return known.reason
    return first_line(error)


def _source(cut: Cut) -> str:
    """The first file of a cut; its id where it has none."""
    sources = getattr(getattr(cut, "recording", None), "sources", [])
    return sources[0].source if sources and sources[0].type == "file" else cut.id


def require_audio(cut: Cut) -> None:
    """Refuse a cut whose audio is not there.

    Raises:
        AudioError: a file of the cut is not there.
    """
    recording = getattr(cut, "recording", None)  # a mixture has none
    for source in recording.sources if recording else []:
        if source.type != "file" or Path(source.source).is_file():
            continue
        hint = (
            " (paths in the manifest are relative to the current directory, or to the data folder that "
            "`kdasr prepare` wrote it to: name it there)"
        )
        found = "" if Path(source.source).is_absolute() else hint
        raise AudioError(source.source, f"audio of '{cut.id}' not found{found}")


def store_features(
    cuts: Sequence[MonoCut], archive: Path, published_as: str
) -> tuple[list[Features | None], FeatureStats, list[BadUtterance]]:
    """Compute the features of `cuts` and write them to one file, `archive`, which ends in `ARCHIVE_SUFFIX`.

    A cut whose audio cannot be used costs that cut: it has None in the place of its features, does not count
    in the statistics, and its recording is among the bad ones.

    The file is one of Lhotse's chunked archives (`LilcomChunkyWriter`), at `TICK_POWER`. `published_as` is
    the path that the manifests will name.
    """
    stats = FeatureStats()
    manifests: list[Features | None] = []
    bad: list[BadUtterance] = []
    with LilcomChunkyWriter(archive, tick_power=TICK_POWER) as writer:
        for cut in cuts:
            try:
                features_TF = compute_features(load_cut_samples(cut)).numpy()
            except AudioError as error:
                bad.append(BadUtterance(utterance_of(cut), str(error.path), error.reason))
                manifests.append(None)
                continue
            stats.add(features_TF)
            key = writer.write(cut.id, features_TF)  # rounds its input in place
            manifests.append(_manifest(cut, len(features_TF), published_as, key))
    return manifests, stats, bad


def _manifest(cut: MonoCut, num_frames: int, published_as: str, key: str) -> Features:
    return Features(
        type=feature_extractor().name,
        num_frames=num_frames,
        num_features=NUM_MEL_BINS,
        frame_shift=FRAME_SHIFT_SECONDS,
        sampling_rate=SAMPLE_RATE,
        start=cut.start,  # of the recording, as in Lhotse's own: `cut.load_features` counts from there
        duration=cut.duration,
        storage_type=LilcomChunkyWriter.name,
        storage_path=published_as,
        storage_key=key,
        recording_id=cut.recording_id,
        channels=0,
    )
