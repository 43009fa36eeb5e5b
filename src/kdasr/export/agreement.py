"""Whether the files of a bundle mean the same: what the manifest and the pieces say of the graphs' shapes."""

# Shapes: N streams, T feature frames of a window, F features, C encoder frames of a chunk, J joiner width,
# L layers, A frames of left context, R left frames of the convolution, D width, V pieces.

from typing import Any, NamedTuple

from kdasr.common.errors import UserError
from kdasr.export.bundle import MANIFEST, BundleFolder


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
        encoder: (N, T, F), (L, 2 A, N, D), (L, R, N, D), (N) to (N, C, J) and both caches.
        joiner: (N, J), (N, J) to (N, V).
        int8: whose shapes these are; for the message.

    Raises:
        UserError: they disagree; the message names both files.
    """
    graph, manifest = bundle.graph("encoder", int8), bundle.folder / MANIFEST
    if [len(shape) for shape in encoder.inputs] != [3, 4, 4, 1] or len(encoder.outputs) != 3:
        raise UserError(f"{graph}: not an encoder that `kdasr export` wrote: inputs {encoder.inputs}")
    context = bundle.context
    (_, window, _), attention, convolution, _ = encoder.inputs
    chunk = encoder.outputs[0][1]
    # A cache cannot be empty: without a left context it has one frame, which nobody sees.
    for what, found, expected in (
        ("feature frames per window", window, bundle.geometry.window_features(context.window_frames)),
        ("encoder frames per chunk", chunk, context.chunk),
        ("rows of the attention cache", attention[1], 2 * max(1, context.left)),
    ):
        if _differ(found, expected):
            raise UserError(
                f"{manifest}: context '{context}' means {expected} {what}, but {graph.name} has {found}: "
                "export again"
            )
    for cache, updated in zip((attention, convolution), encoder.outputs[1:], strict=True):
        if [cache[0], cache[1], cache[3]] != [attention[0], updated[1], attention[3]]:
            raise UserError(f"{graph}: caches that do not fit: {attention}, {convolution}, {updated}")
    found, expected = joiner.outputs[0][-1], len(bundle.pieces())
    if _differ(found, expected):
        raise UserError(
            f"{bundle.tokens}: {expected} pieces, but {bundle.graph('joiner', int8).name} knows {found}: "
            "export again"
        )


def _differ(found: Any, expected: int) -> bool:
    """Whether a size that the graph states is another one."""
    return isinstance(found, int) and found != expected
