"""Filters of labels: each measures one thing, keeps what is within its bounds, and is counted.

Thresholds are ours: Whisper's own decoding has those of `compression` and `score` (Radford et al. 2022), the
others are where labels of speech with transcripts begin to be wrong (docs/labels.md). A further filter is a
function under `@register_filter`, here or in anything that is imported.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan

from kdasr.common.errors import UserError
from kdasr.data.text_units import spoken_words, units
from kdasr.evaluation.wer import word_errors

LONGEST_NGRAM = 8
OFF = "off"


@dataclass(frozen=True)
class Candidate:
    """A label as filters see it."""

    seconds: float
    active: float
    """Seconds in which something is heard."""
    text: str
    """As it is written for training."""
    score: float | None = None
    no_speech: float | None = None
    language: str | None = None
    other: str | None = None
    """What another labeler says, in the same writing; None without one."""
    unknown: str = ""
    """Characters that the pieces cannot spell."""

    @property
    def words(self) -> list[str]:
        """Of the text; its characters where it has no spaces."""
        return units(self.text)


Value = float | str | None
"""What a filter measures; None: nothing is known, and the label passes."""
Measure = Callable[[Candidate], Value]


@dataclass(frozen=True)
class Filter:
    """Keeps labels whose value is within bounds, or one of some words."""

    name: str
    measure: Measure
    kind: str
    """What its threshold is: `least`, `most`, `range`, `words`."""
    low: float = -inf
    high: float = inf
    words: tuple[str, ...] = ()
    is_on: bool = True

    def keeps(self, value: Value) -> bool:
        """Whether a label with this value is kept."""
        if value is None:
            return True
        if isinstance(value, str):
            return not self.words or value in self.words
        return self.low <= value <= self.high

    @property
    def threshold(self) -> str:
        """As `with_threshold` reads it."""
        if not self.is_on:
            return OFF
        bounds = {"least": f"{self.low:g}", "most": f"{self.high:g}", "range": f"{self.low:g}:{self.high:g}"}
        return bounds.get(self.kind, ",".join(self.words))

    @property
    def meaning(self) -> str:
        """What it measures, in one line."""
        return (self.measure.__doc__ or "").strip().split("\n")[0]

    def with_threshold(self, text: str) -> "Filter":
        """The same with the threshold of an option: a number, `LOW:HIGH`, words with commas, or `off`.

        Raises:
            UserError: another form.
        """
        if text.strip() == OFF:
            return replace(self, is_on=False)
        if self.kind == "words":
            words = tuple(word.strip() for word in text.split(",") if word.strip())
            return replace(self, words=words, is_on=bool(words))
        expected = "two numbers LOW:HIGH" if self.kind == "range" else "a number"
        try:
            numbers = [float(part) for part in text.split(":")]
            if len(numbers) != (2 if self.kind == "range" else 1) or any(map(isnan, numbers)):
                raise ValueError
        except ValueError:
            raise UserError(f"--filter {self.name}={text}: expected {expected}, or {OFF}") from None
        if self.kind == "range" and numbers[0] > numbers[1]:
            raise UserError(f"--filter {self.name}={text}: expected the lower bound first")
        low = numbers[0] if self.kind in ("least", "range") else -inf
        high = numbers[-1] if self.kind in ("most", "range") else inf
        return replace(self, low=low, high=high, is_on=True)


_KNOWN: dict[str, Filter] = {}


def register_filter(name: str, kind: str, threshold: str) -> Callable[[Measure], Measure]:
    """Make a filter known, with its default threshold; a decorator of what it measures.

    Raises:
        ValueError: another one has that name.
    """
    if name in _KNOWN:
        raise ValueError(f"'{name}' is the name of another filter")

    def add(measure: Measure) -> Measure:
        _KNOWN[name] = Filter(name, measure, kind).with_threshold(threshold)
        return measure

    return add


def unregister_filter(name: str) -> None:
    """Forget a filter."""
    _KNOWN.pop(name, None)


def filters_of(settings: Sequence[str] = ()) -> list[Filter]:
    """All filters in their order, with thresholds as `NAME=THRESHOLD` says; those that are off are left out.

    Raises:
        UserError: another form, or no such filter.
    """
    found: Mapping[str, Filter] = dict(_KNOWN)
    for item in settings:
        name, equals, text = item.partition("=")
        if not equals or name not in found:
            raise UserError(f"--filter {item}: expected NAME=THRESHOLD; filters: {', '.join(found)}")
        found = {**found, name: found[name].with_threshold(text)}
    return [entry for entry in found.values() if entry.is_on]


def compression_ratio(text: str) -> float:
    """Bytes of a text by its bytes after zlib, as Whisper measures repetition; 0 of an empty one."""
    content = text.encode()
    return len(content) / len(zlib.compress(content)) if content else 0.0


def most_repeats(words: Sequence[str], longest: int = LONGEST_NGRAM) -> int:
    """How often the same words, up to `longest` of them, come in a row; 1 where none is said twice."""
    best = min(1, len(words))
    for size in range(1, min(longest, len(words) // 2) + 1):
        run = 0
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            best = max(best, 1 + run // size)
    return best


@register_filter("empty", "least", "1")
def num_words(item: Candidate) -> float:
    """Words of the label."""
    return float(len(item.words))


@register_filter("spelling", "most", "0")
def num_unknown(item: Candidate) -> float:
    """Different characters that the pieces cannot spell."""
    return float(len(item.unknown))


@register_filter("language", "words", OFF)
def language(item: Candidate) -> str | None:
    """Language that the labeler heard."""
    return item.language


@register_filter("activity", "range", "0.5:7")
def words_per_active_second(item: Candidate) -> float | None:
    """Words per second in which something is heard (by energy, see kdasr.labeling.activity)."""
    count = spoken_words(item.text)
    if not count:
        return None
    return count / item.active if item.active > 0 else inf


@register_filter("rate", "range", "1:4.5")
def words_per_second(item: Candidate) -> float | None:
    """Words per second of audio."""
    count = spoken_words(item.text)
    return count / item.seconds if count and item.seconds > 0 else None


@register_filter("repeats", "most", "2")
def repeats(item: Candidate) -> float:
    """Times in a row that the same word, or the same few words, are said."""
    return float(most_repeats(item.words))


@register_filter("compression", "most", "2.4")
def compression(item: Candidate) -> float:
    """Compression ratio of the label."""
    return compression_ratio(item.text)


@register_filter("score", "least", "-1")
def score(item: Candidate) -> float | None:
    """Mean log-probability of the labeler's tokens."""
    return item.score


@register_filter("no-speech", "most", "0.6")
def no_speech(item: Candidate) -> float | None:
    """Probability that nobody speaks, as the labeler says."""
    return item.no_speech


@register_filter("agreement", "most", "30")
def disagreement(item: Candidate) -> float | None:
    """Word errors between two labelers, in percent of the words of the longer label."""
    if item.other is None:
        return None
    other = units(item.other)
    longest = max(len(item.words), len(other))
    errors = word_errors(" ".join(other), " ".join(item.words))
    return 100.0 * errors.total / longest if longest else 0.0


def verdicts(filters: Sequence[Filter], item: Candidate) -> Iterator[tuple[Filter, Value, bool]]:
    """What each filter measures of a label, and whether it keeps it."""
    for entry in filters:
        value = entry.measure(item)
        yield entry, value, entry.keeps(value)
