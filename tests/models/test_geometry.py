"""How many frames an encoder makes of how many, and when they are."""

import pytest
import torch

from kdasr.models.encoders.base import Geometry
from kdasr.testing import tiny_config


def test_the_default_encoder_has_a_frame_per_40_ms() -> None:
    geometry = tiny_config().geometry
    assert geometry.frame_seconds == 0.04
    # Two convolutions of three frames and stride two see seven frames, of 25 ms each.
    assert geometry.reach_seconds == pytest.approx(0.085)
    # A chunk of 6 frames and a look-ahead of 2 need 8 frames, and three feature frames more.
    assert geometry.window_features(8) == 35
    assert [(layer.dim, layer.stride) for layer in geometry.hidden] == [(16, 4), (16, 4)]


def test_lengths_are_the_same_of_tensors_and_of_numbers() -> None:
    geometry = Geometry(dim=1, stride=8, overlap=5, hidden=(), whole_overlap=-3)
    lens = torch.arange(60)
    for lengths in (geometry.num_frames, geometry.streamed_frames):
        assert lengths(lens).tolist() == [lengths(length) for length in lens.tolist()]


def test_an_encoder_may_pad_the_end_of_whole_utterances() -> None:
    """Zipformer2: (T - 7) // 2 after its front end, then halved, rounded up; windows of 2 c + 13."""
    geometry = Geometry(dim=1, stride=4, overlap=13, hidden=(), whole_overlap=5)
    for length in range(9, 500):
        assert geometry.num_frames(length) == ((length - 7) // 2 + 1) // 2
        assert geometry.streamed_frames(length) <= geometry.num_frames(length)
    assert geometry.window_features(8) == 2 * 16 + 13 and geometry.streamed_frames(45) == 8
