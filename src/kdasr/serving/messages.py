"""The two WebSocket protocols: what clients send and what they are told (docs/serving.md).

`/` speaks as sherpa-onnx's streaming server does; `/v1` says more. Nothing here knows a connection.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.tokenizer import WORD_START
from kdasr.decoding.biasing import DEFAULT_BOOST, LARGEST_BOOST, Phrase
from kdasr.recognition.audio import check_rate
from kdasr.serving.lane import Update
from kdasr.serving.limits import Limits

UNSUPPORTED, INVALID, POLICY, TOO_BIG, INTERNAL = 1003, 1007, 1008, 1009, 1011
"""Codes with which a WebSocket is closed (RFC 6455, section 7.4.1)."""

LOWEST_RATE, HIGHEST_RATE, RATE_STEP = 8_000, 192_000, 25
SAMPLE_FORMATS = {"float32": "<f4", "int16": "<i2"}


class MessageError(Exception):
    """A client sent what the protocol does not know; only its own stream ends."""

    def __init__(self, code: str, message: str, close: int = INVALID) -> None:
        """
        Args:
            code: one word for programs; docs/serving.md lists them.
            message: one line for people.
            close: the WebSocket's close code.
        """
        super().__init__(message)
        self.code, self.message, self.close = code, message, close


@dataclass(frozen=True)
class Start:
    """What a client asks for before its audio."""

    sample_rate: int = SAMPLE_RATE
    sample_format: str = "float32"
    phrases: tuple[Phrase, ...] = ()
    models: tuple[str, ...] = ()
    """Names of the models that hear the audio; none: the first."""


_START_KEYS = ("type", "sample_rate", "format", "phrases", "models")


def decode_samples(data: bytes, sample_format: str, limits: Limits) -> NDArray[Any]:
    """The samples of a binary message, not yet checked for what no microphone gives.

    Raises:
        MessageError: too many bytes, or no whole number of samples.
    """
    if len(data) > limits.max_message_bytes:
        raise MessageError(
            "too_large",
            f"a message of {len(data):,} bytes; the limit is {limits.max_message_bytes:,}",
            TOO_BIG,
        )
    dtype = np.dtype(SAMPLE_FORMATS[sample_format])
    if len(data) % dtype.itemsize:
        raise MessageError(
            "bad_length", f"a message of {len(data):,} bytes is no whole number of {sample_format} samples"
        )
    return np.frombuffer(data, dtype)


def parse_message(text: str, limits: Limits) -> dict[str, Any]:
    """A text message of `/v1` as a dictionary with a `type`.

    Raises:
        MessageError: no JSON object, one without a type, or too long.
    """
    if len(text) > limits.max_message_bytes:
        raise MessageError("too_large", f"a text message of {len(text):,} characters", TOO_BIG)
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("bad_message", "a text message that is no JSON") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise MessageError("bad_message", "expected a JSON object with a 'type'")
    return message


def parse_start(message: Mapping[str, Any], models: Sequence[str], limits: Limits) -> Start:
    """The start message of `/v1`.

    Args:
        message: from `parse_message`.
        models: the names that it may ask for.
        limits: of phrases.

    Raises:
        MessageError: naming what is wrong with it.
    """
    if message["type"] != "start":
        raise MessageError(
            "no_start", f"the first message must be of type 'start', not {_cut(message['type'])}"
        )
    for key in message:
        if key not in _START_KEYS:
            raise MessageError("bad_start", f"unknown key {_cut(key)}; expected {', '.join(_START_KEYS)}")
    sample_format = message.get("format", "float32")
    if not isinstance(sample_format, str) or sample_format not in SAMPLE_FORMATS:
        raise MessageError(
            "bad_start", f"format {_cut(sample_format)}: expected {' or '.join(SAMPLE_FORMATS)}"
        )
    return Start(
        _rate(message.get("sample_rate", SAMPLE_RATE)),
        sample_format,
        _phrases(message.get("phrases", []), limits),
        _models(message, models),
    )


def _rate(given: Any) -> int:
    """A rate of microphones and files; of others, the converter's filter may take seconds to compute."""
    try:
        rate = check_rate(_no_bool(given))
    except UserError:
        rate = 0
    if not LOWEST_RATE <= rate <= HIGHEST_RATE or rate % RATE_STEP:
        raise MessageError(
            "bad_start",
            f"sample_rate {_cut(given)}: expected {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz, a multiple of "
            f"{RATE_STEP}",
        )
    return rate


def _models(message: Mapping[str, Any], known: Sequence[str]) -> tuple[str, ...]:
    names = message.get("models", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MessageError("bad_start", "models: expected a list of names")
    for name in names:
        if name not in known:
            raise MessageError("bad_start", f"no model {_cut(name)}; there is {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def _phrases(given: Any, limits: Limits) -> tuple[Phrase, ...]:
    if not isinstance(given, list):
        raise MessageError("bad_phrases", "phrases: expected a list")
    if len(given) > limits.max_phrases:
        raise MessageError("bad_phrases", f"{len(given)} phrases; the limit is {limits.max_phrases}")
    return tuple(_phrase(entry, limits) for entry in given)


def _phrase(entry: Any, limits: Limits) -> Phrase:
    entry = {"text": entry} if isinstance(entry, str) else entry
    if (
        not isinstance(entry, dict)
        or not set(entry) <= {"text", "boost"}
        or not isinstance(entry.get("text"), str)
    ):
        raise MessageError("bad_phrases", 'a phrase is a string, or {"text": ..., "boost": ...}')
    text, boost = entry["text"], _no_bool(entry.get("boost", DEFAULT_BOOST))
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise MessageError("bad_phrases", "a phrase with half a character (a lone surrogate)")
    if len(text) > limits.max_phrase_chars:
        raise MessageError(
            "bad_phrases", f"a phrase of {len(text)} characters; the limit is {limits.max_phrase_chars}"
        )
    if not isinstance(boost, int | float) or not 0 <= boost <= LARGEST_BOOST:
        raise MessageError(
            "bad_phrases", f"boost {_cut(boost)}: expected a number from 0 to {LARGEST_BOOST:g}"
        )
    return Phrase(text, float(boost))


def _no_bool(value: Any) -> Any:
    return None if isinstance(value, bool) else value


def _cut(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


@dataclass(frozen=True)
class SherpaReplies:
    """The JSON of sherpa-onnx's server in C++, key by key; timestamps count from `start_time`."""

    def ready(self) -> str | None:
        """Nothing: its clients do not expect a greeting."""
        return None

    def update(self, update: Update) -> str:
        """What was recognized so far in the segment; sent after every decoded chunk."""
        heard, result, frame = update.heard, update.heard.result, update.heard.result.frame_seconds
        return _json(
            {
                "text": result.text,
                "tokens": [piece.replace(WORD_START, " ") for piece in result.pieces],
                "timestamps": [round(frame * token.frame - result.start, 4) for token in result.tokens],
                "ys_probs": [round(token.log_prob, 6) for token in result.tokens],
                "lm_probs": [],
                "context_scores": [],
                "segment": heard.segment,
                "words": [],
                "num_trailing_blanks": heard.num_trailing_blanks,
                "start_time": round(result.start + heard.offset, 4),
                "is_final": heard.is_final,
                "is_eof": heard.is_eof,
            }
        )

    def error(self, code: str, message: str) -> str:
        """An error in the same shape, so that a client that shows `text` shows the message."""
        return _json({"type": "error", "code": code, "message": message, "text": ""})

    def end(self, reason: str, stats: Sequence[Mapping[str, Any]]) -> str:
        """The last message."""
        return "Done!"


@dataclass(frozen=True)
class V1Replies:
    """The messages of `/v1`."""

    greeting: Mapping[str, Any] = field(default_factory=dict)

    def ready(self) -> str | None:
        """The answer to the start message."""
        return _json({"type": "ready", **self.greeting})

    def update(self, update: Update) -> str | None:
        """`final`, `partial`, or, where no word has changed, `progress`."""
        heard, result = update.heard, update.heard.result
        progress = {
            "model": update.model,
            "audio": round(update.audio, 3),
            "decoded": round(heard.decoded, 3),
            "done": round(heard.done, 3),
            "chunk_latency": round(update.chunk_latency, 4),
            "rtf": round(update.rtf, 4),
        }
        if heard.is_final and not result.tokens and not update.is_changed:
            return None
        if not update.is_changed and not heard.is_final:
            return _json({"type": "progress", **progress})
        return _json(
            {
                "type": "final" if heard.is_final else "partial",
                **progress,
                "segment": heard.segment,
                "start": round(result.start + heard.offset, 4),
                "text": result.text,
                "continues_word": result.continues_word,
                "words": _words(update),
            }
        )

    def error(self, code: str, message: str) -> str:
        """Why the stream ends before its end."""
        return _json({"type": "error", "code": code, "message": message})

    def end(self, reason: str, stats: Sequence[Mapping[str, Any]]) -> str:
        """The last message: why the stream ended, and figures of each model."""
        return _json({"type": "end", "reason": reason, "models": list(stats)})


Replies = SherpaReplies | V1Replies


def _words(update: Update) -> list[dict[str, Any]]:
    heard, words, tokens = update.heard, update.heard.result.words, update.heard.result.tokens
    offset = heard.offset
    return [
        {
            "word": word.text,
            "start": round(word.start + offset, 3),
            "end": round(word.end + offset, 3),
            "confidence": round(word.confidence, 4),
            "shown": round(tokens[word.last_token].shown + offset, 3),
            "latency": round(update.latencies[word.last_token], 3),
            # A word is open until it is settled that another begins: pieces may be added to it.
            "final": heard.is_final or word.last_token + 1 < heard.num_settled,
        }
        for word in words
    ]


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
