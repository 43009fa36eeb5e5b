"""`kdasr align`: word times by a teacher's own alignment."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.part_options import data_option, max_utterances_option, named_parts, parts_option
from kdasr.cli.paths import CHECKPOINT, ExperimentPath, InputPath, OutputFolder
from kdasr.cli.recognizable import checkpoint_option, device_option, move_to, threads_option
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger, setup_logging

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.bundle import Bundle
    from kdasr.self_training.word_times.error import Times

log = get_logger(__name__)


@click.command(name="align")
@click.argument("exp", type=ExperimentPath(CHECKPOINT))
@data_option
@parts_option("align")
@click.option(
    "--method",
    type=click.Choice(["transducer", "ctc"]),
    default="transducer",
    show_default=True,
    help="Whose best path: the transducer's, or that of the CTC head.",
)
@click.option(
    "--out",
    type=OutputFolder(),
    help="Write LibriSpeech-Alignments' text form into this folder.  [default: into the cuts of --data]",
)
@click.option("--replace", is_flag=True, help="Also utterances that have word times.")
@click.option(
    "--reference",
    type=InputPath(),
    help="Alignments to compare with, as kdasr latency takes them; nothing is written without --out.",
)
@checkpoint_option
@max_utterances_option
@device_option
@threads_option
def command(
    exp: Path,
    data: Path,
    parts: str,
    method: str,
    out: Path | None,
    replace: bool,
    reference: Path | None,
    checkpoint: str,
    max_utterances: int | None,
    device: str,
    threads: int,
) -> None:
    """Align transcripts with audio by a trained system, and keep the times of the words.

    EXP is a system's folder or a checkpoint file; a teacher with the full context knows most. For corpora
    without alignments: `left_buffer` and `right_buffer` of training need word times, and so does latency.
    Utterances that have word times keep them. An interrupted run goes on where it was; utterances that
    cannot be aligned are counted, named and listed.
    """
    setup_logging()
    names = named_parts(parts)
    import torch

    from kdasr.bundle import load_bundle

    torch.set_num_threads(threads)
    bundle = load_bundle(exp, checkpoint, as_trained=True)
    move_to(bundle.model, device)
    for part in names:
        cuts, others = _cuts(data, part, replace or reference is not None, max_utterances)
        if not cuts:
            click.echo(f"{part}: every utterance has word times already; --replace makes new ones")
            continue
        _align(bundle, cuts, others, data, part, method, out, reference)


def _cuts(data: Path, part: str, all_of_them: bool, limit: int | None) -> tuple[list["MonoCut"], int]:
    """The cuts to align, and how many others have word times already and keep them."""
    from kdasr.data.folder import load_cuts
    from kdasr.data.word_times import aligned_words

    cuts = list(load_cuts(data, part, limit))
    chosen = cuts if all_of_them else [cut for cut in cuts if not aligned_words(cut)]
    return chosen, len(cuts) - len(chosen)


def _align(
    bundle: "Bundle",
    cuts: list["MonoCut"],
    num_others: int,
    data: Path,
    part: str,
    method: str,
    out: Path | None,
    reference: Path | None,
) -> None:
    from kdasr.common.ranks import forget_journal
    from kdasr.data.audio_files import quote
    from kdasr.data.tokens import warn_of_other_text
    from kdasr.data.usable import cut_text
    from kdasr.self_training.word_times.pieces import PieceAligner
    from kdasr.self_training.word_times.run import align_part, journal_path, report_failed
    from kdasr.self_training.word_times.write import fits_text_form, write_into_cuts, write_text_form

    folder = (out or data) / "word-times" / part
    settings = _settings(bundle, cuts, method)
    warn_of_other_text(data, part, map(cut_text, cuts), bundle.tokenizer)
    found = align_part(cuts, PieceAligner(bundle, method), folder, settings, _progress(part))
    report_failed(part, found, folder / "failed.tsv")
    if not found.times and num_others:
        # As after a run before this one, which has aligned all that can be.
        click.echo(f"{part}: {num_others} utterances have word times already, none of the others gets any")
        forget_journal(journal_path(folder))
        return
    if not found.times:
        raise UserError(f"{part}: none of {len(cuts)} utterances could be aligned; see {folder}/failed.tsv")
    click.echo(
        f"{part}: {len(found.times)} utterances aligned, {len(found.failed)} not; words begin "
        f"{1000 * found.lead:.0f} ms before their first piece, and end {1000 * found.tail:.0f} ms after the "
        "last one"
    )
    if reference is not None:
        _compare(found.times, reference, bundle, part)
    if out is not None:
        times = {id: words for id, words in found.times.items() if fits_text_form(id, words)}
        if len(times) < len(found.times):
            left_out = sorted(set(found.times) - set(times))
            log.warning(
                "%s: %d utterances whose id or words the text form cannot spell, left out: %s",
                part,
                len(left_out),
                quote(left_out),
            )
        files = write_text_form(out, part, times)
        click.echo(f"{out / part}: {len(files)} files")
    elif reference is None:
        write_into_cuts(data, part, found.times, f"{bundle.name}, {method}")
        click.echo(f"{data}: the cuts of {part} have word times")
    forget_journal(journal_path(folder))


def _settings(bundle: "Bundle", cuts: Sequence["MonoCut"], method: str) -> dict[str, Any]:
    """What decides the emission times of every utterance."""
    from hashlib import sha256

    from kdasr.common.files import sha256 as file_sha256
    from kdasr.data.fingerprint import audio_fingerprint
    from kdasr.data.usable import cut_text

    digest = sha256()
    for cut in cuts:
        digest.update(repr((cut.id, cut.duration, cut_text(cut))).encode())
    return {
        "checkpoint": file_sha256(bundle.path),
        "method": method,
        "cuts": digest.hexdigest(),
        "audio_fingerprint": audio_fingerprint(cuts),
    }


def _progress(part: str) -> Any:
    from rich.progress import track

    from kdasr.common.logging import console

    def show(cuts: Sequence["MonoCut"]) -> Iterator["MonoCut"]:
        yield from track(cuts, f"align {part}", console=console, transient=True)

    return show


def _compare(times: "Times", reference: Path, bundle: "Bundle", part: str) -> None:
    """Print how far the times are from those of a reference."""
    from kdasr.evaluation.timed_results import read_references
    from kdasr.self_training.word_times.error import error_of_times

    found = error_of_times(times, read_references(reference, bundle.tokenizer.normalize))
    if not found["num_words"]:
        raise UserError(f"--reference {reference}: has no utterance of {part} with the same words")
    click.echo(
        f"{part}: against {reference}: {found['num_utterances']} utterances, {found['num_words']} words"
        + (f"; {found['num_different']} with other words, left out" if found["num_different"] else "")
    )
    for name in ("onset", "begin", "end"):
        error = found[name]
        what = "onset of the first word" if name == "onset" else f"{name} of words"
        click.echo(
            f"  {what}: error {error['mean']:.0f} ms on average, 90 % within {error['p90']:.0f} ms, "
            f"median {error['bias']:+.0f} ms"
        )
