"""Models and tensors that icefall computed, which lie beside the repository where they are at hand."""

import json
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdasr.interop.icefall_names import icefall_name
from kdasr.models.encoders.zipformer2 import Zipformer2Config

FOLDER = Path(__file__).resolve().parents[1].parent / "shared" / "icefall"
needs_icefall = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden data of icefall in {FOLDER}")
TOLERANCE = {"atol": 1e-4, "rtol": 0}


@cache
def arrays(name: str) -> dict[str, Any]:
    """The arrays of `<name>.npz`, numbers as tensors."""
    with np.load(FOLDER / f"{name}.npz") as archive:
        return {
            key: torch.from_numpy(value) if value.dtype.kind in "fi" else value
            for key, value in archive.items()
        }


@cache
def golden(kind: str) -> dict[str, Any]:
    """What icefall computed with the model `offline` or `streaming`."""
    return arrays(f"zipformer-{kind}/golden")


def zipformer_config(kind: str, **changes: Any) -> Zipformer2Config:
    """The options of a model of icefall's."""
    options = json.loads((FOLDER / f"zipformer-{kind}" / "config.json").read_text())["encoder"]
    names = {entry.name for entry in fields(Zipformer2Config)}
    return Zipformer2Config(**{name: value for name, value in options.items() if name in names}, **changes)


@cache
def weights(kind: str) -> dict[str, Tensor]:
    """icefall's weights by icefall's names."""
    path = FOLDER / f"zipformer-{kind}" / "pretrained.pt"
    return torch.load(path, map_location="cpu", weights_only=True)["model"]


def zipformer(kind: str, **changes: Any) -> Any:
    """Our encoder with icefall's weights, in evaluation mode."""
    encoder = zipformer_config(kind, **changes).build(80).eval()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.copy_(weights(kind)[icefall_name(name, encoder.config.downsampling_factor)])
    return encoder


class Recorder:
    """The outputs of modules by name, of the latest call."""

    def __init__(self, module: nn.Module) -> None:
        self.outputs: dict[str, Tensor] = {}
        for name, part in module.named_modules():
            part.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.outputs[name] = output[0] if isinstance(output, tuple) else output

        return keep

    def __getitem__(self, name: str) -> Tensor:
        return self.outputs[name]
