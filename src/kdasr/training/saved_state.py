"""What `last.pt` holds of a training, and how it is taken back."""

from dataclasses import asdict
from typing import Any, NamedTuple

from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from kdasr.checkpoint import load_weights
from kdasr.common.configio import config_to_dict
from kdasr.common.logging import get_logger
from kdasr.training.average import RunningAverage
from kdasr.training.metrics import Meter
from kdasr.training.resume import (
    Progress,
    last_checkpoint,
    load_resume,
    own_state,
    rng_state,
    seed_everything,
    set_rng_state,
)
from kdasr.training.system import System

logger = get_logger(__name__)

_OF_THIS_START = ("teacher", "teacher_sha256", "more_teachers", "batches_per_step")
"""What `Progress` holds of the command that runs, not of the checkpoint."""


class Restored(NamedTuple):
    """What is taken back later than the weights: an optimizer and an average are made at each stage."""

    progress: Progress
    optimizer: dict[str, Any]
    average: dict[str, Any] | None
    """State of the running average, with its weights as `model`; None without one."""


def result_so_far(system: System, model: nn.Module, progress: Progress) -> dict[str, Any]:
    """What every checkpoint of a training holds: the weights of `model`, and what they are of."""
    return {
        "model_config": config_to_dict(system.model.config),
        "model": _weights(model),
        "context": asdict(system.contexts[0]),
        "tokenizer_fingerprint": system.tokenizer.fingerprint,
        "system": system.name,
        "train_steps": progress.step,
    }


def state_of_process(system: System, meter: Meter) -> dict[str, Any]:
    """What each process has of its own: its place in the batches, random numbers, what is not logged yet, and
    the model's buffers, such as the amount of speech that it has heard."""
    kept = system.model.state_dict()
    buffers = {name: kept[name].cpu() for name, _ in system.model.named_buffers() if name in kept}
    return {
        "batches": system.train_batches.state_dict(),
        "rng": rng_state(),
        "meter": meter.state_dict(),
        "buffers": buffers,
    }


def state_of_training(
    system: System,
    progress: Progress,
    optimizer: Optimizer,
    average: RunningAverage | None,
    processes: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a resume needs beside `result_so_far`, of all processes."""
    state = {
        "progress": asdict(progress),
        "objective": system.objective.state_dict(),
        "optimizer": optimizer.state_dict(),
        "processes": processes,
    }
    if average is not None:
        state |= {"average": average.state_dict(), "weights": _weights(system.model)}
    return state


def restore_state(system: System, meter: Meter, progress: Progress, fabric: Fabric) -> Restored | None:
    """Put a system back to where its `last.pt` stands; None where there is none.

    Args:
        system: gets the weights, and its place in the batches.
        meter: gets what was not logged yet.
        progress: of a system that begins anew in this command.
        fabric: the processes.

    Raises:
        UserError: a damaged checkpoint, or one of another architecture.
    """
    payload = load_resume(system.exp_dir)
    if payload is None:
        return None
    state, source = payload["trainer"], str(last_checkpoint(system.exp_dir))
    own = own_state(state["processes"], fabric)
    weights = {**state.get("weights", payload["model"]), **own.get("buffers", {})}
    load_weights(system.model, weights, source)
    load_weights(system.objective, state["objective"], source)
    now = {name: getattr(progress, name) for name in _OF_THIS_START}
    progress = Progress(**{**state["progress"], **now})
    system.train_batches.load_state_dict(own["batches"])
    if "rng" in own:
        meter.load_state_dict(own["meter"], fabric.device)
        set_rng_state(own["rng"])
    else:
        seed_everything(system.seed + progress.step, rank=fabric.global_rank)
        logger.info("%d process(es) go on where %d were", fabric.world_size, len(state["processes"]))
    logger.info("resuming from %s at step %d", source, progress.step)
    average = {**state["average"], "model": payload["model"]} if "average" in state else None
    return Restored(progress, state["optimizer"], average)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
