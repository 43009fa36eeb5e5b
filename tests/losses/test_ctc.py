import torch

from kdasr.losses.ctc import ctc_loss


def test_known_values() -> None:
    logits = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    loss = ctc_loss(
        logits, torch.tensor([1, 2, 2]), torch.tensor([[1, 1], [2, 1], [1, 2]]), torch.tensor([1, 1, 0])
    )
    two_frames = p[1, 0, 2] * p[1, 1, 2] + p[1, 0, 0] * p[1, 1, 2] + p[1, 0, 2] * p[1, 1, 0]
    expected = -torch.stack((p[0, 0, 1], two_frames, p[2, 0, 0] * p[2, 1, 0])).log()
    torch.testing.assert_close(loss, expected)


def test_padding_is_ignored() -> None:
    logits = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    lens, tokens, token_lens = (
        torch.tensor([6, 3]),
        torch.tensor([[1, 2, 2], [4, 0, 0]]),
        torch.tensor([3, 1]),
    )
    noisy, noisy_tokens = logits.clone(), tokens.clone()
    noisy[1, 3:], noisy_tokens[1, 1:] = 20.0, 3
    noisy.requires_grad_()
    loss = ctc_loss(noisy, lens, noisy_tokens, token_lens)
    torch.testing.assert_close(loss, ctc_loss(logits, lens, tokens, token_lens))
    loss.sum().backward()
    assert noisy.grad is not None and not noisy.grad[1, 3:].any()


def test_what_cannot_align_costs_nothing_and_has_no_gradient() -> None:
    logits = torch.randn(3, 4, 5, requires_grad=True)
    # A repeated piece needs a blank between: three frames for two. The last utterance has no frames.
    loss = ctc_loss(
        logits, torch.tensor([2, 4, 0]), torch.tensor([[1, 1], [1, 1], [2, 0]]), torch.tensor([2, 2, 1])
    )
    loss.sum().backward()
    assert loss[0] == 0 and loss[1] > 0 and loss[2] == 0
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert not logits.grad[[0, 2]].any()


def test_a_batch_of_empty_transcripts() -> None:
    logits = torch.randn(2, 4, 5, requires_grad=True)
    empty = torch.zeros(2, 0, dtype=torch.int64)
    loss = ctc_loss(logits, torch.tensor([4, 2]), empty, torch.tensor([0, 0]))
    log_blank = logits.log_softmax(-1)[..., 0]
    torch.testing.assert_close(loss, -torch.stack((log_blank[0].sum(), log_blank[1, :2].sum())))
    loss.sum().backward()


def test_autocast_gives_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ctc_loss(
            torch.randn(1, 4, 5).bfloat16(), torch.tensor([4]), torch.tensor([[1]]), torch.tensor([1])
        )
    assert loss.dtype == torch.float32
