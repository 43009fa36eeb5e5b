"""`kdasr latency`: word errors and latency of anybody's results, by the definitions of this project."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from kdasr.cli.paths import InputPath, OutputFolder
from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging


@click.command(name="latency")
@click.option(
    "--format", "format_name", required=True, metavar="NAME", help="icefall, nemo, sherpa, ctm or kdasr."
)
@click.argument("reference", type=InputPath())
@click.argument("files", nargs=-1, required=True, type=InputPath())
@click.option(
    "--chunk",
    type=click.FloatRange(min=0.0, max=60.0),
    default=0.0,
    show_default=True,
    help="Seconds of a chunk: a piece is shown when its chunk is complete. 0: times are those of showing.",
)
@click.option(
    "--look-ahead",
    type=click.FloatRange(min=0.0, max=60.0),
    default=0.0,
    show_default=True,
    help="Seconds that must be heard after that.",
)
@click.option(
    "--normalize",
    default="words",
    show_default=True,
    help="How words of both sides are written to be compared: none, upper, lower, words, upper-words.",
)
@click.option("--out", type=OutputFolder(), help="Folder for all numbers, as JSON.")
def command(
    format_name: str,
    reference: Path,
    files: tuple[Path, ...],
    chunk: float,
    look_ahead: float,
    normalize: str,
    out: Path | None,
) -> None:
    """Measure results of other toolkits: WER, first-word latency, finalization.

    REFERENCE has the true word times: LibriSpeech-Alignments (a folder or a file), a ctm file, or Lhotse cuts
    with alignments. Each of FILES is one system: a file in the given format, or a folder of such files. All
    systems after the first are compared with it. docs/latency.md defines every number.
    """
    from kdasr.data.text_normalization import TextNormalizer
    from kdasr.data.text_rules import check_rule
    from kdasr.evaluation import foreign
    from kdasr.evaluation.foreign.base import read_hypotheses

    assert foreign.__all__  # imported: every format is known now
    setup_logging()
    check_rule(normalize, "--normalize")
    write = TextNormalizer(rule="identity", written=normalize)
    found = {name: read_hypotheses(file, format_name) for name, file in _named(files).items()}
    # Imported here, so that a wrong option does not wait for lhotse.
    from kdasr.evaluation.timed_results import Display, read_references, score_system

    references = read_references(reference, write)
    display = Display(chunk, look_ahead)
    scores = {name: score_system(references, heard, display, write) for name, heard in found.items()}
    missing = {name: len(set(references) - set(heard)) for name, heard in found.items()}
    unused = {name: len(set(heard) - set(references)) for name, heard in found.items()}
    _report(scores, missing, unused, out)


def _named(files: tuple[Path, ...]) -> dict[str, Path]:
    """By the name of a system: of its file, with so many folders before it as tell it from the others."""
    for depth in range(1, 1 + max(len(file.parts) for file in files)):
        names = ["/".join(file.parts[-depth:]) for file in files]
        if len(set(names)) == len(files):
            return dict(zip(names, files, strict=True))
    raise UserError(f"{files[0]}: a file was given twice")


def _report(
    scores: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, int],
    unused: Mapping[str, int],
    out: Path | None,
) -> None:
    from kdasr.common.files import write_json
    from kdasr.evaluation.timed_results import compare_scores, summarize_scores, utterance_lines

    names = list(scores)
    summaries = [
        {
            "system": name,
            **summarize_scores(scores[name]),
            "num_missing": missing[name],
            "num_without_reference": unused[name],
        }
        for name in names
    ]
    gains = {name: compare_scores(scores[name], scores[names[0]]) for name in names[1:]}
    click.echo(_table(summaries))
    for summary in summaries:
        if summary["num_missing"]:
            click.echo(f"{summary['system']}: {summary['num_missing']} utterance(s) of the reference missing")
        if summary["num_without_reference"]:
            number = summary["num_without_reference"]
            click.echo(f"{summary['system']}: {number} utterance(s) without a reference, left out")
    for name, found in gains.items():
        gain = found.gain
        if not gain.count:
            click.echo(f"{name}: no utterance of which both {names[0]} and it have the first word right")
            continue
        unit = f"{gain.speakers} speakers" if gain.speakers else "single utterances: too few known speakers"
        way, sign = ("earlier", 1) if gain.estimate >= 0 else ("later", -1)
        low, high = sorted((sign * gain.low, sign * gain.high))
        span = f"{low:z.0f} to {high:z.0f}" if math.isfinite(low) else "no interval"
        click.echo(
            f"{name}: first word {abs(gain.estimate):.0f} ms {way} than {names[0]} ({span}), where both have "
            f"it right: {gain.count} utterances"
            + ("" if found.coverage is None else f", {100 * found.coverage:.0f} %")
            + f"; resampled: {unit}"
        )
    if out is not None:
        comparisons = [
            {"system": name, "against": names[0], "num_speakers": found.gain.speakers, **found.as_json()}
            for name, found in gains.items()
        ]
        write_json(out / "summary.json", {"systems": summaries, "comparisons": comparisons})
        write_json(out / "utterances.json", {name: utterance_lines(found) for name, found in scores.items()})


_COLUMNS = (
    "system", "utts", "WER %", "first word: mean", "p50", "p90", "right %",
    "first token: wrong %", "premature %", "missing %", "emission delay", "finalization",
)  # fmt: skip


def _table(summaries: list[dict[str, Any]]) -> str:
    """A Markdown table, latencies in ms."""
    lines = [list(_COLUMNS)]
    for summary in summaries:
        word, shares = summary["first_word_ms"], summary["first_tokens"]
        cells = [summary["system"], str(summary["num_utterances"]), _number(summary["wer"], 2)]
        cells += [_number(word[name]) for name in ("mean", "p50", "p90")]
        found = [word["coverage"], *(shares[kind] for kind in ("wrong", "premature", "missing"))]
        cells += [_number(None if share is None else 100 * share, 1) for share in found]
        cells += [_number(summary[name]["mean"]) for name in ("emission_delay_ms", "finalization_ms")]
        lines.append(cells)
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"
