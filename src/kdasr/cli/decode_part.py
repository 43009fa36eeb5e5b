"""One part of a corpus decoded by `kdasr decode`, one by one or as long streams; what is finished is kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.cli.long_form import long_form_folder, show_progress
from kdasr.cli.search_options import LanguageModelUse
from kdasr.common.errors import UserError
from kdasr.common.logging import console, get_logger

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.bundle import Bundle
    from kdasr.common.ranks import Ranks
    from kdasr.data.bad import MaxBad
    from kdasr.evaluation.evaluate import Record, Recording
    from kdasr.evaluation.long_form_run import LongForm
    from kdasr.recognition.endpoint import EndpointRules
    from kdasr.recognition.recognizer import StreamingRecognizer

log = get_logger(__name__)

SUMMARY = "summary.json"
"""Of a part, in the folder of its results; written last."""

_FORMERLY = {"search": "greedy", "nbest": 0, "int8": False, "streams": 1, "calibrated_blank_penalty": 0.0}
"""Settings of summaries that do not mention them."""


@dataclass(frozen=True)
class DecodeRun:
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
    ranks: "Ranks"
    """Which of several processes that share out the utterances this one is."""


def decode_part(run: DecodeRun, part: str) -> dict[str, Any] | None:
    """Decode the utterances of a part one by one; returns its summary.

    Of several processes, the one that finds the last share finished writes the results. None: others have
    not finished theirs.
    """
    folder = run.out / run.mode / part
    cuts = _load_cuts(run, part)
    settings = _settings(run, part, cuts)
    summary = _finished(folder, settings, run.force)
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
    folder, settings = run.out / run.mode / part, _settings(run, part, _load_cuts(run, part))
    if run.long_form is not None:
        assert run.endpoints is not None
        folder = long_form_folder(run.out, part)
        settings |= run.long_form.settings(run.endpoints)
    return _summary_there(folder, settings)


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
        return None if run.ranks.is_alone else _summary_there(folder, settings)

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

    return {
        "system": run.bundle.name,
        "part": part,
        "mode": run.mode,
        **summarize_records(records),
        "signal": signal_summary(part, records),
        "faulty_word_times": warn_of_word_times(part, cuts),
        "train_steps": run.bundle.train_steps,
        "params": run.bundle.model.num_inference_params,
        "frame_seconds": run.recognizer.geometry.frame_seconds,
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
    settings = _settings(run, part, cuts) | run.long_form.settings(run.endpoints)
    finished = _finished(folder, settings, run.force)
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


def _settings(run: DecodeRun, part: str, cuts: list["MonoCut"]) -> dict[str, Any]:
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
        "biasing_sha256": file_sha256(run.biasing) if run.biasing else None,
        "language_model": _describe_language_model(run.language_model),
        "max_utterances": run.max_utterances,
        "cuts_sha256": file_sha256(run.data / f"cuts_{part}.jsonl.gz"),
        "audio_fingerprint": audio_fingerprint(cuts),
        "endpoint_rules": asdict(run.endpoints) if run.endpoints else None,
        "calibrated_blank_penalty": run.bundle.blank_penalty,
        "calibration": asdict(run.bundle.calibration) if run.bundle.calibration else None,
        "normalization": run.bundle.tokenizer.normalization,
    }


def _finished(folder: Path, settings: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The summary of an earlier run with these settings; None when the part has to be decoded."""
    from kdasr.common.files import read_object

    if force or not (folder / SUMMARY).is_file():
        return None
    if (summary := _summary_there(folder, settings)) is not None:
        log.info("%s: already decoded, --force to do it again", folder)
        return summary
    earlier = read_object(folder / SUMMARY)
    other = ", ".join(name for name in settings if _setting(earlier, name) != settings[name])
    log.warning("%s: takes the place of results with another %s", folder, other)
    return None


def _summary_there(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary in a folder, if it is one of these settings."""
    from kdasr.common.files import read_object

    if not (folder / SUMMARY).is_file():
        return None
    summary = read_object(folder / SUMMARY)
    return summary if all(_setting(summary, name) == settings[name] for name in settings) else None


def _setting(summary: Mapping[str, Any], name: str) -> Any:
    return summary.get(name, _FORMERLY.get(name))


def _describe_language_model(use: LanguageModelUse | None) -> dict[str, Any] | None:
    """What decides the result: the weights and what is done with them."""
    from kdasr.checkpoint import find_checkpoint

    if use is None:
        return None
    digest = file_sha256(find_checkpoint(use.path))
    said = {"sha256": digest, "scale": use.scale, "use": "rescoring" if use.rescore else "shallow fusion"}
    if use.word_bonus is not None:
        said["word_bonus"] = use.word_bonus
    return {**said, "tuned_on": list(use.tuned_on)} if use.tuned_on else said


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


def file_sha256(path: Path) -> str | None:
    """Digest of a file; None when there is none (whoever reads it says so better)."""
    from kdasr.common.files import sha256

    return sha256(path) if path.is_file() else None
