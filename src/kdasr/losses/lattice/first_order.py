"""Backward passes that have no derivative of their own."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse to be differentiated again: what a forward pass has already summed up is a constant here.

    torch's `once_differentiable` refuses only where the incoming gradient requires one, and gives wrong
    second derivatives elsewhere.

    Raises:
        RuntimeError: in a backward pass with `create_graph=True`.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the transducer losses have first derivatives only: create_graph=True is refused"
            )
        return backward(ctx, *gradients)

    return checked
