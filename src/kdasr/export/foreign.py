"""Folders for sherpa-onnx that another toolkit exported: icefall's Zipformer2 transducers.

They have no manifest. What a recognizer has to know is in the metadata of the encoder's graph; the names of
the files say how the model was trained, so any are taken: `encoder*.onnx`, `decoder*.onnx`, `joiner*.onnx`
with the same ending, and `*.int8.onnx` beside them.
"""

import math
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.special_pieces import UNK_ID
from kdasr.data.tokenizer import UNK
from kdasr.export.bundle import FORMAT, GRAPHS, MANIFEST, TOKENS, BundleFolder, graph_name, open_bundle
from kdasr.export.onnx_graph import OnnxGraph
from kdasr.models.encoders.zipformer2.config import INNER_STRIDE, OUTPUT_FACTOR
from kdasr.nn.context import Context

MODEL_TYPE = "zipformer2"
_ENCODER = re.compile(r"encoder(?P<ending>.*?)(?P<int8>\.int8)?\.onnx")
_LEFT_OUT = (".fp16",)
"""Endings of graphs of other number types, which are not run."""


def is_exported(path: Path) -> bool:
    """Whether there is a folder with graphs to run, of whoever's export."""
    if (path / MANIFEST).is_file():
        return True
    return (path / TOKENS).is_file() and bool(_endings(path))


def open_exported(folder: Path | str) -> BundleFolder:
    """Check a folder that `kdasr export` wrote, or one of icefall's, and open it.

    Raises:
        UserError: see `open_bundle`; also a folder of several models, one that lacks a graph, or a model of
            another type than a zipformer2, or without `<unk>` as its piece 2.
    """
    folder = Path(folder)
    endings = _endings(folder)
    if (folder / MANIFEST).is_file() or not endings:
        return open_bundle(folder)
    if len(endings) > 1:
        names = " and ".join(f"encoder{ending}.onnx" for ending in endings[:2])
        raise UserError(f"{folder}: more than one model ({names}): give each a folder of its own")
    graphs = _graphs(folder, endings[0])
    if not (folder / TOKENS).is_file():
        raise UserError(f"{folder / TOKENS}: missing from the exported folder")
    encoder = OnnxGraph(folder / graphs[graph_name("encoder")], threads=1)
    manifest = {
        "format": FORMAT,
        **_facts(encoder.metadata, folder / graphs[graph_name("encoder")]),
        "system": folder.resolve().name,
        "params": sum(_num_parameters(folder / graphs[graph_name(graph)]) for graph in GRAPHS),
        "train_steps": 0,
        "files": {},
    }
    bundle = BundleFolder(folder, manifest, graphs)
    _check_unknown(bundle)
    return bundle


def _check_unknown(bundle: BundleFolder) -> None:
    """Searches never say piece 2. sherpa-onnx looks for `<unk>` wherever it is, and says all where it is not.

    Raises:
        UserError: piece 2 is another one.
    """
    found = bundle.pieces()[UNK_ID : UNK_ID + 1]
    if [piece.lower() for piece in found] != [UNK]:
        raise UserError(
            f"{bundle.tokens}: piece {UNK_ID} is {found[0] if found else 'missing'!r}, expected {UNK}: "
            "kdasr would never say it"
        )


def _endings(folder: Path) -> list[str]:
    """What follows `encoder` in the names of the graphs, one for each model."""
    if not folder.is_dir():
        return []
    found = (_ENCODER.fullmatch(path.name) for path in sorted(folder.iterdir()))
    endings = dict.fromkeys(match["ending"] for match in found if match)
    return [ending for ending in endings if not ending.endswith(_LEFT_OUT)]


def _graphs(folder: Path, ending: str) -> dict[str, str]:
    """File names by those of `kdasr export`. A graph that has one number type only stands for both.

    Raises:
        UserError: one of the three is missing.
    """
    graphs: dict[str, str] = {}
    for graph in GRAPHS:
        plain, small = f"{graph}{ending}.onnx", f"{graph}{ending}.int8.onnx"
        there = [name for name in (plain, small) if (folder / name).is_file()]
        if not there:
            raise UserError(f"{folder / plain}: missing from the exported folder")
        graphs[graph_name(graph)] = there[0]
        if graphs.get(graph_name("encoder", int8=True)) or there[-1] == small:
            graphs[graph_name(graph, int8=True)] = there[-1]
    return graphs


def _facts(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    """Context and, of one that streams, stacks of an encoder.

    Raises:
        UserError: metadata of another type of model, or none.
    """
    found = metadata.get("model_type", "none")
    if found != MODEL_TYPE:
        raise UserError(f"{path}: model type '{found}'; without a {MANIFEST} only a {MODEL_TYPE} is run")
    if "feature" in metadata:
        raise UserError(
            f"{path}: takes {metadata['feature']} features; kdasr computes log-mel energies of Kaldi"
        )
    if "decode_chunk_len" not in metadata:  # for whole utterances
        return {"context": asdict(Context.full()), "encoder": {"type": MODEL_TYPE}}
    try:
        chunk = int(metadata["decode_chunk_len"])
        layers, lefts = (
            [int(value) for value in metadata[name].split(",")]
            for name in ("num_encoder_layers", "left_context_len")
        )
        if min(lefts) < 1 or len(layers) != len(lefts):
            raise ValueError
    except (KeyError, ValueError):
        raise UserError(f"{path}: metadata of no streaming zipformer2: {metadata}") from None
    return {
        "context": {
            "left": max(lefts) // OUTPUT_FACTOR,
            "chunk": chunk // (INNER_STRIDE * OUTPUT_FACTOR),
            "right": 0,
        },
        "encoder": {
            "type": MODEL_TYPE,
            "num_encoder_layers": layers,
            "downsampling_factor": [max(lefts) // left for left in lefts],
        },
    }


def _num_parameters(path: Path) -> int:
    """Numbers in the weights of a graph, constants of the exporter included."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) > 0)
