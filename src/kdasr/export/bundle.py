"""A bundle: the folder that `kdasr export` writes, and what makes it whole."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

from kdasr import __version__
from kdasr.common.calibration import Calibration
from kdasr.common.errors import UserError
from kdasr.common.files import read_json, sha256, write_json
from kdasr.common.lines import text_lines
from kdasr.data.text_normalization import OWN_RULE, RULES
from kdasr.models.encoders.base import FIRST_TYPE, EncoderConfig, Geometry
from kdasr.nn.context import Context, read_context

FORMAT = "kdasr-bundle"
VERSION = 1
"""Raised when files, tensors or the manifest change their meaning."""
REVISION = 2
"""Raised when graphs or cards change otherwise: folders of before run as they did, and are exported again
where `kdasr export` is called."""
MANIFEST = "manifest.json"
CARD = "README.md"
TOKENS = "tokens.txt"
GRAPHS = ("encoder", "decoder", "joiner")
_REQUIRED = {"context": dict, "system": str, "params": int, "train_steps": int, "files": dict}
_OPTIONAL = {"blank_penalty": 0.0, "normalization": "", "normalize": ""}
"""What may be missing, as in bundles of earlier versions, and a value of its type."""
COUNTS = "counts_frames"
"""Of an encoder in a manifest: whether its state counts the frames, and so outlives an endpoint."""
ENCODERS = (FIRST_TYPE, "zipformer2")
"""Types of encoders that can be exported."""
_STACKS = ("num_encoder_layers", "downsampling_factor")
"""What a manifest says of a zipformer2 that streams, a number per stack."""
_KIND = {dict: "an object", str: "a text", int: "a whole number"}


def graph_name(graph: str, int8: bool = False) -> str:
    """File name of one of `GRAPHS`."""
    return f"{graph}.int8.onnx" if int8 else f"{graph}.onnx"


@dataclass(frozen=True)
class BundleFolder:
    """A bundle whose files are there and belong together: see `open_bundle`."""

    folder: Path
    manifest: Mapping[str, Any]
    graphs: Mapping[str, str] = field(default_factory=dict)
    """File names of the graphs, where they are not those of `graph_name`."""

    @property
    def path(self) -> Path:
        """The file that stands for the bundle: its manifest, or the encoder of another toolkit's."""
        return self.graph("encoder") if self.is_foreign else self.folder / MANIFEST

    @property
    def names(self) -> list[str]:
        """Every file of a bundle of ours, in it."""
        return [*self.manifest["files"], *self.manifest.get("extras", ()), CARD, MANIFEST]

    @property
    def is_foreign(self) -> bool:
        """Whether another toolkit exported it."""
        return bool(self.graphs)

    @property
    def is_zipformer2(self) -> bool:
        """Whether its encoder is a Zipformer2; else it is a conformer."""
        return self.encoder["type"] == "zipformer2"

    @property
    def encoder(self) -> Mapping[str, Any]:
        """Its `type` and, of a zipformer2 that streams, numbers per stack."""
        return self.manifest.get("encoder", {"type": FIRST_TYPE})

    @property
    def keeps_encoder(self) -> bool:
        """Whether the encoder's state outlives an endpoint in sherpa-onnx, which counts anew there and keeps
        the tensors. Graphs of conformers did not until they counted by themselves."""
        return self.is_zipformer2 or self.encoder.get(COUNTS) is True

    @property
    def num_layers(self) -> int:
        """Layers of all stacks of a zipformer2 that streams."""
        return sum(self.encoder["num_encoder_layers"])

    @property
    def context(self) -> Context:
        """The context that the graphs were exported under; full of graphs for whole utterances."""
        return Context(**self.manifest["context"])

    @property
    def geometry(self) -> Geometry:
        """Rates of the exported encoder; its widths are not in the manifest."""
        kind = {"type": self.encoder["type"]}
        return EncoderConfig.kind_of(kind, "encoder")().geometry

    @property
    def calibration(self) -> Calibration | None:
        """Of the confidence of words; None if the system was not calibrated.

        Raises:
            UserError: the manifest has something else there.
        """
        try:
            return Calibration.from_json(self.manifest.get("calibration"))
        except UserError as error:
            raise UserError(f"{self.folder / MANIFEST}: {error}") from None

    @property
    def has_int8(self) -> bool:
        """Whether there are int8 graphs besides the float32 ones."""
        name = graph_name("encoder", int8=True)
        return name in (self.graphs or self.manifest["files"])

    def graph(self, graph: str, int8: bool = False) -> Path:
        """One of `GRAPHS`.

        Raises:
            UserError: int8 was asked for and not exported.
        """
        if int8 and not self.has_int8:
            raise UserError(f"{self.folder}: exported without int8: run `kdasr export` with --int8")
        name = graph_name(graph, int8)
        return self.folder / self.graphs.get(name, name)

    @property
    def tokens(self) -> Path:
        """`symbol id` per line."""
        return self.folder / TOKENS

    def pieces(self) -> list[str]:
        """The pieces, in the order of their ids.

        Raises:
            UserError: lines without an id, or ids that are not 0, 1, 2, ...
        """
        try:
            rows = [line.rsplit(" ", 1) for line in text_lines(self.tokens)]
            if self.is_foreign:  # such as `#0`, of a lexicon's graph: no model emits them
                rows = [row for row in rows if not re.fullmatch(r"#[0-9]+", row[0])]
            piece_of = {int(index): piece for piece, index in rows}
        except ValueError:
            raise UserError(f"{self.tokens}: expected a piece and its id in each line") from None
        if sorted(piece_of) != list(range(len(rows))):
            raise UserError(f"{self.tokens}: ids of {len(rows)} pieces are not 0 to {len(rows) - 1}")
        return [piece_of[index] for index in range(len(rows))]


def write_manifest(folder: Path, files: Iterable[str], facts: Mapping[str, Any]) -> None:
    """Write the manifest, last of all: it names the digest of every file that belongs to the bundle."""
    digests = {name: sha256(folder / name) for name in files}
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "version": VERSION,
            "revision": REVISION,
            "kdasr": __version__,
            **facts,
            "files": digests,
        },
    )


def open_bundle(folder: Path | str) -> BundleFolder:
    """Check a bundle and open it.

    Raises:
        UserError: no bundle there, one of another version of the format, a manifest that lacks something, a
            file that is missing, or one that another export wrote; the message names the file.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: not an exported bundle (no readable {MANIFEST}): run `kdasr export`")
    if manifest.get("version") != VERSION:
        raise UserError(
            f"{folder}: bundle of version {manifest.get('version')}, exported by kdasr "
            f"{manifest.get('kdasr')}; this is kdasr {__version__}, which reads {VERSION}: export again"
        )
    _check_manifest(manifest, folder / MANIFEST)
    for name, digest in manifest["files"].items():
        path = folder / name
        try:
            if not path.is_file():
                raise UserError(f"{path}: missing from the bundle: export again")
            found = sha256(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        if found != digest:
            raise UserError(f"{path}: not the file that {MANIFEST} describes (damaged, or of another export)")
    return BundleFolder(folder, manifest)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder, of whatever version; None when there is none."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError, RecursionError):
        return None
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """
    Raises:
        UserError: something that recognition needs is not in it, or of another type.
    """
    for name, expected in _REQUIRED.items():
        value = manifest.get(name)
        # JSON's true is an int to Python.
        if not isinstance(value, expected) or isinstance(value, bool):
            fault = f"has no '{name}'" if name not in manifest else f"'{name}' is {value!r:.40}"
            raise UserError(f"{path}: {fault}; expected {_KIND[expected]}: export again")
    for name, example in _OPTIONAL.items():
        value = manifest.get(name, example)
        is_right = (
            isfinite(value) if _is_number(value) and _is_number(example) else type(value) is type(example)
        )
        if not is_right:
            kind = "a finite number" if _is_number(example) else "a text"
            raise UserError(f"{path}: '{name}' is {value!r:.40}; expected {kind}: export again")
    rule = manifest.get("normalization", OWN_RULE)
    if rule.removeprefix(f"{manifest.get('normalize')}, ") not in (*RULES, OWN_RULE, "user_defined", ""):
        raise UserError(
            f"{path}: 'normalization' is {rule!r:.40}; expected one of {', '.join(RULES)}: export again"
        )
    for name in ("params", "train_steps"):
        if manifest[name] < 0:
            raise UserError(f"{path}: '{name}' is {manifest[name]}; expected 0 or more: export again")
    context = read_context(manifest["context"], path)
    _check_encoder(manifest.get("encoder", {"type": FIRST_TYPE}), context, path)
    digests: Mapping[str, Any] = manifest["files"]
    int8 = any(graph_name(graph, int8=True) in digests for graph in GRAPHS)
    kinds = [False, True] if int8 else [False]
    for name in [*(graph_name(graph, kind) for kind in kinds for graph in GRAPHS), TOKENS]:
        if name not in digests:
            raise UserError(f"{path}: 'files' lacks {name}: export again")
    for name in digests:
        if Path(name).name != name:
            raise UserError(f"{path}: 'files' names '{name}', which is not a file of the bundle")


def _check_encoder(encoder: Any, context: Context, path: Path) -> None:
    """
    Raises:
        UserError: not of a type that is exported, or a streaming zipformer2 without numbers of its stacks.
    """
    if not isinstance(encoder, Mapping) or encoder.get("type") not in ENCODERS:
        raise UserError(f"{path}: 'encoder' is {encoder!r:.60}; expected a type of {' or '.join(ENCODERS)}")
    if encoder["type"] == FIRST_TYPE or context.is_full:
        return
    for name in _STACKS:
        values = encoder.get(name)
        if not isinstance(values, list) or not values or {type(value) for value in values} != {int}:
            raise UserError(f"{path}: 'encoder' has {name} {values!r:.40}; expected a number per stack")
    if len({len(encoder[name]) for name in _STACKS}) != 1 or min(encoder["downsampling_factor"]) < 1:
        raise UserError(f"{path}: 'encoder' is {encoder!r:.120}; expected a number per stack: export again")
