"""From a trained student to a bundle on the disk: all of it and checked, or nothing."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr import __version__
from kdasr.bundle import Bundle
from kdasr.common.errors import UserError
from kdasr.common.failures import is_disk_full
from kdasr.common.logging import get_logger
from kdasr.export.bundle import (
    CARD,
    ENCODERS,
    GRAPHS,
    MANIFEST,
    REVISION,
    TOKENS,
    BundleFolder,
    graph_name,
    open_bundle,
    read_manifest,
    write_manifest,
)
from kdasr.export.card import Content, write_card
from kdasr.export.facts import collect_facts
from kdasr.export.graph import EncoderGraph, JoinerGraph, PredictorGraph
from kdasr.export.offline import OfflineGraph
from kdasr.export.parity import Parity, measure_parity
from kdasr.export.publication import WAVS, Publication, write_extras
from kdasr.export.runtime import OnnxTransducer
from kdasr.export.zipformer2 import Zipformer2Graph, check_exported_context
from kdasr.models.encoders.conformer import ConformerEncoder
from kdasr.models.joiner import TANH
from kdasr.models.transducer.model import Transducer
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.nn.context import Context

if TYPE_CHECKING:
    from kdasr.export.onnx_files import AnyEncoderGraph

log = get_logger(__name__)


def export_bundle(
    system: Bundle, out: Path, *, int8: bool = False, publication: Publication | None = None
) -> BundleFolder:
    """Export a system for sherpa-onnx, or whoever runs ONNX: one that streams for its `OnlineRecognizer`, one
    with a full context for its `OfflineRecognizer`.

    Writes `encoder.onnx`, `decoder.onnx`, `joiner.onnx` and `tokens.txt`, with `int8` also
    `encoder.int8.onnx` and so on, a model card `README.md` and `manifest.json`, and for a publication the
    files of `write_extras`. All are made in a folder
    beside `out`, compared with the PyTorch model, and only then moved there.

    Args:
        system: from `load_bundle`.
        out: a new folder, an empty one, or a bundle, which is replaced.
        int8: also quantize.
        publication: what its publisher says of the model, and whether the folder is for Hugging Face.

    Raises:
        UserError: a system with an encoder that has no export, or with a context that its contract has no
            place for; a package of the `export` extra is missing; `out` holds other things or cannot be
            written; the graphs differ from the model; or the disk is full. `out` is as it was.
    """
    out = Path(out).resolve()
    _require_packages()
    kind = system.model.encoder.config.type
    if kind not in ENCODERS:
        raise UserError(
            f"{system.path}: '{system.name}' has an encoder of type '{kind}'; "
            f"only those of type {' or '.join(ENCODERS)} can be exported"
        )
    _check_predictor(system.model.config, f"{system.path}: '{system.name}' has")
    with _writing_to(out):
        _check_target(out)
    try:
        with _folder_beside(out) as folder:
            parity = _write_files(system, folder, int8, publication or Publication())
            with _writing_to(out):
                _move(folder, out)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"{out}: the disk is full; nothing exported. Free some space.") from error
    for kind, measured in parity.items():
        unit = "utterances" if system.context.is_full else "chunks"
        log.info("%s: within %.2g of the model over %d %s", kind, measured.encoder, measured.chunks, unit)
    return open_bundle(out)


def find_current(
    system: Bundle, out: Path, *, int8: bool = False, publication: Publication | None = None
) -> BundleFolder | None:
    """The bundle in `out`, when exporting would only write it again; else None."""
    try:
        bundle = open_bundle(out)
    except UserError:
        return None
    publication = publication or Publication()
    facts = {**collect_facts(system), **publication.facts}
    wanted = {"revision": REVISION, "kdasr": __version__, "context": asdict(system.context), **facts}
    same = all(bundle.manifest.get(name) == value for name, value in wanted.items())
    return bundle if same and bundle.has_int8 == int8 else None


def _write_files(system: Bundle, folder: Path, int8: bool, publication: Publication) -> dict[str, Parity]:
    """Fill `folder`; the manifest comes last.

    Raises:
        UserError: the graphs differ from the model.
    """
    from kdasr.export.onnx_files import QUANTIZED, quantize, write_decoder, write_encoder, write_joiner

    model, config = system.model.eval(), system.model.config
    encoder = encoder_graph(model, system.context)
    write_encoder(encoder, config.num_features, folder / graph_name("encoder"))
    write_decoder(PredictorGraph(model), folder / graph_name("decoder"))
    write_joiner(JoinerGraph(model), config.joiner_dim, folder / graph_name("joiner"))
    if int8:
        for name, operators in QUANTIZED.items():
            quantize(folder / graph_name(name), folder / graph_name(name, int8=True), operators)
    pieces = [system.tokenizer.piece(index) for index in range(system.tokenizer.vocab_size)]
    table = "".join(f"{piece} {index}\n" for index, piece in enumerate(pieces))
    (folder / TOKENS).write_text(table, encoding="utf-8")
    kinds = [False, True] if int8 else [False]
    files = [*(graph_name(name, kind) for kind in kinds for name in GRAPHS), TOKENS]
    facts = {**collect_facts(system), **publication.facts}
    facts["encoder"] = {"type": config.encoder.type, **encoder.facts}
    unfinished = BundleFolder(folder, {"context": asdict(system.context), **facts, "files": files})
    parity = {}
    for kind in kinds:
        measured = measure_parity(model, OnnxTransducer(unfinished, int8=kind))
        measured.check(int8=kind)
        parity["int8" if kind else "float32"] = measured
    extras = write_extras(folder, system, publication)
    write_card(folder / CARD, system, Content(facts, parity, extras))
    figures = {kind: asdict(measured) for kind, measured in parity.items()}
    facts = {"context": asdict(system.context), **facts, "parity": figures, "extras": extras}
    write_manifest(folder, files, facts)
    return parity


def _check_predictor(config: TransducerConfig, who: str) -> None:
    if config.joiner_activation != TANH:
        raise UserError(
            f"{who} model.joiner_activation {config.joiner_activation}; sherpa-onnx's contract has {TANH}"
        )
    if config.predictor.type != "stateless":
        raise UserError(
            f"{who} a predictor of type '{config.predictor.type}'; sherpa-onnx's contract has a stateless one"
        )


def check_exportable(config: TransducerConfig, context: Context) -> None:
    """
    Raises:
        UserError: an encoder or a predictor of this type has no export, or none under this chunked context.
    """
    encoder_type = config.encoder.type
    _check_predictor(config, "the student has")
    if encoder_type not in ENCODERS:
        raise UserError(f"encoders of type '{encoder_type}' have no export; {' and '.join(ENCODERS)} have")
    if not context.is_full:
        config.geometry.check_stream(context)
    if encoder_type == "zipformer2":
        check_exported_context(context)


def encoder_graph(model: Transducer, context: Context) -> "AnyEncoderGraph":
    """The encoder as a module to write, for a type of `ENCODERS`.

    Raises:
        UserError: sizes or a context that the contract has no place for.
    """
    if context.is_full:
        return OfflineGraph(model)
    model.geometry.check_stream(context)
    if isinstance(model.encoder, ConformerEncoder):
        return EncoderGraph(model, context)
    return Zipformer2Graph(model, context)


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"{error.name} is not installed: pip install 'kdasr[export]'") from None


def _check_target(out: Path) -> None:
    """
    Raises:
        UserError: `out` holds something that an export did not write.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {out}: there is a file of that name")
    manifest = read_manifest(out) or {}
    own = {MANIFEST, CARD, *_named_files(manifest)} if manifest else set()
    foreign = sorted(
        name
        for path in out.rglob("*")
        if (name := str(path.relative_to(out))) not in own and not (path.is_dir() and name == WAVS)
    )
    if foreign:
        raise UserError(f"--out {out}: holds '{foreign[0]}', which is not of an export: choose a new folder")


def _named_files(manifest: Mapping[str, Any]) -> Iterable[str]:
    """Of a manifest that may be of another version, or damaged."""
    files, extras = manifest.get("files"), manifest.get("extras", [])
    named = list(files) if isinstance(files, dict) else []
    return named + [str(name) for name in extras] if isinstance(extras, list) else named


@contextmanager
def _writing_to(out: Path) -> Iterator[None]:
    """Say of `out` what the system said of some path near it; that the disk is full is said elsewhere.

    Raises:
        UserError: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise
        near = Path(error.filename or out)
        # Our own temporary names tell nobody anything.
        culprit = "" if near == out or near.suffix == ".partial" else f" ({near})"
        raise UserError(f"--out {out}: cannot be written: {error.strerror}{culprit}") from error


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `out`; what is left of it at the end is removed.

    Raises:
        UserError: there is no writing to that place.
    """
    with _writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".partial"))
    try:
        with _writing_to(out):
            folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    """Put `folder` in the place of `out`, which moves away first: half a bundle is never there."""
    if out.exists():
        with _folder_beside(out) as old:
            out.replace(old / out.name)
            try:
                folder.replace(out)
            except BaseException:
                (old / out.name).replace(out)
                raise
    else:
        folder.replace(out)
