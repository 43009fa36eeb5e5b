"""What `kdasr decode` and `kdasr stream` recognize with, a trained or an exported system, and where."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.common.errors import UserError
from kdasr.common.ranks import Ranks

if TYPE_CHECKING:
    from kdasr.bundle import Bundle

int8_option = click.option("--int8", is_flag=True, help="The int8 graphs of an exported bundle.")

device_option = click.option(
    "--device", default="cpu", show_default=True, help="What computes: cpu, cuda, cuda:1, ..."
)
"""The same in every command: never a sound device."""

checkpoint_option = click.option(
    "--checkpoint",
    default="auto",
    show_default=True,
    help="averaged, best, last, a file, or auto: the first of these that exists.",
)

threads_option = click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of one operator."
)


def load_recognizable(
    path: Path, checkpoint: str, *, int8: bool, threads: int, as_trained: bool = False
) -> "Bundle":
    """The system in an experiment folder, a checkpoint file, or an exported folder.

    Args:
        path: where it is.
        checkpoint: which one of an experiment folder; see `load_bundle`.
        int8: the int8 graphs; exported bundles only.
        threads: of torch, or of onnxruntime.
        as_trained: without what `kdasr calibrate` found; not for exported bundles, which hold it.

    Raises:
        UserError: nothing usable there, a checkpoint or `as_trained` asked of a bundle, or int8 asked of a
            checkpoint.
    """
    import torch

    from kdasr.bundle import load_bundle
    from kdasr.export.foreign import is_exported

    torch.set_num_threads(threads)
    if not is_exported(path):
        if int8:
            raise UserError(f"--int8: {path} is not an exported bundle")
        return load_bundle(path, checkpoint, as_trained=as_trained)
    if checkpoint != "auto":
        raise UserError(f"--checkpoint {checkpoint}: {path} is an exported bundle, which has no checkpoints")
    if as_trained:
        raise UserError(f"--as-trained: {path} is an exported bundle, whose calibration is part of it")
    from kdasr.export.runtime import load_exported

    return load_exported(path, int8=int8, threads=threads)


def device_of(device: str, ranks: Ranks) -> str:
    """The device of one of several processes: `cuda` is another GPU for each of a machine."""
    return f"cuda:{ranks.local_rank}" if device == "cuda" and not ranks.is_alone else device


def move_to(model: Any, device: str) -> None:
    """Move a model to a device.

    Raises:
        UserError: there is no such device.
    """
    try:
        model.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None
