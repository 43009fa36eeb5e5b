"""Devices and precision, by Lightning Fabric."""

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from kdasr.common.errors import UserError
from kdasr.common.ranges import check_options
from kdasr.training.training_config import TrainerConfig


def make_fabric(config: TrainerConfig) -> Fabric:
    """One device; or, under `torchrun`, one process of a DDP group (nccl on CUDA, gloo on the CPU).

    Raises:
        UserError: an unknown or absent accelerator, or an option of `config` that is out of range.
    """
    check_options(config, "training")
    if config.num_threads > 0:
        torch.set_num_threads(config.num_threads)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    # A stage need not use every head: which ones is a matter of its loss weights and of the batch.
    ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            precision=config.precision,  # type: ignore[arg-type]
            strategy=ddp if world_size > 1 else "auto",
            devices=processes_here,
            num_nodes=world_size // processes_here,
        )
    except (ValueError, RuntimeError) as error:
        raise UserError(f"training.accelerator: '{config.accelerator}': {error}") from None
    fabric.launch()
    return fabric
