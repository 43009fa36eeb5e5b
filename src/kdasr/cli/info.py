"""`kdasr info`: what this installation runs on."""

import importlib.metadata
import platform

import click

PACKAGES = ("torch", "torchaudio", "lhotse", "sentencepiece", "lightning-fabric", "kaldi-native-fbank")


@click.command()
def command() -> None:
    """Print versions, devices and the RNN-T loss backend that `backend: auto` selects."""
    import torch

    from kdasr import __version__
    from kdasr.losses.pruned_rnnt import select_backend

    rows = {"kdasr": __version__, "python": platform.python_version()}
    rows |= {name: importlib.metadata.version(name) for name in PACKAGES}
    rows["cpu"] = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows["cuda"] = ", ".join(devices) or "none"
    rows["rnn-t loss"] = select_backend("auto").name
    for name, value in rows.items():
        click.echo(f"{name:<20}{value}")
