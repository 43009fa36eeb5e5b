"""The GPUs of this machine, shared out among jobs that run side by side."""

import os

from kdasr.common.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    if given is None:
        return [str(number) for number in range(count)]
    return [name.strip() for name in given.split(",") if name.strip()][:count]


def share_devices(num: int, jobs: int) -> list[list[str]]:
    """The first `num` GPUs in as many groups as there are jobs side by side.

    Raises:
        UserError: there are fewer, or they cannot be shared out evenly.
    """
    if num % jobs:
        raise UserError(f"--gpus {num}: cannot be shared out evenly among --jobs {jobs}")
    found = visible_devices()
    if len(found) < num:
        limit = f" ({VISIBLE}={os.environ[VISIBLE]})" if VISIBLE in os.environ else ""
        raise UserError(f"--gpus {num}: only {len(found)} can be used here{limit}; see `kdasr info`")
    size = num // jobs
    return [found[start : start + size] for start in range(0, num, size)]
