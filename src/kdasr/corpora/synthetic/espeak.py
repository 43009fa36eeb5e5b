"""Speech from espeak-ng through ctypes, with the exact position of every word."""

import _ctypes
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kdasr.common.errors import UserError

ResultT = TypeVar("ResultT")

_SYNCHRONOUS = 2  # espeak_Synth returns when the speech is complete
_EVENT_END_OF_LIST, _EVENT_WORD = 0, 1
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_POSITION_CHARACTER = 1
_TEXT_UTF8 = 1


@dataclass(frozen=True)
class Voice:
    """How espeak-ng speaks."""

    name: str
    """An accent and, after a plus sign, a variant: `gmw/en-US+f2`."""
    rate: int = 150
    """Words per minute, 80 to 450."""
    pitch: int = 50
    """Around the variant's own pitch, 0 to 99."""
    pitch_range: int = 50
    """Liveliness of the intonation, 0 (monotone) to 99."""


@dataclass(frozen=True)
class WordEvent:
    """The start of a word as the synthesiser reports it. Function words may share one event."""

    text_position: int
    """Index of the word's first character in the text."""
    sample: int
    """Index of the word's first sample."""


@dataclass(frozen=True)
class Speech:
    """Samples in [-1, 1] and the words in them."""

    samples_N: NDArray[np.float32]
    sample_rate: int
    events: list[WordEvent]


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Event))


class Synthesizer:
    """The embedded espeak-ng. Each call to `speak` or `phonemes` is independent of every earlier one.

    The library keeps the phase of its oscillators and the place in its flutter table from one text to
    the next, and even `espeak_Terminate` leaves them, so the same text would sound different after
    another one. Only unloading it clears them; that takes a third of a millisecond.

    Raises:
        UserError: the library or its data is missing or does not load.
    """

    def __init__(self) -> None:
        self._library_path, self._data_parent = _locate()
        self._chunks: list[bytes] = []
        self._events: list[WordEvent] = []
        self._callback = _CALLBACK(self._collect)

    def speak(self, text: str, voice: Voice) -> Speech:
        """Speak `text` (plain words and commas).

        Raises:
            UserError: espeak-ng has no such voice.
        """
        encoded = text.encode("utf-8")

        def synthesize(library: ctypes.CDLL, sample_rate: int) -> Speech:
            library.espeak_SetSynthCallback(self._callback)
            for parameter, value in (
                (_PARAMETER_RATE, voice.rate),
                (_PARAMETER_PITCH, voice.pitch),
                (_PARAMETER_RANGE, voice.pitch_range),
            ):
                library.espeak_SetParameter(parameter, value, 0)
            self._chunks.clear()
            self._events.clear()
            status = library.espeak_Synth(
                encoded, ctypes.c_size_t(len(encoded) + 1), 0, _POSITION_CHARACTER, 0, _TEXT_UTF8, None, None
            )
            if status != 0:
                raise RuntimeError(f"espeak-ng failed with status {status} on: {text}")
            samples_N = np.frombuffer(b"".join(self._chunks), dtype=np.int16).astype(np.float32) / 32768.0
            return Speech(samples_N, sample_rate, list(self._events))

        return self._with_fresh_library(voice.name, synthesize)

    def phonemes(self, texts: Sequence[str], voice_name: str) -> list[str]:
        """The pronunciation of each text in espeak-ng's phoneme names.

        Raises:
            UserError: espeak-ng has no such voice.
        """

        def transcribe(library: ctypes.CDLL, sample_rate: int) -> list[str]:
            library.espeak_TextToPhonemes.restype = ctypes.c_char_p
            pointers = [ctypes.c_char_p(text.encode("utf-8")) for text in texts]
            return [
                (library.espeak_TextToPhonemes(ctypes.byref(pointer), _TEXT_UTF8, 0) or b"").decode().strip()
                for pointer in pointers
            ]

        return self._with_fresh_library(voice_name, transcribe)

    def _with_fresh_library(self, voice_name: str, use: Callable[[ctypes.CDLL, int], ResultT]) -> ResultT:
        library = _load(self._library_path)
        try:
            sample_rate = library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data_parent).encode(), 0)
            if sample_rate <= 0:
                raise UserError(
                    f"{self._data_parent}: espeak-ng could not read its data; reinstall espeakng-loader"
                )
            if library.espeak_SetVoiceByName(voice_name.encode()) != 0:
                raise UserError(f"espeak-ng has no voice '{voice_name}'")
            library.espeak_ng_SetRandSeed(ctypes.c_long(1))  # breath noise
            return use(library, sample_rate)
        finally:
            library.espeak_Terminate()
            _unload(library)

    def _collect(self, wave: int | None, num_samples: int, events: "ctypes._Pointer[_Event]") -> int:
        if wave and num_samples:
            self._chunks.append(ctypes.string_at(wave, 2 * num_samples))
        index = 0
        while events[index].type != _EVENT_END_OF_LIST:
            event = events[index]
            if event.type == _EVENT_WORD:
                self._events.append(WordEvent(event.text_position - 1, event.sample))
            index += 1
        return 0


def _locate() -> tuple[Path, Path]:
    try:
        import espeakng_loader

        library, data = Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"the synthetic corpus needs espeak-ng: pip install espeakng-loader ({error})"
        ) from None
    if not library.is_file():
        raise UserError(f"{library}: the espeak-ng library is missing; reinstall espeakng-loader")
    return library, data.parent


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UserError(f"{path}: the espeak-ng library does not load: {error}") from None


def _unload(library: ctypes.CDLL) -> None:
    unload = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009 (by platform)
    unload(library._handle)
