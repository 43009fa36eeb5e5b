"""ScaledAdam (Yao et al. 2024, "Zipformer"): Adam with steps in proportion to the size of each tensor."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

SCALAR_RATE = 0.1
"""Of the learning rate, for parameters of one number, which have no size of their own."""
LARGEST_SCALAR = 10.0
SMALLEST_RMS, LARGEST_RMS = 1e-5, 3.0
PERIOD = 4
"""Steps between two updates of the sizes."""
LARGEST_GROWTH = 0.1
"""Of a tensor's size in one of them."""
SIZE_RATE = 0.1
"""Of the learning rate, for sizes."""
NORMS = 100
"""Steps that the median of the gradient's norm is taken over."""
EARLY = (10, 20, 40)
"""Steps at which there is a median of those so far; the gradient may be twice as far above it."""


class ScaledAdam(Optimizer):
    """Adam that also learns the size of each tensor, and clips gradients at a multiple of their median norm.

    A tensor's step is Adam's times its root mean square. Every fourth step the tensor is also multiplied by a
    number near 1, which takes Adam's steps for the logarithm of its size. There is no weight decay. Gradients
    are clipped by their norm, in which each tensor counts as much as it matters relative to its size.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.98),
        clipping_scale: float = 2.0,
        eps: float = 1e-8,
    ) -> None:
        """
        Args:
            params: in one group.
            lr: learning rate; 0.045 is usual.
            betas: of the momentum and of the mean squares.
            clipping_scale: how far above its median the gradient's norm may be; infinite: anything.
            eps: added to what is divided by.
        """
        defaults = {
            "lr": lr,
            "betas": betas,
            "clipping_scale": clipping_scale,
            "eps": eps,
            "calls": 0,
            "norms": torch.zeros(NORMS),
            "threshold": torch.tensor(torch.inf),
        }
        super().__init__(params, defaults)
        for group in self.param_groups:  # of its own: the defaults are shared
            group["norms"] = torch.zeros(NORMS)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient; `closure` is not supported."""
        assert closure is None
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for p in params:
                if not self.state[p]:
                    self._begin(p)
            factor = self._clipping_factor(params, group)
            by_age: dict[tuple[int, bool], list[Tensor]] = defaultdict(list)
            for p in params:
                by_age[self.state[p]["step"], p.numel() == 1].append(p)
            for (step, is_scalar), some in by_age.items():
                self._update(some, factor, step, is_scalar, group)
            group["calls"] += 1

    def _begin(self, p: Tensor) -> None:
        state = self.state[p]
        state["step"] = 0
        state["momentum"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        state["squares"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        if p.numel() > 1:
            state["rms"] = _rms(p)
            state["size_gradients"] = p.new_zeros(PERIOD)
            state["size_squares"] = p.new_zeros(())

    def _clipping_factor(self, params: list[Tensor], group: dict[str, Any]) -> Tensor | None:
        """What gradients are multiplied by; None: 1."""
        calls, scale = group["calls"], group["clipping_scale"]
        if calls == 0 or scale == torch.inf:
            return None
        device = params[0].device
        norms, threshold = group["norms"].to(device), group["threshold"].to(device)
        weights = [self.state[p]["rms"] if p.numel() > 1 else SCALAR_RATE for p in params]
        sizes = torch._foreach_norm([cast(Tensor, p.grad) for p in params])
        norm = torch.stack([size * weight for size, weight in zip(sizes, weights, strict=True)]).norm()
        norms[calls % NORMS] = norm
        is_early = calls in EARLY
        if is_early or calls % NORMS == 0:
            recent = norms.sort().values[-calls if is_early else 0 :]
            median = recent[min(len(recent) - 1, 2 * (len(recent) // 4))]
            threshold = scale * (2.0 if is_early else 1.0) * median
        group["norms"], group["threshold"] = norms, threshold
        if calls < EARLY[0]:
            return None
        return (threshold / (norm + 1e-20)).clamp(max=1.0).nan_to_num(nan=0.0)

    def _update(
        self, params: list[Tensor], factor: Tensor | None, step: int, is_scalar: bool, group: dict[str, Any]
    ) -> None:
        """Some parameters of the same age, all scalars or all tensors."""
        lr, eps, (beta1, beta2) = group["lr"], group["eps"], group["betas"]
        states = [self.state[p] for p in params]
        gradients = [cast(Tensor, p.grad) for p in params]
        if factor is not None:
            gradients = [torch.where(factor > 0, g * factor, 0.0) for g in gradients]
        squares = [state["squares"] for state in states]
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        roots = list(torch._foreach_sqrt(squares))
        correction = 1 - beta2 ** (step + 1)
        if correction < 0.99:
            torch._foreach_div_(roots, correction**0.5)
        torch._foreach_add_(roots, eps)
        changes = list(torch._foreach_div(gradients, roots))
        torch._foreach_mul_(changes, -lr * (SCALAR_RATE if is_scalar else 1.0))
        if not is_scalar:
            self._scale(params, gradients, changes, step, group)
        momentum = [state["momentum"] for state in states]
        torch._foreach_mul_(momentum, beta1)
        torch._foreach_add_(momentum, changes, alpha=1 - beta1)
        torch._foreach_add_(params, momentum)
        if is_scalar:
            torch._foreach_clamp_max_(params, LARGEST_SCALAR)
            torch._foreach_clamp_min_(params, -LARGEST_SCALAR)
        for state in states:
            state["step"] = step + 1

    def _scale(
        self,
        params: list[Tensor],
        gradients: list[Tensor],
        changes: list[Tensor],
        step: int,
        group: dict[str, Any],
    ) -> None:
        """Make changes proportional to the sizes, and add those of the sizes when it is time."""
        place, is_time = step % PERIOD, step % PERIOD == PERIOD - 1
        products = torch._foreach_mul(params, gradients)
        for p, product, change in zip(params, products, changes, strict=True):
            state = self.state[p]
            state["size_gradients"][place] = product.sum()
            if is_time:
                state["rms"] = _rms(p)
            change *= state["rms"].clamp(min=SMALLEST_RMS)
            if is_time:
                change += p * self._growth(state, step, group)

    @staticmethod
    def _growth(state: dict[str, Any], step: int, group: dict[str, Any]) -> Tensor:
        """By what share of itself a tensor is to grow."""
        decay = group["betas"][1] ** PERIOD
        gradients, squares, rms = state["size_gradients"], state["size_squares"], state["rms"]
        squares.mul_(decay).add_(gradients.square().mean(), alpha=1 - decay)
        correction = (1 - decay ** ((step + 1) // PERIOD)) ** 0.5
        growth = -SIZE_RATE * group["lr"] * correction * gradients.sum() / (squares.sqrt() + group["eps"])
        growth = torch.where(rms < SMALLEST_RMS, 0.0, growth).clamp(-LARGEST_GROWTH, LARGEST_GROWTH)
        return growth.minimum((LARGEST_RMS - rms) / rms)


def _rms(p: Tensor) -> Tensor:
    return p.square().mean().sqrt()
