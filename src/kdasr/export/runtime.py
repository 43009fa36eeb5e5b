"""An exported bundle run by onnxruntime, in the place of the PyTorch model.

```python
from kdasr.export.runtime import load_exported
from kdasr.recognition.recognizer import StreamingRecognizer

recognizer = StreamingRecognizer(load_exported("exp/demo/two-stage/export"))
```
"""

# Shapes: B streams, W feature frames of a window, F features, C encoder frames of a chunk, L layers, A rows
# of the attention cache, R rows of the convolution cache, D width, J joiner width, K pieces of context,
# V pieces, X rows.

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from kdasr.checkpoint import Bundle
from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.data.features import LOWEST_LOG_ENERGY
from kdasr.data.text_normalization import DEFAULT_RULE, RULES, WORD_START, TextNormalizer
from kdasr.data.text_rules import NONE
from kdasr.export.agreement import GraphShapes, check_agreement
from kdasr.export.bundle import GRAPHS, MANIFEST, BundleFolder, open_bundle
from kdasr.models.encoders.base import Geometry, StepOutput
from kdasr.models.predictor import start_context
from kdasr.nn.context import Context


class OnnxState(NamedTuple):
    """What the encoder remembers of each stream; dimension 0 of every tensor is the stream."""

    processed_B: Tensor
    """Main frames seen so far, int64."""
    attention_BLAD: Tensor
    convolution_BLRD: Tensor


class OnnxTransducer:
    """The graphs of a bundle behind the interface that `StreamingRecognizer` and the searches use of a model.

    Windows at the end of a stream that lack frames are filled up with silence: the graph, unlike the PyTorch
    encoder, does not hide them from the others, so a stream ends as if zero samples followed. That is
    what sherpa-onnx's clients send.
    """

    def __init__(self, bundle: BundleFolder, *, int8: bool = False, threads: int = 1) -> None:
        """
        Args:
            bundle: from `open_bundle`.
            int8: run the int8 graphs.
            threads: of each operator, in each of the three graphs.

        Raises:
            UserError: onnxruntime is not installed, there are no int8 graphs, or they are none for the
                manifest's context or for the pieces.
        """
        encoder, decoder, joiner = (OnnxGraph(bundle.graph(name, int8), threads) for name in GRAPHS)
        decoder.check_ranks([2], [2])
        joiner.check_ranks([2, 2], [2])
        check_agreement(bundle, encoder.shapes, joiner.shapes, int8)
        self.context = bundle.context
        width = encoder.shapes.outputs[0][2]
        self.geometry = replace(bundle.geometry, dim=width, hidden=())
        self.encoder = OnnxEncoder(encoder, self.context, self.geometry)
        self.predictor = OnnxPredictor(decoder)
        self.joiner = OnnxJoiner(joiner, int8)
        self.num_inference_params: int = bundle.manifest["params"]

    @classmethod
    def load(cls, folder: Path | str, *, int8: bool = False, threads: int = 1) -> "OnnxTransducer":
        """Check and open the bundle in `folder`. Raises as `open_bundle` and the constructor do."""
        return cls(open_bundle(folder), int8=int8, threads=threads)

    def to(self, device: torch.device | str) -> "OnnxTransducer":
        """Graphs stay on the CPU.

        Raises:
            UserError: another device.
        """
        _check_device(device)
        return self

    def eval(self) -> "OnnxTransducer":
        """Graphs are always in evaluation mode."""
        return self

    def parameters(self) -> Iterator[Tensor]:
        """One empty tensor, on the device where inputs and outputs are: the CPU."""
        yield torch.empty(0)

    def encode(self, *_: object) -> NoReturn:
        """Graphs step from window to window.

        Raises:
            UserError: always.
        """
        raise UserError("an exported bundle recognizes streams, not whole recordings: --mode streaming")

    def encode_chunk(
        self,
        features_BWF: Tensor,
        state: OnnxState,
        context: Context,
        feature_lens_B: Tensor | None = None,
    ) -> StepOutput:
        """Encode one window of each stream, projected to the joiner. See `Encoder.step`."""
        return self.encoder.step(features_BWF, state, context, feature_lens_B)


class OnnxEncoder:
    """The encoder's graph with the encoder's streaming interface."""

    def __init__(self, graph: "OnnxGraph", context: Context, geometry: Geometry) -> None:
        self._graph = graph
        self._context = context
        self._geometry = geometry
        features, attention, convolution, _ = graph.shapes.inputs
        self._window_features = features[1]
        self._state_shapes = [(shape[0], shape[1], shape[3]) for shape in (attention, convolution)]

    def init_state(
        self, batch_size: int, context: Context, device: torch.device | str | None = None
    ) -> OnnxState:
        """The state of streams that have seen nothing.

        Raises:
            UserError: another context than the exported one, or another device than the CPU.
        """
        self._check_context(context)
        if device is not None:
            _check_device(device)
        shapes = [(batch_size, *shape) for shape in self._state_shapes]
        return OnnxState(
            torch.zeros(batch_size, dtype=torch.int64), *(torch.zeros(shape) for shape in shapes)
        )

    def step(
        self, features_BWF: Tensor, state: OnnxState, context: Context, feature_lens_B: Tensor | None = None
    ) -> StepOutput:
        """Encoded frames (B, C, J), how many are valid (B,), and the state for the next window."""
        self._check_context(context)
        expected = self._window_features
        if features_BWF.shape[1] != expected:
            raise UserError(
                f"a window under '{context}' has {expected} feature frames, not {features_BWF.shape[1]}"
            )
        lens_B = torch.full_like(state.processed_B, context.chunk)
        if feature_lens_B is not None:
            beyond_BW = torch.arange(expected) >= feature_lens_B[:, None]
            features_BWF = features_BWF.masked_fill(beyond_BW[:, :, None], LOWEST_LOG_ENERGY)
            lens_B = self._geometry.num_frames(feature_lens_B).clamp(max=context.chunk)
        encoded_BCJ, attention, convolution = self._graph(
            features_BWF,
            state.attention_BLAD.permute(1, 2, 0, 3),
            state.convolution_BLRD.permute(1, 2, 0, 3),
            self._geometry.stride * state.processed_B,
        )
        # Views: streams are split off along dimension 0, wherever it lies in memory.
        caches = attention.permute(2, 0, 1, 3), convolution.permute(2, 0, 1, 3)
        return StepOutput(encoded_BCJ, lens_B, OnnxState(state.processed_B + context.chunk, *caches))

    def _check_context(self, context: Context) -> None:
        if context != self._context:
            raise UserError(f"context '{context}': this bundle was exported under '{self._context}'")


class OnnxPredictor:
    """The predictor's graph; what it predicts is projected to the joiner."""

    def __init__(self, graph: "OnnxGraph") -> None:
        self._graph = graph
        self.context_size: int = graph.shapes.inputs[0][1]

    def start_context(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The context (B, K) before any piece."""
        return start_context(batch_size, self.context_size, device)

    def step(self, context_BK: Tensor) -> Tensor:
        """Predict after the last K pieces of each stream: (B, K) to (B, J)."""
        return self._graph(context_BK)[0]


class OnnxJoiner:
    """The joiner's graph. The projections are in the other two graphs."""

    def __init__(self, graph: "OnnxGraph", int8: bool = False) -> None:
        self._graph = graph
        if int8:
            self.lookahead = 1
            """int8 scales are those of the whole input: frames seen together would change each other."""

    def project_encoder(self, encoded: Tensor) -> Tensor:
        """Nothing to do: the encoder's graph projects."""
        return encoded

    def project_predictor(self, predicted: Tensor) -> Tensor:
        """Nothing to do: the decoder's graph projects."""
        return predicted

    def __call__(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Logits (..., V) of projected inputs (..., J) that broadcast."""
        encoded, predicted = torch.broadcast_tensors(encoded, predicted)
        logits_XV = self._graph(encoded.flatten(0, -2), predicted.flatten(0, -2))[0]
        return logits_XV.view(*encoded.shape[:-1], logits_XV.shape[1])


class PieceTable:
    """The pieces of a bundle's `tokens.txt`: what recognition needs of a tokenizer."""

    def __init__(self, pieces: list[str], normalization: str = DEFAULT_RULE, normalize: str = NONE) -> None:
        """
        Args:
            pieces: in the order of their ids.
            normalization: the rule of the tokenizer that they come from. In the place of one that
                SentencePiece does not have under its name, `identity` normalizes white space alone.
            normalize: the rule of `text.normalize`, before that.

        Raises:
            UserError: no such rule.
        """
        self._pieces = pieces
        rule = normalization.removeprefix(f"{normalize}, ")
        self._normalizer = TextNormalizer(rule=rule if rule in RULES else "identity", written=normalize)
        self.rule = normalize
        self.normalization = self._normalizer.name

    @property
    def vocab_size(self) -> int:
        """Number of pieces, special ones included."""
        return len(self._pieces)

    def piece(self, index: int) -> str:
        """The piece with this id."""
        return self._pieces[index]

    def normalize(self, text: str) -> str:
        """The words that pieces of `text` would spell."""
        return self._normalizer(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some pieces."""
        return "".join(self._pieces[index] for index in ids).replace(WORD_START, " ").strip()

    def encode(self, text: str) -> NoReturn:
        """A bundle does not say how words fall into pieces.

        Raises:
            UserError: always.
        """
        raise UserError(
            f"biasing towards '{text}': an exported bundle cannot split words into pieces; "
            "use the system's own folder"
        )


def load_exported(folder: Path | str, *, int8: bool = False, threads: int = 1) -> Bundle:
    """An exported student in the place of a trained system: for `StreamingRecognizer`, under its own context.

    Raises as `OnnxTransducer.load` does.
    """
    exported = open_bundle(folder)
    model: Any = OnnxTransducer(exported, int8=int8, threads=threads)
    pieces: Any = PieceTable(
        exported.pieces(),
        exported.manifest.get("normalization", DEFAULT_RULE),
        exported.manifest.get("normalize", NONE),
    )
    return Bundle(
        model=model,
        tokenizer=pieces,
        context=exported.context,
        name=exported.manifest["system"],
        train_steps=exported.manifest["train_steps"],
        path=exported.folder / MANIFEST,
        calibration=exported.calibration,
        blank_penalty=exported.manifest.get("blank_penalty", 0.0),
    )


def _check_device(device: torch.device | str) -> None:
    if torch.device(device).type != "cpu":
        raise UserError(f"device {device}: exported graphs run on the CPU")


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
            self.shapes = GraphShapes(*([entry.shape for entry in entries] for entries in ends))
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
        arrays = [tensor.contiguous().numpy() for tensor in inputs]
        try:
            outputs = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        except MemoryError:
            raise
        except Exception as error:
            raise UserError(f"{self._path}: onnxruntime cannot run it ({first_line(error)})") from None
        return [torch.from_numpy(output) for output in outputs]
