"""Word errors and latencies of recognized words with times, whoever recognized them.

The reference is an alignment; the definitions are those of `kdasr.evaluation.latency`. Times in seconds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lhotse.cut import MonoCut, MultiCut
from lhotse.utils import fastcopy

from kdasr.common.errors import UserError
from kdasr.common.folders import find_files
from kdasr.common.logging import get_logger
from kdasr.corpora.cut_manifest import iter_cuts
from kdasr.corpora.cut_utterances import words_of
from kdasr.corpora.librispeech_alignments import read_all
from kdasr.data.audio_files import quote
from kdasr.data.text_normalization import split_words
from kdasr.data.word_times import aligned_words, fault_in_word_times
from kdasr.evaluation.foreign.base import HeardWord, Hypothesis, read_hypotheses
from kdasr.evaluation.latency import RefWord, UtteranceLatency, measure
from kdasr.evaluation.latency_summary import (
    FirstWordGain,
    compare_first_words,
    first_token_shares,
    first_word_summary,
)
from kdasr.evaluation.statistics import bootstrap_wer, speakers_of, summarize
from kdasr.evaluation.timed_alignment import align_timed_words
from kdasr.evaluation.wer import count_errors
from kdasr.recognition.result import WordSpan

log = get_logger(__name__)

References = Mapping[str, Sequence[RefWord]]
"""The words of each utterance."""
Normalize = Callable[[str], str]


@dataclass(frozen=True)
class Display:
    """When a piece that a chunked encoder emits can be shown.

    A piece of time `t` waits for the end of its chunk and the look-ahead after it: `(floor(t / chunk) + 1) *
    chunk + look_ahead`, one that ends at `t` for the chunk that reaches so far: `ceil(t / chunk) * chunk +
    look_ahead`. Without a chunk, it is shown at `t + look_ahead`.
    """

    chunk: float = 0.0
    look_ahead: float = 0.0

    def shown(self, time: float, is_end: bool = False) -> float:
        """When a piece of that time is shown; `is_end`: a piece that ends then."""
        if self.chunk <= 0:
            return time + self.look_ahead
        # A time that was rounded to the millisecond may lie just before the frame that it means, or behind.
        if is_end:
            return max(1, math.ceil(time / self.chunk - 1e-3)) * self.chunk + self.look_ahead
        return (math.floor(time / self.chunk + 1e-3) + 1) * self.chunk + self.look_ahead


@dataclass(frozen=True)
class TimedScore:
    """One utterance of one system."""

    num_errors: int
    num_words: int
    latency: UtteranceLatency


def read_references(path: Path, normalize: Normalize) -> dict[str, list[RefWord]]:
    """The words of each utterance, with their times; those without an alignment are left out.

    Args:
        path: a folder with `*.alignment.txt` of LibriSpeech-Alignments anywhere below it, one such file, a
            ctm file (`.ctm`), or Lhotse cuts with alignments of words (`.jsonl`, `.jsonl.gz`).
        normalize: how words are written.

    Raises:
        UserError: no such file, or none in such a form, or no word with a time in it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        found = _aligned_cuts(path)
    elif path.suffix == ".ctm":
        heard = read_hypotheses(path, "ctm").values()
        found = {item.id: [(word.text, word.first, word.last) for word in item.words] for item in heard}
    else:
        files = (
            find_files(path, lambda name: name.endswith(".alignment.txt")).files if path.is_dir() else [path]
        )
        found = {
            id: [
                (item.symbol, item.start, item.start + item.duration) for item in items if item.symbol.strip()
            ]
            for id, items in read_all(files).items()
        }
    references = {
        id: [RefWord(word, start, end) for text, start, end in items for word in split_words(normalize(text))]
        for id, items in found.items()
    }
    references = {id: words for id, words in references.items() if words}
    if not references:
        raise UserError(f"{path}: holds no words with times (LibriSpeech-Alignments, a ctm file, or cuts)")
    return references


def _aligned_cuts(path: Path) -> dict[str, list[tuple[str, float, float]]]:
    found, left_out, faults = {}, [], []
    for cut in iter_cuts(path):
        if isinstance(cut, MonoCut) or (isinstance(cut, MultiCut) and _is_one_voice(cut)):
            counted = _counted_from_begin(cut)
            found[cut.id] = aligned_words(counted)
            if (fault := fault_in_word_times(counted)) is not None:
                faults.append(f"{cut.id} ({fault})")
        else:
            left_out.append(cut.id)
    if left_out:
        log.warning(
            "%s: %d cut(s) with speech on several channels, or mixtures, are left out: %s",
            path, len(left_out), quote(left_out),
        )  # fmt: skip
    if faults:
        log.warning(
            "%s: %d cut(s) with word times that cannot be true are left out: %s",
            path, len(faults), quote(faults),
        )  # fmt: skip
    return found


def _is_one_voice(cut: MultiCut) -> bool:
    return len({repr(supervision.channel) for supervision in cut.supervisions}) <= 1


def _counted_from_begin(cut: MonoCut | MultiCut) -> MonoCut | MultiCut:
    """The cut with word times from its begin: those of a cut that was trimmed may be of its recording.

    Supervisions come in the order in which they begin, which manifests need not have.
    """
    in_order = sorted(cut.supervisions, key=lambda supervision: supervision.start)
    found = [(supervision, words_of(supervision, cut)) for supervision in in_order]
    supervisions = [
        fastcopy(supervision, alignment={"word": words} if words else None) for supervision, words in found
    ]
    return fastcopy(cut, supervisions=supervisions)


def score_hypothesis(
    reference: Sequence[RefWord], words: Sequence[HeardWord], display: Display, normalize: Normalize
) -> TimedScore:
    """Errors and latencies of one utterance.

    Args:
        reference: its words, at least one.
        words: the recognized words.
        display: when they can be shown.
        normalize: how words are written; a word that becomes several counts as all of them, at its time.
    """
    heard = [(text, word) for word in words for text in split_words(normalize(word.text))]
    # Two "pieces" for each word: the first one, and the one that completes it.
    shown = []
    for _, word in heard:
        first = display.shown(word.first)
        shown += [first, max(first, display.shown(word.last, word.is_end))]
    spans = [WordSpan(text, 2 * place, 2 * place + 1) for place, (text, _) in enumerate(heard)]
    pairs = align_timed_words(
        [word.word for word in reference],
        [text for text, _ in heard],
        [word.end for word in reference],
        [word.last for _, word in heard],
    )
    errors = count_errors(pairs)
    return TimedScore(errors.total, errors.words, measure(spans, shown, None, reference, pairs))


def score_system(
    references: References,
    hypotheses: Mapping[str, Hypothesis],
    display: Display,
    normalize: Normalize,
) -> dict[str, TimedScore]:
    """Every utterance of the reference; one that the system has not is one of which it recognized nothing.

    Raises:
        UserError: the two have no utterance in common.
    """
    if not set(references) & set(hypotheses):
        ours, theirs = next(iter(hypotheses)), next(iter(references))
        raise UserError(f"no utterance has a reference: recognized were '{ours}' ..., aligned '{theirs}' ...")
    return {
        id: score_hypothesis(words, hypotheses[id].words if id in hypotheses else [], display, normalize)
        for id, words in references.items()
    }


def summarize_scores(scores: Mapping[str, TimedScore]) -> dict[str, Any]:
    """WER (percent, with its interval) and latencies (ms) of a system, as `summary.json` names them."""
    found = list(scores.values())
    wer = bootstrap_wer(
        [score.num_errors for score in found],
        [score.num_words for score in found],
        speakers=speakers_of(scores),
    )
    firsts = [score.latency.first_token for score in found]
    return {
        "num_utterances": len(found),
        "num_speakers": wer.speakers,
        "num_words": sum(score.num_words for score in found),
        "wer": wer.estimate,
        "wer_ci": [end if math.isfinite(end) else None for end in (wer.low, wer.high)],
        "first_word_ms": first_word_summary([score.latency.first_word_ms for score in found], firsts),
        "first_tokens": first_token_shares(firsts),
        "first_token_ms": _summary(score.latency.first_token_ms for score in found),
        "emission_delay_ms": _summary(delay for score in found for delay in score.latency.emission_delay_ms),
        "finalization_ms": _summary(score.latency.finalization_ms for score in found),
    }


def _summary(values: Any) -> dict[str, Any]:
    return summarize([value for value in values if value is not None])


def compare_scores(ours: Mapping[str, TimedScore], theirs: Mapping[str, TimedScore]) -> FirstWordGain:
    """First words of two systems, paired by utterance, resampled by speaker where ids name them."""
    speakers = speakers_of(ours)
    return compare_first_words(
        {id: score.latency.first_word_ms for id, score in ours.items()},
        {id: score.latency.first_word_ms for id, score in theirs.items()},
        None if speakers is None else dict(zip(ours, speakers, strict=True)),
    )


def utterance_lines(scores: Mapping[str, TimedScore]) -> list[dict[str, Any]]:
    """What was measured of each utterance, for a file."""
    return [
        {"id": id, "errors": score.num_errors, "words": score.num_words, **asdict(score.latency)}
        for id, score in scores.items()
    ]
