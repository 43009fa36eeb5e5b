"""Two processes of one group, as torchrun starts them; importable by them."""

import os
import socket

import torch
from tiny_system import processes


def under_torchrun(rank: int, port: int) -> None:
    """Set what torchrun sets, which gives each of several processes one thread."""
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        GROUP_RANK="0",
        TORCHELASTIC_RUN_ID="test",
    )


def run_two(target: object, *arguments: object) -> list[int | None]:
    """Run `target(rank, port, *arguments)` in two processes; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [processes.Process(target=target, args=(rank, port, *arguments)) for rank in range(2)]  # type: ignore[arg-type]
    for child in children:
        child.start()
    for child in children:
        # Processes that do not agree wait for each other.
        child.join(timeout=200)
        child.kill()
        child.join()
    return [child.exitcode for child in children]
