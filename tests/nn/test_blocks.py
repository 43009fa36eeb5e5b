"""Cutting frames into blocks and giving blocks their left context."""

import pytest
import torch

from kdasr.nn.blocks import main_frames, plan_blocks, to_blocks, with_left_context


def numbered_frames(num_frames: int) -> torch.Tensor:
    return torch.arange(1.0, num_frames + 1).view(1, num_frames, 1)


def test_blocks_by_hand():
    blocks_BNWD = to_blocks(numbered_frames(5), chunk=2, right=1)
    assert blocks_BNWD[0, :, :, 0].tolist() == [[1, 2, 3], [3, 4, 5], [5, 0, 0]]


def test_left_context_by_hand():
    blocks_BNWD = to_blocks(numbered_frames(5), chunk=2, right=1)
    cache_BLD = torch.tensor([-3.0, -2.0, -1.0]).view(1, 3, 1)
    joined_BNKD, next_cache_BLD = with_left_context(cache_BLD, blocks_BNWD, chunk=2)
    assert joined_BNKD[0, :, :, 0].tolist() == [
        [-3, -2, -1, 1, 2, 3],
        [-1, 1, 2, 3, 4, 5],
        [2, 3, 4, 5, 0, 0],
    ]
    assert next_cache_BLD[0, :, 0].tolist() == [4, 5, 0]


@pytest.mark.parametrize("right", [0, 1, 4])
@pytest.mark.parametrize("chunk", [1, 3, 7, 20])
def test_main_frames_undo_blocks(chunk, right):
    x_BTD = torch.randn(2, 17, 3)
    assert torch.equal(main_frames(to_blocks(x_BTD, chunk, right), chunk)[:, :17], x_BTD)


@pytest.mark.parametrize("left", [0, 2, 5])
def test_one_block_at_a_time_equals_all_at_once(left):
    x_BTD = torch.randn(2, 12, 3)
    blocks_BNWD = to_blocks(x_BTD, chunk=3, right=2)
    cache_BLD = torch.randn(2, left, 3)
    whole_BNKD, last_BLD = with_left_context(cache_BLD, blocks_BNWD, chunk=3)
    for n in range(4):
        joined_BNKD, cache_BLD = with_left_context(cache_BLD, blocks_BNWD[:, n : n + 1], chunk=3)
        assert torch.equal(joined_BNKD[:, 0], whole_BNKD[:, n])
    assert torch.equal(cache_BLD, last_BLD)


def test_masks_by_hand():
    x_BNWD = torch.zeros(2, 2, 3, 4)
    plan = plan_blocks(
        x_BNWD, lens_B=torch.tensor([4, 1]), processed_B=torch.tensor([0, 1]), left=2, chunk=2, head_dim=4
    )
    assert plan.valid_BNW1[..., 0].int().tolist() == [[[1, 1, 1], [1, 1, 0]], [[1, 0, 0], [0, 0, 0]]]
    assert plan.visible_BN1K[:, :, 0].int().tolist() == [
        [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]],
        [[0, 1, 1, 0, 0], [1, 0, 0, 0, 0]],
    ]


def test_a_block_that_sees_nothing_is_shown_everything():
    plan = plan_blocks(
        torch.zeros(1, 3, 2, 4), torch.tensor([1]), torch.tensor([0]), left=1, chunk=2, head_dim=4
    )
    assert plan.visible_BN1K[0, :, 0].int().tolist() == [[0, 1, 0], [1, 1, 1], [1, 1, 1]]
