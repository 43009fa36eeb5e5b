"""`kdasr export`: a system as ONNX graphs for sherpa-onnx, and the proof that a client hears the same."""

import sys
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdasr.cli.contexts import parse_context, warn_of_untrained
from kdasr.cli.long_form import long_form_options, parse_long_form
from kdasr.cli.paths import CHECKPOINT, ExperimentPath, InputPath, OutputFolder, require_experiment
from kdasr.cli.recognizable import checkpoint_option
from kdasr.cli.search_options import needs
from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging
from kdasr.nn.context import Context

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from kdasr.data.tokenizer import Tokenizer
    from kdasr.evaluation.long_form_run import LongForm
    from kdasr.export.check import Clip
    from kdasr.export.publication import Publication
    from kdasr.recognition.audio import Samples

_SHOWN_DIFFERENCES = 5
_OF_PUBLICATION = ("hub_layout", "license", "language", "test_wavs")


@click.command(name="export")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="EXP | CUTS...")
@click.option("--out", type=OutputFolder(), help="Folder for the exported files.")
@click.option("--int8", is_flag=True, help="Also export int8 graphs; with --check: check those.")
@checkpoint_option
@click.option(
    "--context",
    help="Encoder context instead of the trained one, such as left=32,chunk=8,right=2 (encoder frames).",
)
@click.option(
    "--check",
    "bundle",
    type=InputPath("exported folder"),
    metavar="DIR",
    help="Export nothing: decode CUTS by sherpa-onnx with the exported folder DIR, and compare.",
)
@click.option(
    "--against",
    type=ExperimentPath(CHECKPOINT),
    metavar="EXP",
    help="With --check: compare with this system's PyTorch model, not with DIR in kdasr's own recognizer.",
)
@click.option(
    "--hub-layout",
    is_flag=True,
    help="Write the folder as Hugging Face and sherpa-onnx's users expect it; needs --license.",
)
@click.option(
    "--license", "license", default="", help="For the model card: apache-2.0, cc-by-4.0, other, ..."
)
@click.option("--language", default="", help="For the model card: en, pt-BR, ...")
@click.option(
    "--test-wavs",
    type=click.Path(path_type=Path),
    metavar="CUTS",
    help="With --hub-layout: the first five utterances of this manifest become test_wavs/.",
)
@long_form_options
@click.option("--force", is_flag=True, help="Export again what is there already.")
def command(
    paths: tuple[Path, ...],
    out: Path | None,
    int8: bool,
    checkpoint: str,
    context: str | None,
    bundle: Path | None,
    against: Path | None,
    hub_layout: bool,
    license: str,
    language: str,
    test_wavs: Path | None,
    long_form: bool,
    minutes: float,
    gaps: str,
    gap_noise: str,
    force: bool,
) -> None:
    """Export a system for sherpa-onnx, or check an exported one.

    \b
        kdasr export EXP --out DIR [--int8] [--hub-layout --license apache-2.0]
        kdasr export --check DIR CUTS... [--against EXP] [--long-form]

    EXP is a system's folder or a checkpoint file. One that streams is exported for sherpa-onnx's
    OnlineRecognizer, one with a full context for its OfflineRecognizer. DIR gets encoder.onnx, decoder.onnx,
    joiner.onnx and tokens.txt, a model card and a manifest, once the graphs have been compared with PyTorch,
    chunk by chunk or on whole utterances.

    CUTS are Lhotse manifests, such as data/demo/cuts_test-clean.jsonl.gz. Each utterance is decoded by
    sherpa-onnx and by kdasr: by greedy search alone and two streams in a batch, by modified beam search, and
    by both with endpoint resets, where each of the two decides where a segment ends. Whole
    utterances are decoded four in a batch. With --long-form, also
    joined into streams as in `kdasr decode --long-form`, with and without endpoint resets. Pieces and frames
    must be the same. The last line is "N of M utterances identical", and the exit status 0 only when N = M.
    That is to be expected of int8 graphs only where onnxruntime has the version inside sherpa-onnx (1.28 in
    sherpa-onnx 2.0.1): their roundings differ.
    """
    setup_logging()
    if bundle is not None:
        if out is not None:
            raise UserError("--check exports nothing: leave out --out")
        needs("an export; --check makes none", "force", "context", *_OF_PUBLICATION)
        if against is None:
            needs("--against", "checkpoint")
        for path in paths:
            _require_manifest(path)
        joined = parse_long_form(long_form, minutes, gaps, gap_noise)  # waits for torch
        _check(_Check(bundle, paths, against, checkpoint, int8, joined))
        return
    needs("--check", "long_form", "minutes", "gaps", "gap_noise")
    if against is not None or len(paths) != 1:
        raise UserError("export one system: kdasr export EXP --out DIR")
    require_experiment(paths[0], CHECKPOINT)
    if out is None:
        raise UserError("--out is missing: where to export to (or --check DIR, to check an exported folder)")
    if not hub_layout:
        needs("--hub-layout", "test_wavs")
    if test_wavs is not None:
        _require_manifest(test_wavs)
    from kdasr.export.publication import Publication

    publication = Publication(license, language, hub_layout)
    chosen = parse_context(context) if context else None
    _export(_Export(paths[0], out, checkpoint, chosen, int8, force, publication, test_wavs))


@dataclass(frozen=True)
class _Export:
    """What is exported, and how."""

    exp: Path
    out: Path
    checkpoint: str
    context: Context | None
    """None: the one of training."""
    int8: bool
    force: bool
    publication: "Publication"
    test_wavs: Path | None
    """A manifest of cuts."""


def _export(wanted: _Export) -> None:
    import torch

    from kdasr.bundle import load_bundle
    from kdasr.export.build import export_bundle, find_current
    from kdasr.export.publication import MAX_WAVS, Recording

    torch.set_num_threads(1)
    system, out = load_bundle(wanted.exp, wanted.checkpoint), wanted.out
    if wanted.context is not None:
        system.model.config.encoder.check_context(wanted.context)
        warn_of_untrained(wanted.exp, [wanted.context])
        system = replace(system, context=wanted.context)
    publication = wanted.publication
    if wanted.test_wavs is not None:
        clips = _load(wanted.test_wavs, system.tokenizer, MAX_WAVS)
        recordings = [Recording(clip.samples_N, clip.ref) for clip in clips]
        publication = replace(publication, recordings=recordings)
    elif not wanted.force and find_current(system, out, int8=wanted.int8, publication=publication):
        click.echo(f"{out}: already exported, --force to do it again")
        return
    folder = export_bundle(system, out, int8=wanted.int8, publication=publication)
    for name in folder.names:
        click.echo(f"{folder.folder / name}  {(folder.folder / name).stat().st_size / 1e6:.2f} MB")


@dataclass(frozen=True)
class _Check:
    """What is compared with what."""

    folder: Path
    cuts: tuple[Path, ...]
    against: Path | None
    checkpoint: str
    int8: bool
    long_form: "LongForm | None"


def _check(wanted: _Check) -> None:
    import torch

    from kdasr.bundle import load_bundle
    from kdasr.export.check import compare_with_sherpa, count_identical
    from kdasr.export.check_long_form import compare_long_form
    from kdasr.export.foreign import open_exported
    from kdasr.export.runtime import load_exported

    torch.set_num_threads(1)
    bundle = open_exported(wanted.folder)
    if wanted.against:
        system = load_bundle(wanted.against, wanted.checkpoint)
        # The graphs may be of another of its contexts.
        system.model.config.encoder.check_context(bundle.context)
        ours = replace(system, context=bundle.context)
    else:
        ours = load_exported(wanted.folder, int8=wanted.int8)
    parts = [_load(path, ours.tokenizer) for path in wanted.cuts]
    utterances = [spoken for part in parts for spoken in part]
    found = [compare_with_sherpa(bundle, ours, utterances, int8=wanted.int8)]
    if wanted.long_form is not None:
        found.append(compare_long_form(bundle, ours, utterances, wanted.long_form, int8=wanted.int8))
    comparisons = []
    for comparison in chain.from_iterable(found):
        comparisons.append(comparison)
        click.echo(comparison.summary)
        for tie in comparison.ties[:_SHOWN_DIFFERENCES]:
            click.echo(f"  tie: {tie}")
        for difference in comparison.differences[:_SHOWN_DIFFERENCES]:
            click.echo(f"  {difference}")
    good, total = count_identical(comparisons)
    click.echo(f"{good} of {total} utterances identical")
    if good < total:
        sys.exit(1)


def _require_manifest(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such manifest of cuts")


@dataclass(frozen=True)
class _Stored:
    """The samples of an utterance, a `SampleSource`: read each time that they are asked for."""

    cut: "Cut"
    tokenizer: "Tokenizer"
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, span: slice, /) -> "Samples":
        from kdasr.evaluation.evaluate import load_recording

        return load_recording(self.cut, self.tokenizer).samples_N[span]


def _load(path: Path, tokenizer: "Tokenizer", count: int | None = None) -> list["Clip"]:
    """The utterances of a manifest (the first `count`); a data folder's are found from any directory.

    All audio is read once, so that bad audio is known at the start; none of it stays in memory.

    Raises:
        UserError: another kind of file, nothing in it, or audio that cannot be read.
    """
    from kdasr.data.folder import cuts_path, load_cuts, load_record
    from kdasr.evaluation.evaluate import load_recording
    from kdasr.evaluation.joining import in_order
    from kdasr.export.check import Clip

    part = path.name.removeprefix("cuts_").removesuffix(".jsonl.gz")
    if cuts_path(path.parent, part) == path and load_record(path.parent) is not None:
        cuts = load_cuts(path.parent, part)
    else:
        cuts = _read_cuts(path)
    clips = []
    for cut in in_order(list(cuts))[:count]:
        recording = load_recording(cut, tokenizer)
        stored = _Stored(cut, tokenizer, len(recording.samples_N))
        clips.append(Clip(recording.id, stored, " ".join(recording.ref)))
    return clips


def _read_cuts(path: Path) -> list["Cut"]:
    from kdasr.corpora.cut_manifest import read_cuts
    from kdasr.data.cut_check import check_cuts

    cuts = read_cuts(path)
    if not cuts:
        raise UserError(f"{path}: no utterances in it")
    check_cuts(cuts, path)
    return cuts
