"""`kdasr decode --tune`: the weights of rescoring are chosen on dev parts, and kept."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.cli.search_options import LanguageModelUse, word_counter
from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

    from kdasr.bundle import Bundle
    from kdasr.recognition.recognizer import StreamingRecognizer

log = get_logger(__name__)

RESCORING = "rescoring.json"
"""In the folder of results: the weights, and what they were chosen by."""


@dataclass(frozen=True)
class Tuning:
    """What weights are chosen on."""

    bundle: "Bundle"
    recognizer: "StreamingRecognizer"
    """Without a language model."""
    biasing: Path | None
    """The file of its phrases."""
    data: Path
    parts: Sequence[str]
    out: Path
    max_utterances: int
    force: bool
    alone: bool
    """Whether there is no other process."""


def tuned_weights(use: LanguageModelUse, tuning: Tuning) -> LanguageModelUse:
    """The use of the language model with the weights that make the fewest errors on the parts.

    Those of an earlier call with the same checkpoint, language model, search and parts are kept.

    Raises:
        UserError: no such part, no words in it, or weights to choose with several processes at once.
    """
    from kdasr.common.files import read_object, write_json

    path, settings = tuning.out / RESCORING, _settings(use, tuning)
    found = read_object(path) if path.is_file() and not tuning.force else {}
    if not settings.items() <= found.items():
        if not tuning.alone:
            raise UserError(f"--tune: {path} is not there: choose the weights with one process first")
        found = {**settings, **_choose(use, tuning)}
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, found)
    log.info(
        "weights chosen on %s: language model %g, word bonus %g: %d errors in %d utterances, %d without it, "
        "%d with the best of each list",
        *(", ".join(tuning.parts), found["scale"], found["bonus"], found["errors"], found["utterances"]),
        *(found["errors_before"], found["errors_best"]),
    )
    return replace(use, scale=found["scale"], word_bonus=found["bonus"], tuned_on=tuple(tuning.parts))


def _settings(use: LanguageModelUse, tuning: Tuning) -> dict[str, Any]:
    """Whatever decides the weights."""
    from kdasr.checkpoint import find_checkpoint
    from kdasr.common.files import sha256
    from kdasr.data.fingerprint import audio_fingerprint
    from kdasr.data.folder import cuts_path
    from kdasr.decoding.search import describe

    bundle, recognizer = tuning.bundle, tuning.recognizer
    return {
        "checkpoint_sha256": sha256(bundle.path) if bundle.path.is_file() else None,
        "language_model_sha256": sha256(find_checkpoint(use.path)),
        "context": str(recognizer.context),
        "tail_seconds": recognizer.tail_seconds,
        "search": describe(recognizer.search.options),
        "biasing_sha256": sha256(tuning.biasing) if tuning.biasing else None,
        "calibrated_blank_penalty": bundle.blank_penalty,
        "parts": list(tuning.parts),
        "audio_fingerprints": [audio_fingerprint(_cuts(tuning, part)) for part in tuning.parts],
        "cuts_sha256": [sha256(cuts_path(tuning.data, part)) for part in tuning.parts],
        "max_utterances": tuning.max_utterances,
    }


def _cuts(tuning: Tuning, part: str) -> "list[MonoCut]":
    from kdasr.data.folder import load_cuts

    return list(load_cuts(tuning.data, part, tuning.max_utterances or None))


def _choose(use: LanguageModelUse, tuning: Tuning) -> dict[str, Any]:
    from functools import partial

    from rich.progress import track

    from kdasr.common.logging import console
    from kdasr.evaluation.evaluate import load_recording
    from kdasr.evaluation.part_run import BadUtterance, sound_recordings
    from kdasr.evaluation.tune_rescoring import choose_weights, score_recordings
    from kdasr.language_model.scorer import load_sentence_scorer

    bundle = tuning.bundle
    device = next(bundle.model.parameters()).device
    scorer = load_sentence_scorer(use.path, bundle.tokenizer, str(bundle.path)).to(device)
    cuts = [cut for part in tuning.parts for cut in _cuts(tuning, part)]
    shown = track(cuts, f"{bundle.name} (rescoring)", total=len(cuts), console=console, transient=True)
    bad: list[BadUtterance] = []
    recordings = sound_recordings(shown, partial(load_recording, tokenizer=bundle.tokenizer), bad)
    count_words = word_counter(bundle.tokenizer.decode)
    scored = score_recordings(tuning.recognizer, recordings, scorer, count_words, device)
    if bad:
        log.warning("%d of %d utterances cannot be heard and do not count", len(bad), len(cuts))
    return {**choose_weights(scored)._asdict(), "utterances": len(scored)}
