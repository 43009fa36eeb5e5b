"""`kdasr decode`: test parts through a trained system, with word errors and latency."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from kdasr.cli.bad_audio import max_bad_option
from kdasr.cli.contexts import (
    parse_context,
    parse_contexts,
    system_folder,
    trained_contexts,
    warn_of_untrained,
)
from kdasr.cli.decode_part import decode_part, decode_part_as_streams, finished_part
from kdasr.cli.decode_run import DecodeRun, file_sha256
from kdasr.cli.endpoint_options import endpoint_options, take_endpoints
from kdasr.cli.long_form import (
    batch_size,
    long_form_options,
    parse_long_form,
)
from kdasr.cli.part_options import data_option, max_utterances_option, named_parts, parts_option
from kdasr.cli.paths import CHECKPOINT, EXPORTED, ExperimentPath, OutputFolder
from kdasr.cli.recognizable import (
    checkpoint_option,
    device_of,
    device_option,
    int8_option,
    load_recognizable,
    move_to,
    threads_option,
)
from kdasr.cli.search_options import (
    LanguageModelUse,
    build_recognizer,
    needs,
    parse_language_model,
    parse_search,
    search_options,
)
from kdasr.cli.tune_rescoring import Tuning, tuned_weights
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger, setup_logging
from kdasr.common.ranks import Ranks
from kdasr.nn.context import Context

log = get_logger(__name__)

MODES = ("streaming", "offline")
_LATENCIES = ("first_word", "first_token", "emission_delay", "finalization")


@click.command(name="decode")
@click.argument("exp", type=ExperimentPath(CHECKPOINT, EXPORTED))
@data_option
@parts_option("decode")
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
@checkpoint_option
@click.option(
    "--context",
    help="Encoder context instead of the trained one: full, or left=32,chunk=8,right=0 (encoder frames).",
)
@click.option(
    "--all-contexts",
    is_flag=True,
    help="Also under every context that the system was trained with; those results go to EXP/contexts.",
)
@click.option(
    "--contexts",
    help="Instead under each of these: 'full; left=32,chunk=8; left=32,chunk=4,right=2'. To EXP/contexts.",
)
@int8_option
@click.option("--as-trained", is_flag=True, help="Without what `kdasr calibrate` found.")
@search_options
@click.option(
    "--tune",
    help="With --rescore: choose its weights, --lm-scale and --word-bonus, on these parts, by fewest errors.",
)
@endpoint_options("no, each utterance is one segment; --long-form decodes with and without")
@long_form_options
@max_bad_option
@click.option(
    "--gain-db",
    help="Also the error rates of the parts this much louder, such as -30,-20,-10,10; written to gain.json.",
)
@max_utterances_option
@click.option(
    "--out",
    type=OutputFolder(),
    help="Folder for <mode>/<part>/ with the results.  [default: EXP/decode; bundles have none]",
)
@device_option
@threads_option
@click.option("--force", is_flag=True, help="Decode again what is there already.")
def command(
    exp: Path,
    data: Path,
    parts: str,
    mode: str,
    streams: int,
    checkpoint: str,
    context: str | None,
    all_contexts: bool,
    contexts: str | None,
    int8: bool,
    as_trained: bool,
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
    word_bonus: float | None,
    tune: str | None,
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

    Several processes share out the utterances: torchrun --standalone --nproc-per-node N --no-python kdasr
    decode ... --device cuda. Each takes the GPU of its number; the last one to finish writes the results.

    With --long-form, the utterances of a part are joined into streams in the order in which they were
    spoken, decoded in one batch with pauses of each length, with and without resets at endpoints, and scored
    beside the same utterances one by one. Writes long-form/<part>/ with streams.jsonl, single.jsonl and
    summary.json.
    """
    from kdasr.data.bad import MaxBad

    ranks = Ranks.of_environment()
    setup_logging(level=logging.INFO if ranks.is_first else logging.WARNING)
    names = named_parts(parts)
    limit = MaxBad.parse(max_bad)
    if streams > 1 and mode != "streaming":
        raise UserError(f"--streams needs --mode streaming; it is {mode}")
    override = parse_context(context) if context else None
    lm_use = parse_language_model(lm, lm_scale, rescore, word_bonus)
    if tune is not None:
        needs("given weights, not --tune", "lm_scale", "word_bonus")
        if lm_use is None or not rescore:
            raise UserError("--tune needs --lm and --rescore")
    if long_form:
        needs("utterances one by one; --long-form decodes with and without", "endpoints")
        if mode != "streaming":
            raise UserError(f"--long-form needs --mode streaming; it is {mode}")
        needs("utterances one by one, not --long-form", "nbest", "gain_db")
    rules = take_endpoints(search, default=long_form)
    if rules is not None and mode != "streaming":
        raise UserError(f"--endpoints needs --mode streaming; it is {mode}")
    if all_contexts:
        needs("one context, not --all-contexts", "context", "long_form", "out", "contexts")
    # What follows waits for torch.
    from kdasr.evaluation.loudness import parse_gains
    from kdasr.export.foreign import is_exported

    if (all_contexts or contexts is not None) and is_exported(exp):
        option = "--all-contexts" if all_contexts else "--contexts"
        raise UserError(
            f"{option}: {exp} is an exported bundle, whose graphs have one context: give the experiment "
            "folder, or export it under each --context"
        )
    options = parse_search(language_model=lm_use, **search)
    joined = parse_long_form(long_form, minutes, gaps, gap_noise)
    if joined is not None:
        joined = replace(batch_size(joined, streams), ranks=ranks)
        streams = joined.batch
    others = trained_contexts(system_folder(exp)) if all_contexts else {}
    if contexts is not None:
        needs("one context, not --contexts", "context", "long_form", "out")
        others = parse_contexts(contexts, system_folder(exp))
    warn_of_untrained(exp, filter(None, (override, *others.values())))
    if force and not ranks.is_alone:
        raise UserError("--force: with one process; to decode again with several, remove the results")
    out = out or _default_out(exp)
    gains_db = parse_gains(gain_db) if gain_db else []
    bundle = load_recognizable(exp, checkpoint, int8=int8, threads=threads, as_trained=as_trained)
    move_to(bundle.model, device_of(device, ranks))

    def tuned(under: Context | None, folder: Path) -> LanguageModelUse | None:
        """The use of the language model, with weights that were chosen under this context."""
        if tune is None or lm_use is None:
            return lm_use
        plain = build_recognizer(bundle, under, tail_seconds, options, biasing)
        chosen_on = list(dict.fromkeys(tune.replace(",", " ").split()))
        tuning = Tuning(
            bundle, plain, biasing, data, chosen_on, folder, max_utterances or 0, force, ranks.is_alone
        )
        return tuned_weights(lm_use, tuning)

    for other in others.values():  # what cannot be is said before anything is decoded
        build_recognizer(bundle, other, tail_seconds, options, biasing).with_endpoints(rules)
    own_use = tuned(override, out) if contexts is None else lm_use
    recognizer = build_recognizer(bundle, override, tail_seconds, options, biasing, own_use)
    run = DecodeRun(
        bundle=bundle,
        recognizer=recognizer if long_form else recognizer.with_endpoints(rules),
        endpoints=rules,
        mode=mode,
        streams=streams,
        nbest=nbest,
        biasing=biasing,
        language_model=own_use,
        data=data,
        out=out,
        max_utterances=max_utterances or 0,
        force=force,
        checkpoint_sha256=file_sha256(bundle.path),
        int8=int8,
        long_form=joined,
        max_bad=limit,
        gains=gains_db,
        ranks=ranks,
    )
    if joined is not None and run.recognizer.needs_end:
        log.warning(
            "%s needs the end of a stream under the context '%s': no long form without another --context",
            bundle.name, run.recognizer.context,
        )  # fmt: skip
        return
    if contexts is None:
        _decode_parts(run, names)
    for name, other in others.items():
        folder = system_folder(exp) / "contexts" / name
        use = tuned(other, folder)
        recognizer = build_recognizer(bundle, other, tail_seconds, options, biasing, use)
        under = replace(run, recognizer=recognizer.with_endpoints(rules), language_model=use, out=folder)
        _decode_parts(under, names)


def _decode_parts(run: DecodeRun, names: list[str]) -> None:
    """Decode the parts, and show their results if those of all parts are there."""
    decode = decode_part if run.long_form is None else decode_part_as_streams
    summaries = [decode(run, part) for part in names]
    # What others had in hand then may be finished by now.
    there = [summary or finished_part(run, part) for part, summary in zip(names, summaries, strict=True)]
    if None not in there:
        show = _print_table if run.long_form is None else _print_long_form
        show([summary for summary in there if summary is not None])


def _print_table(summaries: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from kdasr.common.terminal import table_console

    first = summaries[0]
    onsets = sorted({summary.get("onset") or "an unknown source" for summary in summaries})
    table = Table(
        title=f"{first['system']}, {first['mode']}, context {first['context']}",
        caption=f"Latencies in ms; onset of the first word by {' or '.join(onsets)}. wall: with compute.",
    )
    table.add_column("part", no_wrap=True)
    for column in (
        "WER %",
        "CER %",
        "first\nword",
        "\np90",
        "right\n%",
        "first\ntoken",
        "\nwall",
        "word\ndelay",
        "finali-\nsation",
        "RTF",
    ):
        table.add_column(column, justify="right")
    for summary in summaries:
        # An older version may not have measured all of it.
        word, token, delay, final = (summary.get(f"{name}_ms") or {} for name in _LATENCIES)
        coverage = word.get("coverage")
        table.add_row(
            summary["part"],
            *(_number(summary.get(rate), 2) for rate in ("wer", "cer")),
            *(_number(word.get(name), 0) for name in ("mean", "p90")),
            _number(None if coverage is None else 100 * coverage, 0),
            *(_number(token.get(name), 0) for name in ("mean", "wall_mean")),
            *(_number(found.get("mean"), 0) for found in (delay, final)),
            _number(summary.get("rtf"), 4),
        )
    table_console().print(table)


def _print_long_form(summaries: list[dict[str, Any]]) -> None:
    from kdasr.report.long_form import summary_rows
    from kdasr.report.tables import print_long_form

    print_long_form(
        [row for summary in summaries for row in summary_rows(summary, summary["system"], summary["part"])]
    )


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"


def _default_out(exp: Path) -> Path:
    from kdasr.export.foreign import is_exported

    if is_exported(exp):
        raise UserError(f"--out is missing: {exp} is an exported bundle, and nothing is written into that")
    return system_folder(exp) / "decode"
