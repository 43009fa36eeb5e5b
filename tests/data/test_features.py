"""Features: the contract's settings, against Kaldi's own online implementation."""

import json

import kaldi_native_fbank
import numpy as np
import pytest
import torch

from kdasr.data.features import (
    NUM_MEL_BINS,
    SAMPLE_RATE,
    FeatureStats,
    compute_features,
    num_feature_frames,
)
from kdasr.testing import tone


def online_features(samples: np.ndarray) -> np.ndarray:
    """What sherpa-onnx computes: kaldi-native-fbank with the settings of the contract."""
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.snip_edges = False
    options.mel_opts.num_bins = 80
    options.mel_opts.high_freq = -400.0
    online = kaldi_native_fbank.OnlineFbank(options)
    online.accept_waveform(16000, samples.tolist())
    online.input_finished()
    return np.stack([online.get_frame(index) for index in range(online.num_frames_ready)])


@pytest.mark.parametrize("num_samples", [400, 4001, 15999, 16079, 16080, 23456])
def test_equal_to_kaldi_native_fbank(num_samples: int) -> None:
    samples = tone(2.0, seed=num_samples)[:num_samples]
    expected = online_features(samples)
    actual = compute_features(torch.from_numpy(samples)).numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize("num_samples", [0, 1, 79, 80, 199, 200, 239, 240, 399, 400, 8000])
def test_any_length_gives_the_counted_frames(num_samples: int) -> None:
    features = compute_features(torch.from_numpy(tone(1.0)[:num_samples]))
    assert features.shape == (num_feature_frames(num_samples), NUM_MEL_BINS)
    assert features.isfinite().all()


def test_frame_rate_is_a_hundred_per_second() -> None:
    assert num_feature_frames(10 * SAMPLE_RATE) == 1000


def test_stats_of_shards_are_the_stats_of_the_whole() -> None:
    frames = np.random.default_rng(0).normal(-5, 3, (700, 80)).astype(np.float32)
    merged = FeatureStats()
    for shard in (frames[:100], frames[100:450], frames[450:]):
        stats = FeatureStats()
        stats.add(shard)
        merged.merge(FeatureStats.from_json(json.loads(json.dumps(stats.to_json()))))
    summary = merged.summary()
    assert summary["num_frames"] == 700
    np.testing.assert_allclose(summary["mean"], frames.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(summary["std"], frames.std(axis=0), rtol=1e-5)


def test_a_constant_bin_keeps_a_usable_deviation() -> None:
    stats = FeatureStats()
    stats.add(np.full((10, 80), -15.9, np.float32))
    assert min(stats.summary()["std"]) > 1e-3  # type: ignore[call-overload]
