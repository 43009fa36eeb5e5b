"""One part of a corpus decoded by `kdasr decode`, one by one or as long streams; what is finished is kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping
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

    from kdasr.checkpoint import Bundle
    from kdasr.data.bad import BadUtterance, MaxBad
    from kdasr.evaluation.evaluate import Record, Recording
    from kdasr.evaluation.long_form_run import LongForm
    from kdasr.recognition.endpoint import EndpointRules
    from kdasr.recognition.recognizer import StreamingRecognizer
    from kdasr.recognition.simulate import Simulation

log = get_logger(__name__)

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


def decode_part(run: DecodeRun, part: str) -> dict[str, Any]:
    """Decode the utterances of a part one by one; returns its summary."""
    from kdasr.data.word_times import warn_of_word_times
    from kdasr.evaluation.evaluate import summarize_records, write_part
    from kdasr.evaluation.loudness import signal_summary
    from kdasr.evaluation.part_run import forget

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
        **summarize_records(records),
        "signal": signal_summary(part, records),
        "bad_utterances": [list(utterance) for utterance in bad],
        "faulty_word_times": warn_of_word_times(part, cuts),
        "train_steps": run.bundle.train_steps,
        "params": run.bundle.model.num_inference_params,
        "frame_seconds": run.recognizer.geometry.frame_seconds,
        "checkpoint": str(run.bundle.path),
        **settings,
    }
    write_part(folder, records, summary)
    forget(folder)
    _decode_gains(run, cuts, folder, settings, summary)
    return summary


def _decode_gains(
    run: DecodeRun, cuts: list["MonoCut"], folder: Path, settings: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Add to `gain.json` what is not measured yet."""
    from kdasr.evaluation.loudness import GainFile, decode_at_gain
    from kdasr.evaluation.part_run import sound_recordings

    file = GainFile(folder, settings, summary, anew=run.force)
    for gain in file.missing(run.gains):
        recordings = sound_recordings(cuts, _loader(run), bad=[])
        entry = decode_at_gain(run.recognizer, recordings, gain, offline=run.mode == "offline")
        rate = "-" if entry["wer"] is None else f"{entry['wer']:.2f} %"
        log.info("%s at %+g dB: WER %s", folder, gain, rate)
        file.add(entry)


def decode_part_as_streams(run: DecodeRun, part: str) -> dict[str, Any]:
    """Decode the utterances of a part joined into streams; returns its summary."""
    from kdasr.common.files import write_json
    from kdasr.data.bad import report_bad
    from kdasr.evaluation.joining import in_order
    from kdasr.evaluation.long_form_run import SUMMARY, decode_long_form, forget
    from kdasr.evaluation.part_run import sound_cuts

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

    if not (folder / "summary.json").is_file() or force:
        return None
    summary = read_object(folder / "summary.json")
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
    digest = file_sha256(find_checkpoint(use.path))
    return {"sha256": digest, "scale": use.scale, "use": "rescoring" if use.rescore else "shallow fusion"}


def _load_cuts(run: DecodeRun, part: str) -> list["MonoCut"]:
    from itertools import islice

    from kdasr.data.folder import load_cuts

    cuts = list(islice(load_cuts(run.data, part), run.max_utterances or None))
    if not cuts:
        raise UserError(f"{run.data}: part '{part}' holds no utterances")
    return cuts


def _loader(run: DecodeRun) -> "Callable[[MonoCut], Recording]":
    """What makes a recording of a cut, its words normalized as the system's pieces are."""
    from kdasr.evaluation.evaluate import load_recording

    return partial(load_recording, tokenizer=run.bundle.tokenizer)


def _records(
    run: DecodeRun, part: str, cuts: list["MonoCut"], folder: Path, settings: Mapping[str, Any]
) -> tuple[list["Record"], list["BadUtterance"]]:
    """The records of a part, and the utterances whose audio cannot be used, which count nowhere."""
    from rich.progress import track

    from kdasr.data.bad import report_bad
    from kdasr.evaluation.evaluate import decode_offline, decode_streaming
    from kdasr.evaluation.part_run import Journal, decode_cuts, forget

    label = f"{run.bundle.name} {part} ({run.mode})"

    def decode(recordings: "Iterable[Recording]") -> "Iterator[list[tuple[Recording, Simulation]]]":
        shown = track(recordings, label, total=len(cuts), console=console, transient=True)
        if run.mode == "streaming":
            return decode_streaming(run.recognizer, shown, run.nbest, run.streams)
        return decode_offline(run.recognizer, shown, run.nbest)

    if run.force:
        forget(folder)
    windows = run.recognizer.windows if run.mode == "streaming" else None
    journal = Journal(folder, settings)
    records, bad = decode_cuts(cuts, _loader(run), decode, windows, journal, run.max_bad.at_once)
    return records, report_bad(part, bad, len(cuts), run.max_bad, folder / "bad.tsv")


def file_sha256(path: Path) -> str | None:
    """Digest of a file; None when there is none (whoever reads it says so better)."""
    from kdasr.common.files import sha256

    return sha256(path) if path.is_file() else None
