"""`rnnt`: the simple and the pruned transducer loss, with the warm-up of their weights."""

from torch import Tensor

from kdasr.distillation.config import RnntConfig


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
    return simple_scale * simple_B + pruned_scale * pruned_B
