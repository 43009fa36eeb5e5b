"""Graphs as ONNX files with sherpa-onnx's metadata, and their int8 copies."""

# Shapes: see `kdasr.export.graph`.

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from kdasr.export.graph import EncoderGraph, JoinerGraph, PredictorGraph
from kdasr.export.offline import OfflineGraph
from kdasr.export.zipformer2 import Zipformer2Graph

OPSET = 18
IR_VERSION = 8
"""The oldest that goes with the opset: runtimes of 2023 and later, so those in sherpa-onnx too, read it."""
AnyEncoderGraph = EncoderGraph | Zipformer2Graph | OfflineGraph
QUANTIZED = {"encoder": ["MatMul"], "decoder": ["MatMul", "Gather"], "joiner": ["MatMul"]}
"""Operators with int8 weights, as in icefall's and sherpa-onnx's own models."""


@dataclass(frozen=True)
class _Signature:
    """Inputs and outputs of a graph, in order: sherpa-onnx binds by position."""

    inputs: Mapping[str, int]
    """Name to the dimension that is the stream."""
    outputs: Sequence[str]
    example: tuple[Tensor | list[Tensor], ...]

    def dimensions(self) -> tuple[Any, ...]:
        """Which dimension of each example varies, in the form of the examples."""
        # At least 1: an example of 2 streams keeps it from being fixed.
        streams = torch.export.Dim("N", min=1, max=65536)
        every = iter([{dim: streams} for dim in self.inputs.values()])
        return tuple(
            [next(every) for _ in example] if isinstance(example, list) else next(every)
            for example in self.example
        )


def write_encoder(graph: AnyEncoderGraph, num_features: int, path: Path) -> None:
    """Write `encoder.onnx`."""
    if isinstance(graph, OfflineGraph):
        _write_offline(graph, num_features, path)
        return
    signature = _Signature(graph.inputs, graph.outputs, graph.example(2, num_features))
    _write(graph, signature, graph.metadata, path)


def write_decoder(graph: PredictorGraph, path: Path) -> None:
    """Write `decoder.onnx`, as sherpa-onnx calls the predictor."""
    example = torch.zeros(2, graph.context_size, dtype=torch.int64)
    _write(graph, _Signature({"y": 0}, ["decoder_out"], (example,)), graph.metadata, path)


def write_joiner(graph: JoinerGraph, joiner_dim: int, path: Path) -> None:
    """Write `joiner.onnx`."""
    example = torch.zeros(2, joiner_dim), torch.zeros(2, joiner_dim)
    _write(graph, _Signature({"encoder_out": 0, "decoder_out": 0}, ["logit"], example), graph.metadata, path)


def quantize(source: Path, target: Path, operators: list[str]) -> None:
    """Write a copy of `source` with int8 weights; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a preparation that leaves these graphs as they are
    try:
        quantize_dynamic(source, target, op_types_to_quantize=operators, weight_type=QuantType.QInt8)
    finally:
        root.setLevel(level)


def _write(graph: nn.Module, signature: _Signature, metadata: dict[str, Any], path: Path) -> None:
    # torch.export's exporter, not TorchScript's: it folds constants and shapes to half as many nodes, and it
    # is the one that torch develops.
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph.eval(),
            signature.example,
            dynamo=True,
            input_names=list(signature.inputs),
            output_names=list(signature.outputs),
            dynamic_shapes=signature.dimensions(),
            opset_version=OPSET,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    _save(program.model_proto, metadata, path)


def _write_offline(graph: OfflineGraph, num_features: int, path: Path) -> None:
    # TorchScript's exporter: it writes sizes down as the operations that they are. torch.export's has to
    # prove them equal, and cannot after several roundings of a length; `torch.onnx.export` then writes a
    # graph of the example's length instead.
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            graph.eval(),
            graph.example(2, num_features),
            path,
            dynamo=False,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={**graph.inputs, **graph.outputs},
            opset_version=OPSET,
        )
    _save(onnx.load(path), graph.metadata, path)


def _save(model: Any, metadata: dict[str, Any], path: Path) -> None:
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences what the exporter says about packages that these graphs do not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
