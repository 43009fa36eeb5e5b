"""An exported bundle run by onnxruntime, in the place of the PyTorch model.

```python
from kdasr.export.runtime import load_exported
from kdasr.recognition.recognizer import StreamingRecognizer

recognizer = StreamingRecognizer(load_exported("exp/demo/two-stage/export"))
```
"""

# Shapes: B streams, W feature frames of a window, F features, C encoder frames of a chunk, J joiner width,
# K pieces of context, V pieces, X rows.

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.nn import functional

from kdasr.bundle import Bundle
from kdasr.common.errors import UserError
from kdasr.data.features import LOWEST_LOG_ENERGY
from kdasr.data.text_normalization import DEFAULT_RULE, RULES, TextNormalizer
from kdasr.data.text_rules import NONE
from kdasr.export.agreement import check_agreement
from kdasr.export.bundle import GRAPHS, BundleFolder
from kdasr.export.foreign import open_exported
from kdasr.export.offline import SHORTEST
from kdasr.export.onnx_graph import OnnxGraph
from kdasr.export.zipformer2 import state_tensors
from kdasr.models.encoders.base import EncoderOutput, Geometry, StepOutput
from kdasr.models.encoders.zipformer2.config import OUTPUT_FACTOR
from kdasr.models.encoders.zipformer2.encoder import SILENCE
from kdasr.models.predictors.base import LastPieces, WindowPredictor
from kdasr.nn.context import Context
from kdasr.recognition.result import join_words


class OnnxState(NamedTuple):
    """What the encoder remembers of each stream; dimension 0 of every tensor is the stream."""

    processed_B: Tensor
    """Main frames seen so far, int64."""
    caches: tuple[Tensor, ...]
    """The graph's state tensors in its order, the stream moved to the front."""


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
        self._whole = encoder if self.context.is_full else None
        if self._whole is None:
            self.encoder = OnnxEncoder(encoder, bundle, self.geometry)
        self.predictor = OnnxPredictor(decoder)
        self.joiner = OnnxJoiner(joiner, int8)
        self.num_inference_params: int = bundle.manifest["params"]

    @classmethod
    def load(cls, folder: Path | str, *, int8: bool = False, threads: int = 1) -> "OnnxTransducer":
        """Check and open the bundle in `folder`. Raises as `open_exported` and the constructor do."""
        return cls(open_exported(folder), int8=int8, threads=threads)

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

    def encode(self, features_BTF: Tensor, feature_lens_B: Tensor, context: Context) -> EncoderOutput:
        """Encode whole utterances, projected to the joiner. See `Encoder.forward`; no hidden layers.

        Raises:
            UserError: graphs that step from window to window, or another context.
        """
        if self._whole is None:
            raise UserError("an exported bundle recognizes streams, not whole recordings: --mode streaming")
        if not context.is_full:
            raise UserError(f"context '{context}': this bundle was exported for whole utterances")
        features_BTF = functional.pad(features_BTF, (0, 0, 0, max(0, SHORTEST - features_BTF.shape[1])))
        # Another toolkit's graph sees some of what lies behind an utterance.
        beyond_BT = torch.arange(features_BTF.shape[1]) >= feature_lens_B[:, None]
        features_BTF = features_BTF.masked_fill(beyond_BT[:, :, None], SILENCE)
        encoded_BTJ, lens_B = self._whole(features_BTF, feature_lens_B)
        return EncoderOutput(encoded_BTJ, lens_B, [])

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

    def __init__(self, graph: OnnxGraph, bundle: BundleFolder, geometry: Geometry) -> None:
        self._graph = graph
        self._context = bundle.context
        self._geometry = geometry
        features, *states, _ = graph.shapes.inputs
        self._window_features = features[1]
        if bundle.is_zipformer2:
            self._stream_dims = [state.stream_dim for state in state_tensors(bundle.num_layers)]
            self._count_unit = OUTPUT_FACTOR
        else:
            self._stream_dims = [2, 2]
            self._count_unit = geometry.stride
        self._state_shapes = [
            [size for place, size in enumerate(shape) if place != dim]
            for shape, dim in zip(states, self._stream_dims, strict=True)
        ]

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
        # In memory as the graph has them; of a single stream, as if there were another one.
        caches = tuple(
            torch.zeros(*shape[:dim], batch_size + 1, *shape[dim:]).movedim(dim, 0)[:batch_size]
            for shape, dim in zip(self._state_shapes, self._stream_dims, strict=True)
        )
        return OnnxState(torch.zeros(batch_size, dtype=torch.int64), caches)

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
            lens_B = self._geometry.streamed_frames(feature_lens_B).clamp(max=context.chunk)
        inputs = [cache.movedim(0, dim) for cache, dim in zip(state.caches, self._stream_dims, strict=True)]
        processed_B = self._count_unit * state.processed_B
        encoded_BCJ, *outputs = self._graph(features_BWF, *inputs, processed_B)
        # Views: streams are split off along dimension 0, wherever it lies in memory. A Zipformer2 gives the
        # frames it has seen, too, which are counted here.
        caches = tuple(cache.movedim(dim, 0) for cache, dim in zip(outputs, self._stream_dims, strict=False))
        return StepOutput(encoded_BCJ, lens_B, OnnxState(state.processed_B + context.chunk, caches))

    def _check_context(self, context: Context) -> None:
        if context != self._context:
            raise UserError(f"context '{context}': this bundle was exported under '{self._context}'")


class OnnxPredictor(WindowPredictor):
    """The predictor's graph; what it predicts is projected to the joiner."""

    def __init__(self, graph: OnnxGraph) -> None:
        self._graph = graph
        self.context_size: int = graph.shapes.inputs[0][1]

    def predict(self, state: LastPieces) -> Tensor:
        """Predict after the last K pieces of each stream, projected to the joiner: (B, J)."""
        return self._graph(state.pieces_BK)[0]


class OnnxJoiner:
    """The joiner's graph. The projections are in the other two graphs."""

    def __init__(self, graph: OnnxGraph, int8: bool = False) -> None:
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
        return join_words([self._pieces[index] for index in ids])

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
    """An exported system in the place of a trained system: for `StreamingRecognizer`, under its own context.

    A folder that `kdasr export` wrote, or one of icefall's Zipformer2 for sherpa-onnx.

    Raises as `OnnxTransducer.load` does.
    """
    exported = open_exported(folder)
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
        path=exported.path,
        calibration=exported.calibration,
        blank_penalty=exported.manifest.get("blank_penalty", 0.0),
    )


def _check_device(device: torch.device | str) -> None:
    if torch.device(device).type != "cpu":
        raise UserError(f"device {device}: exported graphs run on the CPU")
