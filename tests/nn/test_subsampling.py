"""The front end: lengths, windows, normalization."""

import pytest
import torch

from kdasr.nn.subsampling import ConvSubsampling, FeatureNorm, subsampled_length


@pytest.fixture(scope="module")
def front_end() -> ConvSubsampling:
    torch.manual_seed(0)
    return ConvSubsampling(num_features=20, channels=3, dim=8).double()


def test_lengths_agree_with_the_convolutions(front_end):
    for num_frames in range(61):
        produced = front_end(torch.zeros(2, num_frames, 20, dtype=torch.float64))
        expected = subsampled_length(num_frames)
        assert produced.shape == (2, expected, 8), num_frames
        assert subsampled_length(torch.tensor([num_frames])).tolist() == [expected]


def test_a_chunk_is_four_frames_per_output_and_three_more():
    assert [subsampled_length(4 * n + 3) for n in range(5)] == [0, 1, 2, 3, 4]
    assert [subsampled_length(n) for n in (0, 6, 7, 10, 11)] == [0, 0, 1, 1, 2]


def test_a_window_gives_the_frames_of_the_whole(front_end):
    features_BTF = torch.randn(1, 91, 20, dtype=torch.float64)
    whole_BUD = front_end(features_BTF)
    for first in (0, 5, 12):
        window_BUD = front_end(features_BTF[:, 4 * first : 4 * (first + 6) + 3])
        assert torch.allclose(window_BUD, whole_BUD[:, first : first + 6], atol=1e-12, rtol=0)


def test_each_frame_depends_on_its_seven_feature_frames_only(front_end):
    features_BTF = torch.randn(1, 43, 20, dtype=torch.float64, requires_grad=True)
    front_end(features_BTF)[0, 4].sum().backward()
    touched = features_BTF.grad[0].abs().sum(1).nonzero().flatten().tolist()
    assert touched == list(range(16, 23))


def test_statistics_normalize():
    features_TF = 3.0 + 2.0 * torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    norm = FeatureNorm(4)
    assert torch.equal(norm(features_TF), features_TF)
    norm.set_stats(features_TF.mean(0), features_TF.std(0))
    normalized_TF = norm(features_TF)
    assert torch.allclose(normalized_TF.mean(0), torch.zeros(4), atol=1e-4)
    assert torch.allclose(normalized_TF.std(0), torch.ones(4), atol=1e-4)


def test_a_constant_feature_is_not_blown_up():
    norm = FeatureNorm(1)
    norm.set_stats(torch.tensor([-15.9]), torch.tensor([0.0]))
    assert norm(torch.full((3, 1), -15.9)).abs().max() < 1e-2
