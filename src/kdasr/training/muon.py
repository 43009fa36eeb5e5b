"""Muon for the encoder's matrices beside AdamW for everything else, as one optimizer."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonWithAdamW(Optimizer):
    """Orthogonalised momentum (Muon, Jordan et al. 2024) for matrices, AdamW for the other parameters.

    Muon's step is scaled to the size of AdamW's (Liu et al. 2025, "Muon is scalable for LLM training"), so
    that one learning rate serves both.
    """

    def __init__(
        self,
        matrices: Sequence[nn.Parameter],
        adamw_groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        """
        Args:
            matrices: two-dimensional parameters for Muon.
            adamw_groups: parameter groups for AdamW.
            lr: learning rate of both.
            betas: of AdamW.
            weight_decay: of Muon; that of AdamW is in its groups.
        """
        self.muon = Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.adamw = AdamW(adamw_groups, lr=lr, betas=betas, fused=True)
        # The base class would build groups of its own; ours are the parts', shared with them.
        self.defaults: dict[str, Any] = {"lr": lr}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of both parts: writing a learning rate here reaches the part."""
        return [*self.muon.param_groups, *self.adamw.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters; `closure` is not supported."""
        assert closure is None
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients."""
        self.muon.zero_grad(set_to_none)
        self.adamw.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both parts."""
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])


def is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon may update it: a matrix inside the encoder, neither an embedding nor an output layer."""
    return parameter.ndim == 2 and "encoder" in name.split(".")
