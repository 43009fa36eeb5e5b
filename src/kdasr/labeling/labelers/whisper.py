"""Whisper (Radford et al. 2022) through faster-whisper: `whisper:FOLDER`, or `whisper:NAME`, downloaded.

Decoded at temperature 0 alone: further temperatures draw at random, so that the same audio would have other
labels each time. What they are for, labels that repeat or that the model does not believe, the filters
remove. No window is told what the one before said, which is how a hallucination goes on.
"""

# Shapes: N samples.

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.files import sha256
from kdasr.data.audio_reading import SAMPLE_RATE
from kdasr.labeling.base import HeardWord, Label, LabelerOptions, Speech, register_labeler

WINDOW_SECONDS = 30.0
_WEIGHTS = "model.bin"
_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""The languages that Whisper's own tokenizer does not split at spaces."""


@register_labeler("whisper")
class WhisperLabeler:
    """A `faster_whisper.WhisperModel`.

    Audio longer than its window of 30 s is heard in windows, each from where the last whole sentence of the
    one before ended.
    """

    def __init__(self, place: str, options: LabelerOptions) -> None:
        """
        Raises:
            UserError: faster-whisper is not installed, or no model there; a batch without a language, which
                it would find out once for all utterances of a batch.
        """
        self._place, self._options = place, options
        if options.batch_size > 1 and options.language is None:
            raise UserError(
                f"--batch-size {options.batch_size}: whisper labels several utterances at once only in a "
                "language that it is told: give --language, or --batch-size 1"
            )
        self._digest = _digest_of(Path(place))
        module = _faster_whisper()
        self._model = self._open(module)
        self._batched = module.BatchedInferencePipeline(self._model) if options.batch_size > 1 else None

    def _open(self, module: Any) -> Any:
        options = self._options
        device, _, index = options.device.partition(":")
        try:
            return module.WhisperModel(
                self._place,
                device=device,
                device_index=int(index or 0),
                compute_type=options.compute_type,
                cpu_threads=options.threads,
                local_files_only=self._digest is not None,
            )
        except (RuntimeError, ValueError, OSError) as error:  # CTranslate2's, and those of its download
            raise UserError(f"whisper:{self._place}: cannot be loaded: {first_line(error)}") from None

    def settings(self) -> dict[str, Any]:
        """The model, and how it searches."""
        options = self._options
        return {
            "labeler": "whisper",
            "model": self._digest or self._place,
            "beam": options.beam,
            "batch_size": options.batch_size,
            "language": options.language,
            "words": options.words,
            "compute_type": options.compute_type,
        }

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """See `Labeler`. Utterances of one window are labeled at once where `batch_size` allows it."""
        labels: dict[int, Label] = {}
        together = [
            place
            for place, item in enumerate(batch)
            if self._batched is not None and 0 < item.seconds <= WINDOW_SECONDS
        ]
        size = self._options.batch_size
        for start in range(0, len(together), size):
            places = together[start : start + size]
            for place, label in zip(places, self._label_batch([batch[p] for p in places]), strict=True):
                labels[place] = label
        return [
            labels[place] if place in labels else self._label_one(item) for place, item in enumerate(batch)
        ]

    def _label_one(self, item: Speech) -> Label:
        if not len(item.samples_N):
            return Label("", language=self._options.language)
        segments, info = self._model.transcribe(
            item.samples_N, **self._search(), condition_on_previous_text=False, vad_filter=False
        )
        return _joined(list(segments), 0.0, info.language)

    def _label_batch(self, items: Sequence[Speech]) -> list[Label]:
        """Utterances as clips of one recording, each of which it hears by itself."""
        assert self._batched is not None
        # Times come back rounded, those of words down to 10 ms. So clips begin at whole seconds, each of them
        # at least a second after the end of the one before.
        *begins, total = accumulate((int(item.seconds) + 2 for item in items), initial=0)
        samples_N = np.zeros(total * SAMPLE_RATE, dtype=np.float32)
        for begin, item in zip(begins, items, strict=True):
            samples_N[begin * SAMPLE_RATE :][: len(item.samples_N)] = item.samples_N
        segments, info = self._batched.transcribe(
            samples_N,
            **self._search(),
            # Its own rounding of seconds to samples goes down.
            clip_timestamps=[
                {"start": float(begin), "end": begin + item.seconds + 1e-6}
                for begin, item in zip(begins, items, strict=True)
            ],
            vad_filter=False,
            batch_size=self._options.batch_size,
        )
        own: list[list[Any]] = [[] for _ in items]
        for segment in segments:
            own[max(0, bisect_right(begins, segment.start + 0.5) - 1)].append(segment)
        return [_joined(found, begin, info.language) for found, begin in zip(own, begins, strict=True)]

    def _search(self) -> dict[str, Any]:
        options = self._options
        return {
            "language": options.language,
            "task": "transcribe",
            "beam_size": options.beam,
            "temperature": 0.0,
            "word_timestamps": options.words,
        }


def _joined(segments: Sequence[Any], begin: float, language: str | None) -> Label:
    """The segments of an utterance that begins at a second of what was heard, as one label."""
    # faster-whisper's mean is over the tokens and the end of the segment.
    counts = [len(segment.tokens) + 1 for segment in segments]
    total = sum(counts)
    means = [float(segment.avg_logprob) for segment in segments]
    between = "" if language in _WITHOUT_SPACES else " "
    return Label(
        text=between.join(text for segment in segments if (text := segment.text.strip())),
        score=sum(m * c for m, c in zip(means, counts, strict=True)) / total if total else None,
        no_speech=min((float(segment.no_speech_prob) for segment in segments), default=None),
        language=language,
        words=[
            HeardWord(word.word.strip(), word.start - begin, word.end - begin, float(word.probability))
            for segment in segments
            for word in _words(segment)
        ],
    )


def _words(segment: Any) -> Iterable[Any]:
    return segment.words or ()


def _digest_of(folder: Path) -> str | None:
    """That of the weights in a local folder; None of what is a name.

    Raises:
        UserError: a folder without a model, or a path where nothing is.
    """
    if (folder / _WEIGHTS).is_file():
        return sha256(folder / _WEIGHTS)
    if folder.exists() or folder.is_absolute() or str(folder).startswith("."):
        raise UserError(
            f"whisper:{folder}: no {_WEIGHTS} there: expected a folder of a Whisper model for CTranslate2 "
            "(ct2-transformers-converter makes one), or a name such as base or large-v3"
        )
    return None


def _faster_whisper() -> Any:
    try:
        import faster_whisper
    except ImportError as error:
        raise UserError(
            f"whisper needs faster-whisper ({first_line(error)}): pip install 'kdasr[label]'"
        ) from None
    return faster_whisper
