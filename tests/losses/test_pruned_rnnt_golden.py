"""k2's own numbers (k2 1.23.4 on the CPU) on one small utterance."""

import pytest
import torch

from kdasr.losses import pruned_rnnt

LM = torch.tensor([[[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [2, 2, 0]]])
AM = torch.tensor([[[0.0, 1, 2], [0, 0, 0], [0, 2, 4], [0, 3, 3]]])
SYMBOLS = torch.tensor([[0, 1, 0]])
BLANK = 2
WHOLE = torch.tensor([[0, 0, 3, 4]])

GOLDEN = {
    "simple": (7.504013, 6.545785, 9.658769),
    "delay_penalty": (7.531423, 6.597026, 9.709360),
    "smoothed": (7.342213, 5.669841, 9.110663),
    "boundary": (3.030034, 3.221261, 4.218838),
    "range 2": (10.147550, 6.545785, 10.147550),
    "range 2, tanh": (6.820409, 3.341190, 6.820409),
    "range 3": (7.842868, 6.545785, 9.737698),
}
CASES = [
    (name, rnnt_type, value)
    for name, values in GOLDEN.items()
    for rnnt_type, value in zip(("regular", "modified", "constrained"), values, strict=True)
]


def pruned(s_range: int, rnnt_type: str, tanh: bool) -> torch.Tensor:
    _, grads = pruned_rnnt.rnnt_loss_simple(LM, AM, SYMBOLS, BLANK, WHOLE, rnnt_type, return_grad=True)
    ranges = pruned_rnnt.get_rnnt_prune_ranges(*grads, WHOLE, s_range)
    if s_range == 2:
        assert ranges[0, :, 0].tolist() == [0, 0, 1, 2]
    am, lm = pruned_rnnt.do_rnnt_pruning(AM, LM, ranges)
    logits = torch.tanh(am + lm) if tanh else am + lm
    return pruned_rnnt.rnnt_loss_pruned(logits, SYMBOLS, ranges, BLANK, WHOLE, rnnt_type)


def evaluate(name: str, rnnt_type: str) -> torch.Tensor:
    if name == "simple":
        return pruned_rnnt.rnnt_loss_simple(LM, AM, SYMBOLS, BLANK, rnnt_type=rnnt_type)
    if name == "delay_penalty":
        return pruned_rnnt.rnnt_loss_simple(LM, AM, SYMBOLS, BLANK, rnnt_type=rnnt_type, delay_penalty=0.1)
    if name == "smoothed":
        return pruned_rnnt.rnnt_loss_smoothed(LM, AM, SYMBOLS, BLANK, 0.25, 0.0, rnnt_type=rnnt_type)
    if name == "boundary":
        boundary = torch.tensor([[0, 0, 2, 3]])
        return pruned_rnnt.rnnt_loss_simple(LM, AM, SYMBOLS, BLANK, boundary, rnnt_type)
    return pruned(int(name.split()[1].strip(",")), rnnt_type, tanh="tanh" in name)


@pytest.mark.parametrize(("name", "rnnt_type", "value"), CASES)
def test_value_is_k2s(name: str, rnnt_type: str, value: float) -> None:
    torch.testing.assert_close(evaluate(name, rnnt_type).item(), value, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize(("rnnt_type", "value"), [("regular", 7.504013), ("modified", 6.545785)])
def test_unpruned_loss_of_the_additive_joiner_is_the_simple_loss(rnnt_type: str, value: float) -> None:
    logits = AM[:, :, None] + LM[:, None]
    loss = pruned_rnnt.rnnt_loss(logits, SYMBOLS, BLANK, rnnt_type=rnnt_type)
    torch.testing.assert_close(loss.item(), value, atol=2e-6, rtol=1e-6)
