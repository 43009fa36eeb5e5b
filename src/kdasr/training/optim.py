"""The optimizer and its learning rate: warm-up, then a decay that ends with the stage."""

import math
from collections.abc import Iterable

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from kdasr.distillation.objective_config import StageConfig
from kdasr.training.muon import MuonWithAdamW, is_hidden_matrix
from kdasr.training.scaled_adam import ScaledAdam
from kdasr.training.training_config import OptimConfig

EDEN_START = 0.1
"""Share of the peak that Eden's warm-up begins with."""


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig) -> Optimizer:
    """AdamW (Loshchilov and Hutter 2019); ScaledAdam; or Muon for the encoder's matrices, AdamW for the rest.

    Vectors (biases, norms) and scalars are not decayed. The fused form of AdamW is used on every device: on
    one CPU thread it takes a quarter of the time of the others.
    """
    trained = [(name, parameter) for name, parameter in named_parameters if parameter.requires_grad]
    betas = (config.betas[0], config.betas[1])
    if config.optimizer == "scaled-adam":
        return ScaledAdam(
            [parameter for _, parameter in trained],
            lr=config.learning_rate,
            betas=betas,
            clipping_scale=config.clipping_scale,
        )
    matrices = [p for name, p in trained if config.optimizer == "muon" and is_hidden_matrix(name, p)]
    taken = set(map(id, matrices))
    rest = [p for _, p in trained if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if matrices and groups:
        return MuonWithAdamW(
            matrices, groups, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay
        )
    if matrices:
        return Muon(
            matrices,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
    return AdamW(groups, lr=config.learning_rate, betas=betas, fused=True)


def learning_rate_factor(step: int, *, warmup_steps: int, num_steps: int, decay: str, final: float) -> float:
    """Share of the peak learning rate for the optimizer step number `step` (from 0) of a stage.

    Linear warm-up: step 0 takes 1 / warmup_steps, step warmup_steps - 1 takes the peak. Then cosine or
    linear down to `final` at the last step; inverse-sqrt: sqrt(warmup / step), never below `final`; or
    constant.
    A stage shorter than the warm-up ends on the way up.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if decay == "constant":
        return 1.0
    if decay == "inverse-sqrt":
        return max(final, math.sqrt(max(warmup_steps, 1) / (step + 1)))
    after = max(num_steps - max(warmup_steps, 1), 1)
    progress = min((step + 1 - max(warmup_steps, 1)) / after, 1.0)
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if decay == "cosine" else 1 - progress
    return final + (1 - final) * shape


def eden_factor(
    steps: float, epochs: float, step: int, warmup_steps: int, start: float = EDEN_START
) -> float:
    """Share of the peak learning rate by Eden (Yao et al. 2024).

    Args:
        steps: steps so far, in units of those at which the first factor bends.
        epochs: epochs so far, in units of those at which the second one does.
        step: steps so far.
        warmup_steps: of a linear rise.
        start: share that the rise begins with.
    """
    rise = start + (1 - start) * step / warmup_steps if step < warmup_steps else 1.0
    return float(rise * (steps**2 + 1) ** -0.25 * (epochs**2 + 1) ** -0.25)


def scheduled_learning_rate(config: OptimConfig, stage: StageConfig, stage_step: int) -> float:
    """The learning rate of optimizer step number `stage_step` (from 0) of a stage."""
    peak = config.learning_rate if stage.learning_rate is None else stage.learning_rate
    warmup_steps = config.warmup_steps if stage.warmup_steps is None else stage.warmup_steps
    if config.decay == "eden":
        epochs = stage_step // config.steps_per_epoch / config.eden_epochs if config.steps_per_epoch else 0.0
        return peak * eden_factor(stage_step / config.eden_steps, epochs, stage_step, warmup_steps)
    return peak * learning_rate_factor(
        stage_step,
        warmup_steps=warmup_steps,
        num_steps=stage.steps,
        decay=config.decay,
        final=config.final_fraction,
    )


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The 2-norm of all gradients together, as a scalar tensor (no synchronization with the device)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return nn.utils.get_total_norm(gradients)
