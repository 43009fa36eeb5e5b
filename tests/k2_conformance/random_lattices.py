"""Small random lattices, and how k2's results on them are compared with the native ones.

Shapes: B utterances, S symbols, T frames, K states of a pruned band, V classes.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

RNNT_TYPES = ("regular", "modified", "constrained")
SEEDS = range(200)
TOLERANCES = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    # Scores reach 100 and more, whose float32 neighbors are 1e-5 apart.
    torch.float32: {"rtol": 1e-5, "atol": 3e-5},
}


@dataclass(frozen=True)
class Case:
    """One batch for the losses."""

    am: Tensor  # (B, T, V)
    lm: Tensor  # (B, S + 1, V)
    symbols: Tensor  # (B, S)
    blank: int
    boundary: Tensor | None  # (B, 4)
    rnnt_type: str
    delay_penalty: float
    weights_B: Tensor  # what each utterance's loss counts in the sum that is differentiated
    s_range: int

    @property
    def common(self) -> dict[str, Any]:
        """Arguments that every loss takes."""
        return {
            "symbols": self.symbols,
            "termination_symbol": self.blank,
            "boundary": self.boundary,
            "rnnt_type": self.rnnt_type,
            "delay_penalty": self.delay_penalty,
        }

    @property
    def logits(self) -> Tensor:
        """A joiner's output on the whole lattice, `(B, T, S + 1, V)`."""
        return 3 * torch.tanh(self.am[:, :, None] + self.lm[:, None])

    @property
    def filled_boundary(self) -> Tensor:
        """The boundary, spelled out when it is None."""
        if self.boundary is not None:
            return self.boundary
        batch, num_symbols = self.symbols.shape
        return torch.tensor([[0, 0, num_symbols, self.am.shape[1]]]).repeat(batch, 1)

    def to(self, dtype: torch.dtype) -> "Case":
        """The same batch in another precision."""
        return replace(self, am=self.am.to(dtype), lm=self.lm.to(dtype), weights_B=self.weights_B.to(dtype))


def make_case(seed: int, rnnt_type: str, sizes: tuple[int, int] | None = None) -> Case:
    """A random batch in float64, with random padding.

    Args:
        seed: a case's name; with `rnnt_type` and `sizes`, it fixes everything.
        rnnt_type: regular | modified | constrained.
        sizes: `(S, T)`; None: 1 <= S <= T as k2 asks of the tensors, while an utterance may still have
            more symbols than frames, or none.
    """
    rng = random.Random(f"{seed} {rnnt_type} {sizes}")
    batch, num_classes = rng.randint(1, 4), rng.randint(3, 8)
    num_frames = sizes[1] if sizes else rng.randint(1, 12)
    num_symbols = sizes[0] if sizes else rng.randint(1, min(10, num_frames))
    boundary = None
    if rng.random() < 0.8:
        boundary = torch.zeros(batch, 4, dtype=torch.int64)
        for row in boundary:
            frames = rng.choice((num_frames, rng.randint(0, num_frames)))
            # Most utterances of the types that take a frame for each symbol are possible ones.
            most = num_symbols if rnnt_type == "regular" or rng.random() < 0.1 else min(num_symbols, frames)
            row[2], row[3] = rng.choice((most, rng.randint(0, most))), frames
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    scale = rng.choice((0.3, 1.0, 4.0))

    def scores(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    return Case(
        am=scores(batch, num_frames, num_classes),
        lm=scores(batch, num_symbols + 1, num_classes),
        symbols=torch.randint(num_classes, (batch, num_symbols), generator=generator),
        blank=rng.randrange(num_classes),
        boundary=boundary,
        rnnt_type=rnnt_type,
        # Multiples of 1/16 are exact: k2 computes the penalty of a ragged batch in float32.
        delay_penalty=rng.choice((0.0, 0.0625, 0.5)),
        weights_B=torch.rand(batch, generator=generator, dtype=torch.float64) + 0.5,
        s_range=rng.randint(2, num_symbols + 2),
    )


Loss = Callable[..., Tensor]


def assert_same_loss(theirs: Loss, ours: Loss, inputs: Sequence[Tensor], weights_B: Tensor) -> None:
    """Values agree, infinite ones too, and so do the gradients of the possible utterances.

    `theirs` and `ours` take the inputs and return `(B,)`. Utterances without any path are left out of k2's
    sum, see `test_impossible_utterances`; in ours they take part, and must add nothing.
    """
    results = []
    for loss in (theirs, ours):
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        results.append((loss(*leaves), leaves))
    (k2s, k2_leaves), (native, leaves) = results
    assert native.dtype == k2s.dtype and not k2s.isnan().any()
    tolerance = TOLERANCES[native.dtype]
    torch.testing.assert_close(native, k2s, **tolerance)
    possible = k2s.isfinite()
    (native * weights_B).sum().backward()
    (k2s * weights_B)[possible].sum().backward()
    for leaf, k2_leaf in zip(leaves, k2_leaves, strict=True):
        torch.testing.assert_close(leaf.grad, k2_leaf.grad, **tolerance)
