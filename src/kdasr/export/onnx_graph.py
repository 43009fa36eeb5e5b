"""One ONNX file in onnxruntime: tensors in and out, by position."""

from pathlib import Path

import torch
from torch import Tensor

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.export.agreement import GraphShapes


class OnnxGraph:
    """One ONNX file in onnxruntime: tensors in and out, by position."""

    def __init__(self, path: Path, threads: int) -> None:
        """
        Raises:
            UserError: onnxruntime is not installed, or the file is no graph that it can run.
        """
        self._path = path
        try:
            import onnxruntime
        except ImportError:
            raise UserError("onnxruntime is not installed: pip install 'kdasr[export]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            ends = self._session.get_inputs(), self._session.get_outputs()
            self._names = [entry.name for entry in ends[0]]  # a damaged name may be no text
            self._types = [entry.type for entry in ends[0]]
            self.shapes = GraphShapes(*([entry.shape for entry in entries] for entries in ends))
            self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
            """What the exporter says of the graph."""
        except MemoryError:
            raise
        except Exception as error:  # each of onnxruntime's failures is a class of its own
            raise UserError(
                f"{path}: onnxruntime cannot run it ({first_line(error)}): export again"
            ) from None

    def check_ranks(self, inputs: list[int], outputs: list[int]) -> None:
        """
        Raises:
            UserError: inputs or outputs are not so many, or of other numbers of dimensions.
        """
        found = [[len(shape) for shape in shapes] for shapes in (self.shapes.inputs, self.shapes.outputs)]
        if found != [inputs, outputs]:
            raise UserError(f"{self._path}: dimensions {found}, expected {[inputs, outputs]}: export again")

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        arrays = [
            (tensor.int() if kind == "tensor(int32)" else tensor).contiguous().numpy()
            for tensor, kind in zip(inputs, self._types, strict=True)
        ]
        try:
            outputs = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"{self._path}: onnxruntime cannot run it ({first_line(error)})") from None
        return [torch.from_numpy(output) for output in outputs]
