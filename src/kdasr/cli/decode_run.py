"""What the parts of one call of `kdasr decode` share, and the settings that decide a result."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.cli.search_options import LanguageModelUse
from kdasr.common.logging import get_logger

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.bundle import Bundle
    from kdasr.common.ranks import Ranks
    from kdasr.data.bad import MaxBad
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


def settings_of(run: DecodeRun, part: str, cuts: list["MonoCut"]) -> dict[str, Any]:
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


def finished_summary(folder: Path, settings: Mapping[str, Any], force: bool) -> dict[str, Any] | None:
    """The summary of an earlier run with these settings; None when the part has to be decoded."""
    from kdasr.common.files import read_object

    if force or not (folder / SUMMARY).is_file():
        return None
    if (summary := summary_there(folder, settings)) is not None:
        log.info("%s: already decoded, --force to do it again", folder)
        return summary
    earlier = read_object(folder / SUMMARY)
    other = ", ".join(name for name in settings if _setting(earlier, name) != settings[name])
    log.warning("%s: takes the place of results with another %s", folder, other)
    return None


def summary_there(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
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


def file_sha256(path: Path) -> str | None:
    """Digest of a file; None when there is none (whoever reads it says so better)."""
    from kdasr.common.files import sha256

    return sha256(path) if path.is_file() else None
