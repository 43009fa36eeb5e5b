"""Decode a part of a corpus and measure it: one record per utterance, and a summary."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdasr.common.files import atomic_path, write_json
from kdasr.common.logging import get_logger
from kdasr.data.audio_reading import read_header
from kdasr.data.cut_check import TOLERANCE
from kdasr.data.features import SAMPLE_RATE, load_cut_samples, require_audio
from kdasr.data.signal_check import SignalMeter
from kdasr.data.text_normalization import split_words
from kdasr.data.tokenizer import Tokenizer
from kdasr.data.usable import cut_text
from kdasr.data.word_times import aligned_words
from kdasr.evaluation.first_token import first_token_parts
from kdasr.evaluation.latency import RefWord, energy_onset, first_visible, measure, word_shown
from kdasr.evaluation.latency_summary import first_token_shares, first_word_summary
from kdasr.evaluation.measure import Writing
from kdasr.evaluation.statistics import summarize
from kdasr.evaluation.timed_alignment import align_timed_words
from kdasr.evaluation.wer import (
    Scored,
    align_words,
    character_errors,
    count_errors,
    write_errs,
    write_recogs,
)
from kdasr.recognition.audio import check_samples
from kdasr.recognition.simulate import Simulation
from kdasr.recognition.sources import FileSource, SampleSource, blocks
from kdasr.recognition.windows import Windows

if TYPE_CHECKING:
    from lhotse.cut import MonoCut

log = get_logger(__name__)

_LONG_SECONDS = 300.0
"""A longer recording is never in memory as a whole."""

Record = dict[str, Any]
"""One line of `utterances.jsonl`."""


@dataclass(frozen=True)
class Recording:
    """One utterance of a corpus, ready to be recognized."""

    id: str
    samples_N: SampleSource
    """At 16 kHz; a long recording is read as it is heard."""
    ref: list[str]
    """Normalized as the pieces are."""
    ref_words: list[RefWord]
    """The same words with their times; empty without a word alignment."""
    speaker: str = ""
    """Empty: not known."""

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples_N) / SAMPLE_RATE


def load_recording(cut: "MonoCut", tokenizer: Tokenizer) -> Recording:
    """Audio, transcript and word times of a cut; words are normalized as those of `tokenizer` are.

    Raises:
        AudioError: the audio cannot be decoded, or holds samples that are not finite; names file or cut.
    """
    ref = split_words(tokenizer.normalize(cut_text(cut)))
    named = [str(supervision.speaker) for supervision in cut.supervisions if supervision.speaker]
    speaker = named[0] if len(set(named)) == 1 else ""
    return Recording(cut.id, _load_source(cut), ref, _ref_words(cut, ref, tokenizer), speaker)


def _load_source(cut: "MonoCut") -> SampleSource:
    if _is_long_file(cut):
        start, count = (round(seconds * SAMPLE_RATE) for seconds in (cut.start, cut.duration))
        require_audio(cut)
        path = Path(cut.recording.sources[0].source)
        there = read_header(path).num_samples - start
        if 0 < count - there <= TOLERANCE * SAMPLE_RATE:  # durations are rounded
            count = there
        source = FileSource(path, start, count)
        for _ in blocks(
            source, 60 * SAMPLE_RATE
        ):  # what is wrong with it is to be known before it is half recognized
            pass
        return source
    if cut.sampling_rate != SAMPLE_RATE:
        cut = cut.resample(SAMPLE_RATE)
    return check_samples(load_cut_samples(cut).numpy(), source=cut.id)


def _is_long_file(cut: "MonoCut") -> bool:
    """Whether a cut is long, and nothing but a stretch of a file at the right rate."""
    recording = getattr(cut, "recording", None)  # a mixture has none
    return (
        recording is not None
        and cut.duration > _LONG_SECONDS
        and [source.type for source in recording.sources] == ["file"]
        and recording.sampling_rate == SAMPLE_RATE
        and recording.num_channels == 1
        and not recording.transforms
    )


def _ref_words(cut: "MonoCut", ref: list[str], tokenizer: Tokenizer) -> list[RefWord]:
    words = [
        RefWord(word, round(start, 4), round(end, 4))
        for symbol, start, end in aligned_words(cut)
        for word in split_words(tokenizer.normalize(symbol))
    ]
    if words and len(words) != len(ref):
        log.warning("%s: %d aligned words, %d in the transcript; not timed", cut.id, len(words), len(ref))
        return []
    return words


def make_record(recording: Recording, simulation: Simulation, windows: Windows | None) -> Record:
    """One line of `utterances.jsonl`. Without word times, latency counts from the energy onset.

    `windows`: of the stream; None for a recording recognized whole, where nothing waits for a chunk.
    """
    tokens, words, wall = simulation.result.tokens, simulation.result.words, simulation.wall
    shown = [token.shown for token in tokens]
    hyp = [word.text for word in words]
    pairs = align_words(recording.ref, hyp)
    errors, characters = count_errors(pairs), character_errors(recording.ref, hyp)
    if recording.ref_words:  # as few errors, and a repeated word is the one of its time
        ends = [word.end for word in words]
        pairs = align_timed_words(recording.ref, hyp, [word.end for word in recording.ref_words], ends)
    onset = None
    if recording.ref and not recording.ref_words:  # where nothing is said, what is loud is no word
        onset = energy_onset(recording.samples_N)
    begin = recording.ref_words[0].start if recording.ref_words else onset
    first_parts = None
    first = first_visible([token.piece for token in tokens])
    if first < len(tokens) and begin is not None and windows is not None and wall is not None:
        parts = first_token_parts(tokens[first].frame, shown[first], wall[first], begin, windows)
        first_parts = {name: _rounded(value) for name, value in asdict(parts).items()}
    latency = measure(words, shown, wall, recording.ref_words, pairs, onset, first)
    ref_index = {pair.hyp: pair.ref for pair in pairs if pair.correct}
    listed, breaks = simulation.result.nbest, simulation.result.breaks
    return {
        "id": recording.id,
        "speaker": recording.speaker,
        "duration": recording.duration,
        "ref": " ".join(recording.ref),
        "hyp": simulation.result.text,
        "ref_words": [asdict(word) for word in recording.ref_words],
        "tokens": [
            {"piece": token.piece, "frame": token.frame, "shown": token.shown, "wall": seen}
            for token, seen in zip(tokens, _wall_times(wall, len(tokens)), strict=True)
        ],
        **({"breaks": list(breaks)} if breaks else {}),
        "words": [
            {
                "word": word.text,
                "start": word.start,
                "end": word.end,
                "confidence": round(word.confidence, 4),
                "shown": word_shown(word, shown),
                "wall": None if wall is None else round(word_shown(word, wall), 6),
                "ref_index": ref_index.get(index),
            }
            for index, word in enumerate(words)
        ],
        "errors": {
            "sub": errors.substitutions,
            "ins": errors.insertions,
            "del": errors.deletions,
            "words": errors.words,
        },
        "char_errors": {
            "sub": characters.substitutions,
            "ins": characters.insertions,
            "del": characters.deletions,
            "chars": characters.words,
        },
        **{key: _rounded(value) for key, value in asdict(latency).items()},
        "first_token_parts_ms": first_parts,
        "onset": onset,
        "signal": _signal(recording),
        "compute_seconds": round(simulation.compute_seconds, 6),
        **(
            {"nbest": [{"hyp": entry.text, "score": round(entry.score, 4)} for entry in listed]}
            if listed
            else {}
        ),
    }


def _signal(recording: Recording) -> dict[str, float]:
    """Level, clipping and band of a recording: `SignalReport` without its length."""
    meter = SignalMeter()
    for samples_N in blocks(recording.samples_N, SAMPLE_RATE):
        meter.add(samples_N)
    report = asdict(meter.report())
    report.pop("seconds")
    return {name: round(value, 6) for name, value in report.items()}


def _wall_times(wall: Sequence[float] | None, count: int) -> list[float | None]:
    return [None] * count if wall is None else [round(seconds, 6) for seconds in wall]


def _rounded(value: float | list[float] | str | None) -> float | list[float] | str | None:
    """Milliseconds to the microsecond: beyond that there is only floating-point dust. Words as they are."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, list):
        return [round(item, 3) for item in value]
    return None if value is None else round(value, 3)


def summarize_records(records: Sequence[Record]) -> dict[str, Any]:
    """Errors of words and of characters, which of them is the measure, latencies and real-time factor.

    When some utterances have word times and others do not, only those with times count for latency, so
    that the two kinds of onset are never mixed.
    """
    aligned = [record for record in records if record["ref_words"]]
    timed = aligned or records
    errors = {
        kind: sum(record["errors"][kind] for record in records) for kind in ("sub", "ins", "del", "words")
    }
    characters = {
        kind: sum(record["char_errors"][kind] for record in records)
        for kind in ("sub", "ins", "del", "chars")
    }
    num_words, num_chars = errors.pop("words"), characters.pop("chars")
    wall = summarize(_values(timed, "first_token_wall_ms"))
    firsts = [record.get("first_token") for record in timed]
    seconds = sum(record["duration"] for record in records)
    compute = sum(record["compute_seconds"] for record in records)
    return {
        "wer": 100.0 * sum(errors.values()) / num_words if num_words else None,
        "cer": 100.0 * sum(characters.values()) / num_chars if num_chars else None,
        "measure": Writing.of(record["ref"] for record in records).measure,
        "num_words": num_words,
        "num_chars": num_chars,
        "num_utterances": len(records),
        "errors": errors,
        "char_errors": characters,
        "first_word_ms": {
            **first_word_summary([record.get("first_word_ms") for record in timed], firsts),
            "wall_mean": summarize(_values(timed, "first_word_wall_ms"))["mean"],
        },
        "first_tokens": first_token_shares(firsts),
        "first_token_ms": {**summarize(_values(timed, "first_token_ms")), "wall_mean": wall["mean"]},
        "emission_delay_ms": summarize([delay for record in timed for delay in record["emission_delay_ms"]]),
        "finalization_ms": summarize(_values(timed, "finalization_ms")),
        "last_word_recall": _last_word_recall(records),
        "rtf": compute / seconds if seconds else None,
        "audio_seconds": seconds,
        "onset": "alignment" if aligned else "energy",
    }


def _last_word_recall(records: Sequence[Record]) -> float | None:
    """Share of the utterances whose last word was recognized: what a stream that ends too soon would lose."""
    lasts = [(record, len(split_words(record["ref"])) - 1) for record in records if record["ref"]]
    if not lasts:
        return None
    return sum(last in [word["ref_index"] for word in record["words"]] for record, last in lasts) / len(lasts)


def _values(records: Sequence[Record], key: str) -> list[float]:
    return [value for record in records if (value := record.get(key)) is not None]


def write_part(folder: Path, records: Sequence[Record], summary: dict[str, Any]) -> None:
    """Write `recogs.txt`, `errs.txt`, `utterances.jsonl`, and last `summary.json`: all is there."""
    (folder / "summary.json").unlink(missing_ok=True)
    utterances = [
        Scored(record["id"], split_words(record["ref"]), split_words(record["hyp"])) for record in records
    ]
    write_recogs(folder / "recogs.txt", utterances)
    write_errs(folder / "errs.txt", utterances)
    with atomic_path(folder / "utterances.jsonl") as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(f"{json.dumps(record, ensure_ascii=False)}\n")
    write_json(folder / "summary.json", summary)
