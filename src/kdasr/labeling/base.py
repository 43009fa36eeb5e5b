"""What writes labels of speech without transcripts: the contract of a labeler, and the registry of them.

A further labeler is one file in `labelers/`, which needs no other mention:

```python
@register_labeler("mine")  # kdasr label --labeler mine:PLACE
class MyLabeler:
    def __init__(self, place: str, options: LabelerOptions) -> None: ...
    def settings(self) -> dict[str, Any]: ...
    def label(self, batch: Sequence[Speech]) -> list[Label]: ...
```
"""

# Shapes: N samples.

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.common.registry import Registry
from kdasr.data.audio_reading import SAMPLE_RATE

SEPARATOR = ":"


class Speech(NamedTuple):
    """An utterance, or a longer recording, that is to be labeled."""

    id: str
    samples_N: NDArray[np.float32]
    """At 16 kHz, one channel."""

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.samples_N) / SAMPLE_RATE


class HeardWord(NamedTuple):
    """A word of a label as the labeler writes it, with its times in seconds from the begin of the audio."""

    text: str
    start: float
    end: float
    score: float | None = None
    """Probability, where the labeler says one."""


@dataclass(frozen=True)
class Label:
    """What a labeler says of an utterance, in its own writing. Nothing that it says is left out here."""

    text: str
    score: float | None = None
    """Mean natural log-probability of the tokens of the text; None where the labeler does not say."""
    no_speech: float | None = None
    """Probability that nobody speaks, where the labeler says one."""
    language: str | None = None
    """Code of the language, as the labeler heard it or was told."""
    words: list[HeardWord] = field(default_factory=list)
    is_there: bool = True
    """Whether the labeler knows the utterance at all: a file of labels may lack it."""

    def as_json(self) -> dict[str, Any]:
        """Plain values; the inverse is `from_json`."""
        value = asdict(self)
        value["words"] = [list(word) for word in self.words]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Label":
        """The inverse of `as_json`."""
        return cls(**{**value, "words": [HeardWord(*word) for word in value["words"]]})


@dataclass(frozen=True)
class LabelerOptions:
    """What the command says to every labeler; each takes what it has a use for."""

    beam: int = 5
    """Hypotheses of the search; 1 is greedy."""
    batch_size: int = 1
    """Utterances that are labeled at once."""
    language: str | None = None
    """None: the labeler finds out, where it can."""
    words: bool = False
    """Times of words are wanted."""
    device: str = "cpu"
    compute_type: str = "default"
    """Number type of Whisper's weights, in CTranslate2's words."""
    threads: int = 1
    language_model: Path | None = None
    language_model_scale: float = 0.3
    rescore: bool = False
    """The language model rescores the final hypotheses, instead of shallow fusion."""
    longest: float = 28.0
    """Seconds of audio that labelers without windows of their own hear at once; what is longer comes in
    pieces, cut at pauses, whose labels are joined."""


class Labeler(Protocol):
    """Writes labels."""

    def settings(self) -> dict[str, Any]:
        """Plain values that decide the labels, among them which model it is."""
        ...

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """One label for each utterance of a batch, however long; a function of the batch alone.

        Raises:
            UserError: it cannot go on at all. What is wrong with one utterance is an empty label.
        """
        ...


Open = Callable[[str, LabelerOptions], Labeler]
"""From the place behind the kind (`PATH` of `whisper:PATH`) to a labeler; raises UserError."""
_KNOWN: Registry[Open] = Registry("labeler")


def register_labeler(name: str) -> Callable[[Open], Open]:
    """Make a kind of labeler known by its name; a decorator.

    Raises:
        ValueError: another one has that name.
    """
    return _KNOWN.register(name)


def unregister_labeler(name: str) -> None:
    """Forget a kind of labeler."""
    _KNOWN.pop(name, None)


def known_labelers() -> dict[str, Open]:
    """The kinds of labeler by name: those of `labelers/`, and what else was registered."""
    _import_labelers()
    return dict(_KNOWN)


@cache
def _import_labelers() -> None:
    for module in iter_modules([str(Path(__file__).parent / "labelers")]):
        import_module(f"{__package__}.labelers.{module.name}")


def open_labeler(text: str, options: LabelerOptions) -> Labeler:
    """The labeler that `KIND:PLACE` names.

    Raises:
        UserError: another form, no such kind, or what its kind says of the place.
    """
    kind, separator, place = text.partition(SEPARATOR)
    known = known_labelers()
    if not (separator and place.strip()) or kind not in known:
        raise UserError(
            f"--labeler {text}: expected KIND:PLACE, such as whisper:/models/whisper-base; kinds: "
            f"{', '.join(sorted(known))}"
        )
    return known[kind](place.strip(), options)
