"""`kdasr info`: what this installation runs on."""

import importlib.metadata
import platform

import click

PACKAGES = ("torch", "torchaudio", "k2", "lhotse", "sentencepiece", "lightning-fabric")


@click.command()
def command() -> None:
    """Print versions, devices and the RNN-T loss backend that `backend: auto` selects, and why."""
    import torch

    from kdasr import __version__
    from kdasr.losses.pruned_rnnt.backend import choose_backend

    rows = {"kdasr": __version__, "python": platform.python_version()}
    rows |= {name: _version(name) for name in PACKAGES}
    rows["cpu"] = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    build = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch knows no CUDA"
    rows["cuda"] = f"{', '.join(devices) or 'no device'} ({build})"
    choice = choose_backend("auto")
    rows["rnn-t loss"] = f"{choice.backend.name} ({choice.reason})"
    for name, value in rows.items():
        click.echo(f"{name:<20}{value}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
