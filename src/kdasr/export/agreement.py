"""Whether the files of a bundle mean the same: what the manifest and the pieces say of the graphs' shapes."""

# Shapes: N streams, T feature frames of a window, F features, C encoder frames of a chunk, J joiner width,
# L layers, A frames of left context, R left frames of the convolution, D width, V pieces.

from typing import Any, NamedTuple

from kdasr.common.errors import UserError
from kdasr.export.bundle import BundleFolder
from kdasr.models.encoders.zipformer2.config import OUTPUT_FACTOR


class GraphShapes(NamedTuple):
    """Of the inputs and outputs of a graph, in order. A dimension that varies has a name, not a size."""

    inputs: list[list[Any]]
    outputs: list[list[Any]]


def check_agreement(bundle: BundleFolder, encoder: GraphShapes, joiner: GraphShapes, int8: bool) -> None:
    """Compare the graphs with the manifest's context and with the number of pieces.

    The digests only say that no file has changed since the manifest was written, not that the manifest is as
    it was. Without this, a chunk that is not the graph's would be found out while somebody speaks.

    Args:
        bundle: the graphs' bundle.
        encoder: (N, T, F), (L, 2 A + 1, N, D), (L, R, N, D), (N) to (N, C, J) and both caches; of a
            Zipformer2, what `kdasr.export.zipformer2` has.
        joiner: (N, J), (N, J) to (N, V).
        int8: whose shapes these are; for the message.

    Raises:
        UserError: they disagree; the message names both files.
    """
    if bundle.context.is_full:
        found = [[len(shape) for shape in shapes] for shapes in (encoder.inputs, encoder.outputs)]
        if found != [[3, 1], [3, 1]]:
            raise UserError(
                f"{bundle.path}: context 'full', but {bundle.graph('encoder', int8).name} is no graph for "
                "whole utterances: export again"
            )
    elif bundle.is_zipformer2:
        _check_zipformer2(bundle, encoder, int8)
    else:
        _check_conformer(bundle, encoder, int8)
    known, pieces = joiner.outputs[0][-1], len(bundle.pieces())
    if _differ(known, pieces):
        raise UserError(
            f"{bundle.tokens}: {pieces} pieces, but {bundle.graph('joiner', int8).name} knows {known}: "
            "export again"
        )


def _check_conformer(bundle: BundleFolder, encoder: GraphShapes, int8: bool) -> None:
    graph, context = bundle.graph("encoder", int8), bundle.context
    if [len(shape) for shape in encoder.inputs] != [3, 4, 4, 1] or len(encoder.outputs) != 3:
        raise UserError(f"{graph}: not an encoder that `kdasr export` wrote: inputs {encoder.inputs}")
    attention, convolution = encoder.inputs[1:3]
    # A cache cannot be empty: without a left context it has one frame, which nobody sees.
    rows = ("rows of the attention cache", attention[1], 2 * max(1, context.left) + bundle.keeps_encoder)
    _check_sizes(bundle, encoder, int8, rows)
    for cache, updated in zip((attention, convolution), encoder.outputs[1:], strict=True):
        if [cache[0], cache[1], cache[3]] != [attention[0], updated[1], attention[3]]:
            raise UserError(f"{graph}: caches that do not fit: {attention}, {convolution}, {updated}")


def _check_zipformer2(bundle: BundleFolder, encoder: GraphShapes, int8: bool) -> None:
    graph, left = bundle.graph("encoder", int8), OUTPUT_FACTOR * bundle.context.left
    layer = [3, 4, 3, 3, 3, 3]  # dimensions of the states of a layer
    expected = [3, *layer * bundle.num_layers, 4, 1]
    found = [[len(shape) for shape in shapes] for shapes in (encoder.inputs, encoder.outputs)]
    if found != [expected, expected]:
        raise UserError(
            f"{graph}: not an encoder of {bundle.num_layers} layers in sherpa-onnx's zipformer2 contract"
        )
    stacks = zip(bundle.encoder["num_encoder_layers"], bundle.encoder["downsampling_factor"], strict=True)
    lefts = [left // factor for count, factor in stacks for _ in range(count)]
    for number, frames in enumerate(lefts):
        keys = encoder.inputs[1 + len(layer) * number]
        _check_sizes(bundle, encoder, int8, (f"rows of cached_key_{number}", keys[0], frames))
    for given, updated in zip(encoder.inputs[1:], encoder.outputs[1:], strict=True):
        if any(_differ(size, other) for size, other in zip(given, updated, strict=True) if _is_size(other)):
            raise UserError(f"{graph}: states that do not fit: {given}, {updated}")


def _check_sizes(bundle: BundleFolder, encoder: GraphShapes, int8: bool, rows: tuple[str, Any, int]) -> None:
    """Compare windows, chunks and the rows of a cache with the context: what, found and expected.

    Raises:
        UserError: they disagree.
    """
    context = bundle.context
    for what, found, expected in (
        (
            "feature frames per window",
            encoder.inputs[0][1],
            bundle.geometry.window_features(context.window_frames),
        ),
        ("encoder frames per chunk", encoder.outputs[0][1], context.chunk),
        rows,
    ):
        if _differ(found, expected):
            raise UserError(
                f"{bundle.path}: context '{context}' means {expected} {what}, but "
                f"{bundle.graph('encoder', int8).name} has {found}: export again"
            )


def _is_size(size: Any) -> bool:
    return isinstance(size, int)


def _differ(found: Any, expected: int) -> bool:
    """Whether a size that the graph states is another one."""
    return _is_size(found) and found != expected
