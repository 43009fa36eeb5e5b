"""Small models, batches, cuts and corpora for tests: of this project and of those who build on it."""

# Shapes: B utterances, T feature frames, F mel bins, S pieces.

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from kdasr.data.batch import Batch
from kdasr.models.encoders.tiny import tiny_encoder
from kdasr.models.predictors.stateless import StatelessConfig
from kdasr.models.transducer.transducer_config import TransducerConfig

if TYPE_CHECKING:
    from lhotse import CutSet, Features
    from lhotse.cut import MonoCut
    from numpy.typing import NDArray

    from kdasr.data.tokenizer import Tokenizer
    from kdasr.models.transducer.model import Transducer

WORDS = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE", "TEN")
SAMPLE_RATE = 16000


def tiny_config(vocab_size: int = 11) -> TransducerConfig:
    """A transducer that runs in milliseconds: 2 layers, 16 wide, no dropout."""
    return TransducerConfig(
        vocab_size=vocab_size,
        encoder=tiny_encoder(),
        predictor=StatelessConfig(dim=16),
        joiner_dim=16,
    )


def tiny_model(seed: int = 0, vocab_size: int = 11) -> Transducer:
    """A randomly initialized model of `tiny_config`; the global random state is left as it was."""
    from kdasr.models.transducer.build import build_transducer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_transducer(tiny_config(vocab_size))


def dummy_batch(
    batch_size: int = 3,
    vocab: int = 11,
    seed: int = 0,
    max_frames: int = 67,
    max_tokens: int = 6,
    padding: float = 3.0,
    num_features: int = 80,
) -> Batch:
    """Random utterances of different lengths, the first of which is the longest in frames and pieces.

    Padding is loud: features are filled with noise around `padding` and pieces with random ids, so that a
    loss or a model that forgets a mask gives another result. Pieces are in [1, vocab).
    """
    generator = torch.Generator().manual_seed(seed)
    feature_lens_B = torch.randint(max_frames // 2, max_frames + 1, (batch_size,), generator=generator)
    token_lens_B = torch.randint(1, max_tokens + 1, (batch_size,), generator=generator)
    feature_lens_B[0], token_lens_B[0] = max_frames, max_tokens
    features_BTF = torch.randn(batch_size, max_frames, num_features, generator=generator)
    beyond_BT = torch.arange(max_frames) >= feature_lens_B[:, None]
    tokens_BS = torch.randint(1, vocab, (batch_size, max_tokens), generator=generator)
    return Batch(
        features_BTF=features_BTF + padding * beyond_BT[..., None],
        feature_lens_B=feature_lens_B,
        tokens_BS=tokens_BS,
        token_lens_B=token_lens_B,
        ids=[f"dummy-{index}" for index in range(batch_size)],
        texts=[" ".join(WORDS[token % len(WORDS)] for token in row) for row in tokens_BS.tolist()],
        audio_seconds=float(feature_lens_B.sum()) / 100,
    )


def tone(seconds: float, seed: int = 0, sample_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Half-second tones of random pitch in a little noise, in [-1, 1]."""
    generator = np.random.default_rng(seed)
    count = round(seconds * sample_rate)
    pitch = np.repeat(generator.uniform(200, 3000, math.ceil(2 * seconds) + 1), sample_rate // 2)[:count]
    wave = 0.3 * np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate) + 0.01 * generator.standard_normal(count)
    return wave.astype(np.float32)


def random_text(num_words: int, seed: int = 0) -> str:
    """Some of `WORDS`."""
    generator = np.random.default_rng(seed)
    return " ".join(WORDS[index] for index in generator.integers(len(WORDS), size=num_words))


def dummy_cuts(
    n: int, min_seconds: float = 1.0, max_seconds: float = 3.0, seed: int = 0, with_features: bool = True
) -> CutSet:
    """`n` tone cuts that live in memory, with two words per second; `with_features` attaches features."""
    from lhotse import CutSet

    generator = np.random.default_rng(seed)
    durations = generator.uniform(min_seconds, max_seconds, n)
    return CutSet.from_cuts(
        _dummy_cut(f"cut-{index:04d}", float(seconds), 1000 * seed + index, with_features)
        for index, seconds in enumerate(durations)
    )


def _dummy_cut(name: str, seconds: float, seed: int, with_features: bool) -> MonoCut:
    import soundfile
    from lhotse import Recording, SupervisionSegment

    samples = tone(seconds, seed)
    encoded = io.BytesIO()
    soundfile.write(encoded, samples, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    recording = Recording.from_bytes(encoded.getvalue(), recording_id=name)
    cut = recording.to_cut().with_id(name)
    text = random_text(max(1, round(2 * seconds)), seed)
    cut.supervisions = [SupervisionSegment(name, name, 0.0, recording.duration, text=text, speaker="dummy")]
    if with_features:
        cut.features = _memory_features(name, samples, recording.duration)
    return cut


def _memory_features(name: str, samples: NDArray[np.float32], duration: float) -> Features:
    from lhotse import Features

    from kdasr.data.features import compute_features, feature_extractor

    features_TF = compute_features(torch.from_numpy(samples)).numpy()
    stored = io.BytesIO()
    np.save(stored, features_TF, allow_pickle=False)
    return Features(
        type=feature_extractor().name,
        num_frames=len(features_TF),
        num_features=features_TF.shape[1],
        frame_shift=0.01,
        sampling_rate=SAMPLE_RATE,
        start=0.0,
        duration=duration,
        storage_type="memory_npy",
        storage_path=None,
        storage_key=stored.getvalue(),
        recording_id=name,
        channels=0,
    )


def write_corpus(
    corpus_dir: Path,
    parts: Sequence[str] = ("train-clean-100", "dev-clean"),
    speakers: int = 2,
    utterances: int = 3,
    alignments_dir: Path | None = None,
) -> Path:
    """Write tones in LibriSpeech's layout, `speakers` chapters of `utterances` each per part.

    With `alignments_dir`, also word times in the LibriSpeech-Alignments form: half a second per word
    between two silences. Returns `corpus_dir`.
    """
    import soundfile

    seed = 0
    for number, part in enumerate(parts):
        for speaker in range(100 * (number + 1), 100 * (number + 1) + speakers):
            chapter = Path(part) / str(speaker) / "1"
            (corpus_dir / chapter).mkdir(parents=True)
            transcript, alignment = [], []
            for index in range(utterances):
                seed += 1
                name, words = f"{speaker}-1-{index:04d}", random_text(2 + seed % 3, seed).split()
                ends = [0.25 + 0.5 * place for place in range(len(words) + 1)]
                soundfile.write(
                    corpus_dir / chapter / f"{name}.flac", tone(ends[-1] + 0.25, seed), SAMPLE_RATE
                )
                transcript.append(f"{name} {' '.join(words)}\n")
                times = ",".join(f"{end:.3f}" for end in [*ends, ends[-1] + 0.25])
                alignment.append(f'{name} ",{",".join(words)}," "{times}"\n')
            (corpus_dir / chapter / f"{speaker}-1.trans.txt").write_text("".join(transcript))
            if alignments_dir is not None:
                (alignments_dir / chapter).mkdir(parents=True)
                (alignments_dir / chapter / f"{speaker}-1.alignment.txt").write_text("".join(alignment))
    return corpus_dir


def tiny_tokenizer(out_dir: Path) -> Tokenizer:
    """A tokenizer of 24 pieces for `WORDS`, written to `out_dir`."""
    from kdasr.data.tokenizer import train_tokenizer

    return train_tokenizer([random_text(4, seed) for seed in range(50)], 24, out_dir)
