"""One part of a corpus decoded by `kdasr decode`, one by one or as long streams; what is finished is kept."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.cli.decode_run import SUMMARY, DecodeRun, finished_summary, settings_of, summary_there
from kdasr.cli.long_form import long_form_folder, show_progress
from kdasr.common.errors import UserError
from kdasr.common.logging import console, get_logger

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.common.ranks import Ranks
    from kdasr.evaluation.evaluate import Record, Recording

log = get_logger(__name__)


def decode_part(run: DecodeRun, part: str) -> dict[str, Any] | None:
    """Decode the utterances of a part one by one; returns its summary.

    Of several processes, the one that finds the last share finished writes the results. None: others have
    not finished theirs.
    """
    folder = run.out / run.mode / part
    cuts = _load_cuts(run, part)
    settings = settings_of(run, part, cuts)
    summary = finished_summary(folder, settings, run.force)
    if summary is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {run.out}: cannot write there: {error.strerror}") from None
        summary = _decode_utterances(run, part, cuts, folder, settings)
    _decode_gains(run, cuts, folder, settings)
    return summary


def finished_part(run: DecodeRun, part: str) -> dict[str, Any] | None:
    """The summary of a part that is finished; None while it is not."""
    folder, settings = run.out / run.mode / part, settings_of(run, part, _load_cuts(run, part))
    if run.long_form is not None:
        assert run.endpoints is not None
        folder = long_form_folder(run.out, part)
        settings |= run.long_form.settings(run.endpoints)
    return summary_there(folder, settings)


def _decode_utterances(
    run: DecodeRun, part: str, cuts: list["MonoCut"], folder: Path, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """What is missing of this process's share; the summary once nothing is missing anywhere."""
    from kdasr.common.locks import locked
    from kdasr.common.ranks import forget_journal
    from kdasr.data.bad import report_bad
    from kdasr.evaluation.batches import BatchDecoder
    from kdasr.evaluation.evaluate import make_record, write_part
    from kdasr.evaluation.part_run import PARTIAL, PartWork, decode_batches

    _warn_of_text(run, part, cuts)
    if run.force:
        forget_journal(folder / PARTIAL)
    decoder = BatchDecoder(run.recognizer, run.mode == "offline", run.streams, run.nbest)
    windows = run.recognizer.windows if run.mode == "streaming" else None
    work = PartWork(
        batches=decoder.plan(cuts),
        load=_loader(run),
        decode=decoder,
        make=partial(make_record, windows=windows),
        journal=folder / PARTIAL,
        settings=settings,
        ranks=run.ranks,
        stop_at_bad=run.max_bad.at_once,
    )

    def summary_of_others() -> dict[str, Any] | None:
        return None if run.ranks.is_alone else summary_there(folder, settings)

    label = f"{run.bundle.name} {part} ({run.mode})"
    results = decode_batches(work, lambda: summary_of_others() is not None, partial(_shown, label, run.ranks))
    with locked(folder):
        if (summary := summary_of_others()) is not None:
            return summary
        if results.items is None and not (work.stop_at_bad and results.bad):
            log.info("%s: done, but for what other processes have in hand", folder)
            return None
        bad = report_bad(part, results.bad, len(cuts), run.max_bad, folder / "bad.tsv")
        assert results.items is not None  # what stops the work is too much for `report_bad`
        summary = {
            **_summarize(run, part, cuts, results.items),
            "bad_utterances": [list(utterance) for utterance in bad],
            **settings,
        }
        write_part(folder, results.items, summary)
        forget_journal(work.journal)
    return summary


def _summarize(run: DecodeRun, part: str, cuts: list["MonoCut"], records: list["Record"]) -> dict[str, Any]:
    """What the records of a part say, and of what system they are."""
    from kdasr.data.word_times import warn_of_word_times
    from kdasr.evaluation.evaluate import summarize_records
    from kdasr.evaluation.loudness import signal_summary

    context, geometry = run.recognizer.context, run.recognizer.geometry
    return {
        "system": run.bundle.name,
        "part": part,
        "mode": run.mode,
        **summarize_records(records),
        "signal": signal_summary(part, records),
        "faulty_word_times": warn_of_word_times(part, cuts),
        "train_steps": run.bundle.train_steps,
        "params": run.bundle.model.num_inference_params,
        "frame_seconds": geometry.frame_seconds,
        "wait_frames": None if context.is_full else geometry.wait_frames(context),
        "checkpoint": str(run.bundle.path),
    }


def _shown(label: str, ranks: "Ranks", items: "Sequence[int]") -> "Iterable[int]":
    """A bar on the terminal, for the first of several processes."""
    from rich.progress import track

    return track(items, label, console=console, transient=True, disable=not ranks.is_first)


def _decode_gains(run: DecodeRun, cuts: list["MonoCut"], folder: Path, settings: dict[str, Any]) -> None:
    """Add to `gain.json` what is not measured yet."""
    from kdasr.common.files import read_object
    from kdasr.common.locks import locked
    from kdasr.common.ranks import forget_journal
    from kdasr.evaluation.batches import BatchDecoder
    from kdasr.evaluation.loudness import GAIN_FILE, STREAMS, GainFile, error_rates, errors_of, louder
    from kdasr.evaluation.part_run import PartWork, decode_batches

    decoder = BatchDecoder(run.recognizer, run.mode == "offline", STREAMS)
    load = _loader(run)
    for gain in GainFile(folder, settings, anew=run.force).missing(run.gains):
        work = PartWork(
            batches=decoder.plan(cuts),
            load=lambda cut, gain=gain: louder(load(cut), gain),  # type: ignore[misc]
            decode=decoder,
            make=errors_of,
            journal=folder / f"{GAIN_FILE}.partial.{gain:g}dB",
            settings=settings,
            ranks=run.ranks,
        )
        if run.force:
            forget_journal(work.journal)
        label = f"{run.bundle.name} {folder.name} ({gain:+g} dB)"

        def is_finished(gain: float = gain) -> bool:
            return not GainFile(folder, settings).missing([gain])

        results = decode_batches(work, is_finished, partial(_shown, label, run.ranks))
        if results.items is None:
            continue
        with locked(folder):
            if is_finished():
                continue
            entry = error_rates(gain, results.items)
            rate = "-" if entry["wer"] is None else f"{entry['wer']:.2f} %"
            log.info("%s at %+g dB: WER %s", folder, gain, rate)
            GainFile(folder, settings).add(entry, read_object(folder / SUMMARY))
            forget_journal(work.journal)


def decode_part_as_streams(run: DecodeRun, part: str) -> dict[str, Any] | None:
    """Decode the utterances of a part joined into streams; returns its summary.

    None: other processes have not finished their shares.
    """
    from kdasr.common.files import write_json
    from kdasr.data.bad import report_bad
    from kdasr.evaluation.joining import in_order
    from kdasr.evaluation.long_form_run import decode_long_form, forget
    from kdasr.evaluation.part_run import sound_cuts

    assert run.long_form is not None and run.endpoints is not None
    folder = long_form_folder(run.out, part)
    cuts = _load_cuts(run, part)
    settings = settings_of(run, part, cuts) | run.long_form.settings(run.endpoints)
    finished = finished_summary(folder, settings, run.force)
    if finished is not None:
        return finished
    _warn_of_text(run, part, cuts)
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
    if conditions is None:
        return None
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


def _load_cuts(run: DecodeRun, part: str) -> list["MonoCut"]:
    from kdasr.data.folder import load_cuts

    return list(load_cuts(run.data, part, run.max_utterances or None))


def _warn_of_text(run: DecodeRun, part: str, cuts: list["MonoCut"]) -> None:
    """Say where the system writes references otherwise than the data folder was prepared for."""
    from kdasr.data.tokens import warn_of_other_text
    from kdasr.data.usable import cut_text

    warn_of_other_text(run.data, part, map(cut_text, cuts), run.bundle.tokenizer)


def _loader(run: DecodeRun) -> "Callable[[MonoCut], Recording]":
    """What makes a recording of a cut, its words normalized as the system's pieces are."""
    from kdasr.evaluation.evaluate import load_recording

    return partial(load_recording, tokenizer=run.bundle.tokenizer)
