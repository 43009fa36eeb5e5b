"""`kdasr decode`: test parts through a trained system, with word errors and latency."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdasr.cli.endpoint_options import endpoint_options, take_endpoints
from kdasr.cli.long_form import (
    batch_size,
    long_form_folder,
    long_form_options,
    parse_long_form,
    show_progress,
)
from kdasr.cli.recognisable import int8_option, load_recognisable, move_to
from kdasr.cli.search_options import (
    LanguageModelUse,
    build_recognizer,
    needs,
    parse_language_model,
    parse_search,
    search_options,
)
from kdasr.common.errors import UserError
from kdasr.common.logging import console, get_logger, setup_logging
from kdasr.nn.context import Context

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.checkpoint import Bundle
    from kdasr.data.bad import BadUtterance, MaxBad
    from kdasr.streaming.endpoint import EndpointRules
    from kdasr.streaming.evaluate import Record, Recording
    from kdasr.streaming.long_form_run import LongForm
    from kdasr.streaming.recognizer import StreamingRecognizer
    from kdasr.streaming.simulate import Simulation

log = get_logger(__name__)

MODES = ("streaming", "offline")
_MIN_WIDTH = 100
"""Columns of the table when the output is a file or a pipe."""
_FORMERLY = {"search": "greedy", "nbest": 0, "int8": False, "streams": 1}
"""Settings of summaries that do not mention them."""


@dataclass(frozen=True)
class _Run:
    """What the parts of one call share."""

    bundle: "Bundle"
    recognizer: "StreamingRecognizer"
    endpoints: "EndpointRules | None"
    mode: str
    streams: int
    nbest: int
    biasing: Path | None
    language_model: LanguageModelUse | None
    data: Path
    out: Path
    max_utterances: int
    force: bool
    checkpoint_sha256: str | None
    int8: bool
    long_form: "LongForm | None"
    max_bad: "MaxBad"
    gains: list[float]


@click.command(name="decode")
@click.argument("exp", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="Folder that `kdasr prepare` wrote."
)
@click.option("--parts", required=True, help="Parts to decode, separated by spaces or commas.")
@click.option(
    "--mode",
    type=click.Choice(MODES),
    default="streaming",
    show_default=True,
    help="Simulated streams from raw samples; or whole utterances in batches.",
)
@click.option(
    "--streams",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Streams that advance in one batch: faster, but the time with compute is measured with 1 alone.",
)
@click.option(
    "--checkpoint",
    default="auto",
    show_default=True,
    help="averaged, best, last, a file, or auto: the first of these that exists.",
)
@click.option(
    "--context",
    help="Encoder context instead of the trained one: full, or left=32,chunk=8,right=0 (frames of 40 ms).",
)
@int8_option
@search_options
@endpoint_options("no, each utterance is one segment; --long-form decodes with and without")
@long_form_options
@click.option(
    "--max-bad",
    default="1%",
    show_default=True,
    help="The most utterances of a part whose audio may be bad: a share (rounded up) or a number. They are "
    "left out, named and counted; 0 stops at the first.",
)
@click.option(
    "--gain-db",
    help="Also the error rates of the parts this much louder, such as -30,-20,-10,10; written to gain.json.",
)
@click.option("--max-utterances", type=click.IntRange(min=1), help="Only the first so many of each part.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for <mode>/<part>/ with the results.  [default: EXP/decode; bundles have none]",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of one operator."
)
@click.option("--force", is_flag=True, help="Decode again what is there already.")
def command(
    exp: Path,
    data: Path,
    parts: str,
    mode: str,
    streams: int,
    checkpoint: str,
    context: str | None,
    int8: bool,
    tail_seconds: float | None,
    max_bad: str,
    gain_db: str | None,
    max_utterances: int | None,
    out: Path | None,
    device: str,
    threads: int,
    force: bool,
    biasing: Path | None,
    nbest: int,
    lm: Path | None,
    lm_scale: float | None,
    rescore: bool,
    long_form: bool,
    minutes: float,
    gaps: str,
    gap_noise: str,
    **search: Any,
) -> None:
    """Decode test parts, offline or as simulated streams, with WER and latency.

    EXP is a system's folder, a checkpoint file, or a folder that `kdasr export` wrote, which onnxruntime runs
    (as streams only). Both modes give the same words under the same context; streaming also measures when
    each word would have been seen. A part that was decoded before from the same checkpoint, data and options
    is skipped; an interrupted one goes on where it was. Writes recogs.txt, errs.txt, utterances.jsonl and
    summary.json.

    With --long-form, the utterances of a part are joined into streams in the order in which they were
    spoken, decoded in one batch with pauses of each length, with and without resets at endpoints, and scored
    beside the same utterances one by one. Writes long-form/<part>/ with streams.jsonl, single.jsonl and
    summary.json.
    """
    from kdasr.data.bad import MaxBad
    from kdasr.streaming.loudness import parse_gains

    setup_logging()
    names = list(dict.fromkeys(parts.replace(",", " ").split()))
    if not names:
        raise UserError("--parts: name at least one part")
    if streams > 1 and mode != "streaming":
        raise UserError(f"--streams needs --mode streaming; it is {mode}")
    override = parse_context(context) if context else None
    lm_use = parse_language_model(lm, lm_scale, rescore)
    if long_form:
        needs("utterances one by one; --long-form decodes with and without", "endpoints")
    rules = take_endpoints(search, default=long_form)
    options = parse_search(language_model=lm_use, **search)
    joined = parse_long_form(long_form, minutes, gaps, gap_noise)
    if joined is not None:
        if mode != "streaming":
            raise UserError(f"--long-form needs --mode streaming; it is {mode}")
        needs("utterances one by one, not --long-form", "nbest", "gain_db")
        joined = batch_size(joined, streams)
        streams = joined.batch
    if rules is not None and mode != "streaming":
        raise UserError(f"--endpoints needs --mode streaming; it is {mode}")
    bundle = load_recognisable(exp, checkpoint, int8=int8, threads=threads)
    move_to(bundle.model, device)
    recognizer = build_recognizer(bundle, override, tail_seconds, options, biasing, lm_use)
    run = _Run(
        bundle=bundle,
        recognizer=recognizer if long_form else recognizer.with_endpoints(rules),
        endpoints=rules,
        mode=mode,
        streams=streams,
        nbest=nbest,
        biasing=biasing,
        language_model=lm_use,
        data=data,
        out=out or _default_out(exp, bundle),
        max_utterances=max_utterances or 0,
        force=force,
        checkpoint_sha256=_sha256(bundle.path),
        int8=int8,
        long_form=joined,
        max_bad=MaxBad.parse(max_bad),
        gains=parse_gains(gain_db) if gain_db else [],
    )
    if joined is not None and run.recognizer.context.is_full:
        log.warning(
            "%s has a full context and hears a stream at its end: no long form without a --context",
            bundle.name,
        )
        return
    if joined is None:
        _print_table([_decode_part(run, part) for part in names])
    else:
        _print_long_form([_decode_long_form(run, part) for part in names])


def parse_context(text: str) -> Context:
    """Read `full` or `left=32,chunk=8,right=0` (right may be left out).

    Raises:
        UserError: anything else, with the text and what was expected.
    """
    if text.strip() == "full":
        return Context.full()
    message = f"context '{text}': expected 'full' or such as 'left=32,chunk=8,right=0'"
    values: dict[str, int] = {}
    for assignment in text.replace(",", " ").split():
        name, _, number = assignment.partition("=")
        if name not in ("left", "chunk", "right") or name in values or not number.isdecimal():
            raise UserError(message)
        values[name] = int(number)
    if not {"left", "chunk"} <= set(values):
        raise UserError(message)
    try:
        return Context(**values)
    except ValueError as error:
        raise UserError(f"context '{text}': {error}") from None


def _decode_part(run: _Run, part: str) -> dict[str, Any]:
    from kdasr.data.word_times import warn_of_word_times
    from kdasr.streaming.evaluate import summarise_records, write_part
    from kdasr.streaming.loudness import signal_summary
    from kdasr.streaming.part_run import forget

    folder = run.out / run.mode / part
    cuts = _load_cuts(run, part)
    settings = _settings(run, part, cuts)
    finished = _finished(folder, settings, run.force)
    if finished is not None:
        _decode_gains(run, cuts, folder, settings, finished)
        return finished
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {run.out}: cannot write there: {error.strerror}") from None
    records, bad = _records(run, part, cuts, folder, settings)
    summary = {
        "system": run.bundle.name,
        "part": part,
        "mode": run.mode,
        **summarise_records(records),
        "signal": signal_summary(part, records),
        "bad_utterances": [list(utterance) for utterance in bad],
        "faulty_word_times": warn_of_word_times(part, cuts),
        "train_steps": run.bundle.train_steps,
        "params": run.bundle.model.num_inference_params,
        "checkpoint": str(run.bundle.path),
        **settings,
    }
    write_part(folder, records, summary)
    forget(folder)
    _decode_gains(run, cuts, folder, settings, summary)
    return summary


def _decode_gains(
    run: _Run, cuts: list["MonoCut"], folder: Path, settings: dict[str, Any], summary: dict[str, Any]
) -> None:
    from kdasr.streaming.loudness import GainFile, decode_at_gain
    from kdasr.streaming.part_run import sound_recordings

    file = GainFile(folder, settings, summary, anew=run.force)
    for gain in file.missing(run.gains):
        recordings = sound_recordings(cuts, _loader(run), bad=[])
        entry = decode_at_gain(run.recognizer, recordings, gain, offline=run.mode == "offline")
        log.info("%s at %+g dB: WER %s %%", folder, gain, _number(entry["wer"], 2))
        file.add(entry)


def _decode_long_form(run: _Run, part: str) -> dict[str, Any]:
    from kdasr.common.files import write_json
    from kdasr.data.bad import report_bad
    from kdasr.streaming.joining import in_order
    from kdasr.streaming.long_form_run import SUMMARY, decode_long_form, forget
    from kdasr.streaming.part_run import sound_cuts

    assert run.long_form is not None and run.endpoints is not None
    folder = long_form_folder(run.out, part)
    cuts = _load_cuts(run, part)
    settings = _settings(run, part, cuts) | run.long_form.settings(run.endpoints)
    finished = _finished(folder, settings, run.force)
    if finished is not None:
        return finished
    if run.force:
        forget(folder)
    load = _loader(run)
    sound, bad = sound_cuts(cuts, load, run.max_bad.at_once)
    report_bad(part, bad, len(cuts), run.max_bad, folder / "bad.tsv")
    conditions = decode_long_form(
        run.recognizer.with_endpoints(run.endpoints),
        [partial(load, cut) for cut in in_order(sound)],
        run.long_form,
        folder,
        settings,
        show_progress(f"{run.bundle.name} {part} (long form)"),
    )
    summary = {
        "system": run.bundle.name,
        "part": part,
        "conditions": conditions,
        "bad_utterances": [list(utterance) for utterance in bad],
        "train_steps": run.bundle.train_steps,
        "checkpoint": str(run.bundle.path),
        **settings,
    }
    write_json(folder / SUMMARY, summary)
    return summary


def _settings(run: _Run, part: str, cuts: list["MonoCut"]) -> dict[str, Any]:
    """Whatever decides the result of a part."""
    from kdasr.data.fingerprint import audio_fingerprint
    from kdasr.decoding.search import describe

    return {
        "checkpoint_sha256": run.checkpoint_sha256,
        "int8": run.int8,
        "context": str(run.recognizer.context),
        "tail_seconds": run.recognizer.tail_seconds,
        "search": describe(run.recognizer.search.options),
        "nbest": run.nbest,
        "streams": run.streams,
        "biasing_sha256": _sha256(run.biasing) if run.biasing else None,
        "language_model": _describe_language_model(run.language_model),
        "max_utterances": run.max_utterances,
        "cuts_sha256": _sha256(run.data / f"cuts_{part}.jsonl.gz"),
        "audio_fingerprint": audio_fingerprint(cuts),
        "endpoint_rules": asdict(run.endpoints) if run.endpoints else None,
        "calibration": asdict(run.bundle.calibration) if run.bundle.calibration else None,
        "normalization": run.bundle.tokenizer.normalization,
    }


def _finished(folder: Path, settings: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The summary of an earlier run with these settings; None when the part has to be decoded."""
    from kdasr.common.files import read_json

    if not (folder / "summary.json").is_file() or force:
        return None
    summary = read_json(folder / "summary.json")
    earlier = {name: summary.get(name, _FORMERLY.get(name)) for name in settings}
    if earlier == settings:
        log.info("%s: already decoded, --force to do it again", folder)
        return summary
    other = ", ".join(name for name in settings if earlier[name] != settings[name])
    log.warning("%s: takes the place of results with another %s", folder, other)
    return None


def _describe_language_model(use: LanguageModelUse | None) -> dict[str, Any] | None:
    """What decides the result: the weights and what is done with them."""
    from kdasr.checkpoint import find_checkpoint

    if use is None:
        return None
    digest = _sha256(find_checkpoint(use.path))
    return {"sha256": digest, "scale": use.scale, "use": "rescoring" if use.rescore else "shallow fusion"}


def _load_cuts(run: _Run, part: str) -> list["MonoCut"]:
    from itertools import islice

    from kdasr.data.folder import load_cuts

    cuts = list(islice(load_cuts(run.data, part), run.max_utterances or None))
    if not cuts:
        raise UserError(f"{run.data}: part '{part}' holds no utterances")
    return cuts


def _loader(run: _Run) -> "Callable[[MonoCut], Recording]":
    """What makes a recording of a cut, its words normalised as the system's pieces are."""
    from kdasr.streaming.evaluate import load_recording

    return partial(load_recording, tokenizer=run.bundle.tokenizer)


def _records(
    run: _Run, part: str, cuts: list["MonoCut"], folder: Path, settings: Mapping[str, Any]
) -> tuple[list["Record"], list["BadUtterance"]]:
    """The records of a part, and the utterances whose audio cannot be used, which count nowhere."""
    from rich.progress import track

    from kdasr.data.bad import report_bad
    from kdasr.streaming.evaluate import decode_offline, decode_streaming
    from kdasr.streaming.part_run import Journal, decode_cuts, forget

    label = f"{run.bundle.name} {part} ({run.mode})"

    def decode(recordings: "Iterable[Recording]") -> "Iterator[list[tuple[Recording, Simulation]]]":
        shown = track(recordings, label, total=len(cuts), console=console, transient=True)
        if run.mode == "streaming":
            return decode_streaming(run.recognizer, shown, run.nbest, run.streams)
        return decode_offline(run.recognizer, shown, run.nbest)

    if run.force:
        forget(folder)
    context = run.recognizer.context if run.mode == "streaming" else None
    journal = Journal(folder, settings)
    records, bad = decode_cuts(cuts, _loader(run), decode, context, journal, run.max_bad.at_once)
    return records, report_bad(part, bad, len(cuts), run.max_bad, folder / "bad.tsv")


def _print_table(summaries: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = summaries[0]
    onsets = sorted({summary["onset"] for summary in summaries})
    table = Table(
        title=f"{first['system']}, {first['mode']}, context {first['context']}",
        caption=f"Latencies in ms; onset of the first word by {' or '.join(onsets)}. wall: with compute.",
    )
    table.add_column("part", no_wrap=True)
    for column in (
        "WER %",
        "CER %",
        "first\ntoken",
        "\np50",
        "\np90",
        "\nwall",
        "word\ndelay",
        "finali-\nsation",
        "RTF",
    ):
        table.add_column(column, justify="right")
    for summary in summaries:
        latency = summary["first_token_ms"]
        table.add_row(
            summary["part"],
            _number(summary["wer"], 2),
            _number(summary["cer"], 2),
            *(_number(latency[name], 0) for name in ("mean", "p50", "p90", "wall_mean")),
            _number(summary["emission_delay_ms"]["mean"], 0),
            _number(summary["finalisation_ms"]["mean"], 0),
            _number(summary["rtf"], 4),
        )
    terminal = Console()
    if not terminal.is_terminal:
        terminal = Console(width=max(terminal.width, _MIN_WIDTH))
    terminal.print(table)


def _print_long_form(summaries: list[dict[str, Any]]) -> None:
    from kdasr.report.long_form import summary_rows
    from kdasr.report.tables import print_long_form

    print_long_form(
        [row for summary in summaries for row in summary_rows(summary, summary["system"], summary["part"])]
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _default_out(exp: Path, bundle: "Bundle") -> Path:
    from kdasr.export.bundle import MANIFEST

    if bundle.path.name == MANIFEST:
        raise UserError(f"--out is missing: {exp} is an exported bundle, and nothing is written into that")
    return _system_folder(exp) / "decode"


def _system_folder(exp: Path) -> Path:
    """The experiment folder of a folder or of one of its checkpoint files."""
    if exp.is_dir():
        return exp
    return exp.parent.parent if exp.parent.name == "checkpoints" else exp.parent


def _sha256(path: Path) -> str | None:
    """Digest of a file; None when there is none (whoever reads it says so better)."""
    from kdasr.common.files import sha256

    return sha256(path) if path.is_file() else None
