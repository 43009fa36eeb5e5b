"""`rnnt`: the simple and the pruned transducer loss, with the warm-up of their weights."""

from collections.abc import Mapping

import torch
from torch import Tensor

from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.terms.base import Found, Given, LatticeTerm, Need, Setup, Unit, register


def is_warm(config: RnntConfig, step: int) -> bool:
    """Whether the warm-up is over."""
    return step >= config.warmup_steps


def warmup_scales(config: RnntConfig, step: int) -> tuple[float, float]:
    """Weights of the simple and of the pruned loss at a step.

    While the simple joiner cannot align yet, its pruning is arbitrary, so the simple loss leads (Kuang et
    al. 2022, section 4).
    """
    progress = min(step / config.warmup_steps, 1.0) if config.warmup_steps > 0 else 1.0
    simple = 1.0 + progress * (config.simple_scale - 1.0)
    pruned = config.pruned_start + progress * (1.0 - config.pruned_start)
    return simple, pruned


def rnnt_term(config: RnntConfig, step: int, simple_B: Tensor, pruned_B: Tensor) -> Tensor:
    """The transducer loss of each utterance in nats, `(B,)`."""
    simple_scale, pruned_scale = warmup_scales(config, step)
    loss_B = simple_scale * simple_B + pruned_scale * pruned_B
    # Infinite where no path fits, also beside a weight of 0, which would make it NaN.
    lost_B = (simple_B.detach() == torch.inf) | (pruned_B.detach() == torch.inf)
    return loss_B.masked_fill(lost_B, torch.inf)


@register
class RnntTerm(LatticeTerm):
    """Pruned RNN-T (Kuang et al. 2022); also logs its two parts, `rnnt_simple` and `rnnt_pruned`."""

    name = "rnnt"
    title = "transducer loss (rnnt), nats per frame"
    unit = Unit.FRAME
    needs = frozenset({Need.TEXT})
    settings = RnntConfig
    place = 0
    trains_simple = True

    def __init__(self, config: RnntConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def build(cls, setup: Setup) -> "RnntTerm":
        """With the settings of the lattice, which are its own."""
        return cls(setup.rnnt)

    def collect(self, found: Found, given: Given) -> Mapping[str, Tensor]:
        """The loss in nats."""
        simple_B = found.lattice.simple_B
        loss_B = rnnt_term(self.config, given.step, simple_B, found.rnnt_B)
        return {"rnnt": loss_B, "rnnt_simple": simple_B, "rnnt_pruned": found.rnnt_B}
