"""`kdasr label`: labels for speech without transcripts, by any recognizer, and filters of them."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.bad_audio import max_bad_option
from kdasr.cli.paths import InputPath, OutputFolder
from kdasr.cli.recognizable import device_of, device_option
from kdasr.cli.search_options import LM_SCALE
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger, setup_logging
from kdasr.common.ranks import Ranks

if TYPE_CHECKING:
    from kdasr.labeling.run import LabelWork, Progress
    from kdasr.labeling.selection import Selection

log = get_logger(__name__)

PLOT = "filters.png"
_INPUT = "input"


@click.command(name="label")
@click.option(
    "--labeler",
    "--labeller",
    "labelers",
    multiple=True,
    required=True,
    metavar="KIND:PLACE",
    help="whisper:FOLDER_OR_NAME, bundle:EXP, sherpa:FOLDER, jsonl:FILE. A second one judges by agreement.",
)
@click.option(
    "--cuts",
    multiple=True,
    required=True,
    type=InputPath(),
    metavar="PLACE",
    help="What to label: a manifest of Lhotse cuts, a Shar folder, or a folder of audio files. Repeatable.",
)
@click.option("--out", type=OutputFolder(), required=True, help="Folder of the labels.")
@click.option(
    "--tokens",
    type=InputPath("folder"),
    help="Pieces that the labels are for, which are written as these spell: a folder with bpe.model, or a "
    "data folder.",
)
@click.option(
    "--normalize",
    help="How labels are written: words, upper-words, upper, lower, none.  [default: as the pieces need; "
    "words without --tokens]",
)
@click.option("--language", help="Language that is spoken, such as en.  [default: the labeler finds out]")
@click.option("--beam", type=click.IntRange(min=1), default=5, show_default=True, help="1: greedy search.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Utterances that Whisper labels at once; for GPUs.",
)
@click.option("--words", is_flag=True, help="Times of words, where the labeler has them.")
@click.option("--compute-type", default="default", show_default=True, help="Of Whisper: int8, float16, ...")
@click.option("--lm", type=InputPath(), help="bundle: a language model over its pieces, for fusion.")
@click.option(
    "--lm-scale", type=float, default=LM_SCALE, show_default=True, help="Weight of the language model."
)
@click.option("--rescore", is_flag=True, help="The language model rescores the final hypotheses instead.")
@click.option(
    "--longest",
    type=click.FloatRange(min=1),
    default=28.0,
    show_default=True,
    help="bundle and sherpa: seconds heard at once; longer audio is cut at pauses and its labels are joined.",
)
@click.option(
    "--filter",
    "filters",
    multiple=True,
    metavar="NAME=THRESHOLD",
    help="Another threshold of a filter, or off: rate=1:4, score=-0.8, agreement=off. Repeatable.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="Utterances in a manifest.",
)
@max_bad_option
@device_option
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the labeler."
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Threads that read headers."
)
@click.option("--force", is_flag=True, help="Label again what is labeled already.")
def command(
    labelers: tuple[str, ...],
    cuts: tuple[Path, ...],
    out: Path,
    tokens: Path | None,
    normalize: str | None,
    filters: tuple[str, ...],
    shard_size: int,
    max_bad: str,
    jobs: int,
    force: bool,
    **options: Any,
) -> None:
    """Label speech without transcripts, and filter the labels.

    OUT becomes a folder of Lhotse cuts that `kdasr prepare --cuts train=OUT` takes: OUT/cuts.*.jsonl.gz with
    the labels that are kept, OUT/dropped/ with the others, OUT/filters.json and filters.png with what each
    filter drops and, where the cuts had transcripts, how many of its labels are wrong. What is labeled
    already is not labeled again: a stopped command goes on, and other thresholds cost nothing.

    Several processes share the utterances: torchrun --standalone --nproc-per-node N --no-python kdasr label
    ... --device cuda. Each takes the GPU of its number; the last one to finish filters.
    """
    from kdasr.data.bad import MaxBad
    from kdasr.labeling.base import LabelerOptions, open_labeler
    from kdasr.labeling.filters import filters_of

    ranks = Ranks.of_environment()
    setup_logging(level=logging.INFO if ranks.is_first else logging.WARNING)
    if len(labelers) > 2 or len(set(labelers)) < len(labelers):
        raise UserError("--labeler: one, or two different ones")
    if force and not ranks.is_alone:
        raise UserError("--force: with one process; to label again with several, remove the labels")
    chosen = filters_of(filters)
    limit = MaxBad.parse(max_bad)
    writing = _writing(tokens, normalize)
    options["device"] = device_of(options["device"], ranks)
    lm, scale = options.pop("lm"), options.pop("lm_scale")
    settings = LabelerOptions(**options, language_model=lm, language_model_scale=scale)
    opened = [open_labeler(text, settings) for text in labelers]
    # Imported here, so that a wrong option does not wait for torch and lhotse.
    from kdasr.labeling.inputs import LABELS, check_apart, read_inputs
    from kdasr.labeling.run import LabelWork
    from kdasr.labeling.selection import Selection, early_watch

    check_apart(cuts, out)
    inputs = read_inputs(cuts, out / _INPUT, jobs)
    works = []
    for number, (text, labeler) in enumerate(zip(labelers, opened, strict=True)):
        made_of = {
            **labeler.settings(),
            "batch_size": settings.batch_size,
            "shard_size": shard_size,
            "utterances": inputs.digest,
        }
        work = LabelWork(
            name=text,
            labeler=labeler,
            cuts=inputs.cuts,
            folder=out / LABELS / f"{number}-{text.partition(':')[0]}",
            settings=made_of,
            shard_size=shard_size,
            batch_size=settings.batch_size,
            ranks=ranks,
            watch=early_watch(writing),
        )
        work.check_settings(force=force)
        works.append(work)
    finished = [_label(work) for work in works]
    if not all(finished):
        log.info("%s: done, but for what other processes have in hand", out)
        return
    _finish(Selection(works, writing, chosen), out, inputs.bad, limit)


def _writing(tokens: Path | None, normalize: str | None) -> Any:
    from kdasr.data.text_rules import check_rule
    from kdasr.data.tokenizer import MODEL_NAME, Tokenizer
    from kdasr.labeling.writing import LabelWriting

    if normalize is not None:
        check_rule(normalize, "--normalize")
    if tokens is None:
        return LabelWriting(rule=normalize)
    inner = tokens / "tokens"
    return LabelWriting(Tokenizer.load(inner if (inner / MODEL_NAME).is_file() else tokens), normalize)


def _label(work: "LabelWork") -> bool:
    """Label what is missing, with progress; whether nothing is missing any more."""
    from kdasr.cli.label_progress import LabelProgress

    def show(done: float, total: float) -> "Progress":
        return LabelProgress(work.name, done, total, work.ranks)

    if all(work.finished()):
        hours = work.cuts.seconds.sum() / 3600
        log.info("%s: %d utterances, %.2f h, already labeled", work.name, len(work.cuts), hours)
    return work.run(show)


def _finish(selection: "Selection", out: Path, unusable: list[Any], limit: Any) -> None:
    """Filter and report, by one process, once all labels are there.

    Args:
        selection: decides what is kept.
        out: the folder of the labels.
        unusable: the utterances that are not among those to be labeled.
        limit: of bad audio.

    Raises:
        UserError: too much bad audio, a language that the pieces cannot spell, or no label that is kept.
    """
    from kdasr.common.files import write_json
    from kdasr.common.locks import locked
    from kdasr.common.terminal import table_console
    from kdasr.data.bad import report_bad
    from kdasr.labeling.inputs import SUMMARY
    from kdasr.labeling.summary import summarize
    from kdasr.report.labels import labels_plot, labels_table, summary_lines
    from kdasr.report.style import save_png

    with locked(out):
        works = selection.works
        total = len(works[0].cuts) + len({item.id for item in unusable})
        bad = [*unusable, *(item for work in works for item in work.bad())]
        report_bad(str(out), bad, total, limit, out / "bad.tsv")
        counts = selection.write(out)
        settings = {
            "normalization": selection.writing.name,
            "labelers": [{"name": work.name, **work.settings} for work in works],
        }
        summary = summarize(works, selection.filters, counts, settings)
        write_json(out / SUMMARY, summary)
        save_png(labels_plot(summary), out / PLOT)
    table_console().print(labels_table(summary))
    for line in summary_lines(summary):
        click.echo(line)
    counts.check_spelling()
    if not counts.kept.labels:
        raise UserError(f"{out}: no label is kept; {out / SUMMARY} says what each filter drops")
    click.echo(f"train on them: kdasr prepare --cuts train={out} ...")
