"""Any offline recognizer of sherpa-onnx: `sherpa:FOLDER` with its graphs and tokens, as they are published.

What it is follows from the files: `encoder`, `decoder` and `joiner` make a transducer, `encoder` and
`decoder` a Whisper or another attention model, one `model` a paraformer, SenseVoice or CTC model. Where that
does not tell, the metadata of the graph does. Of graphs in float and int8 the float one is taken.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.files import sha256
from kdasr.data.audio_reading import SAMPLE_RATE
from kdasr.labeling.base import HeardWord, Label, LabelerOptions, Speech, register_labeler
from kdasr.labeling.pieces import label_in_pieces

_SINGLE = ("model", "paraformer", "ctc")
"""What the name of a graph has that is a model by itself."""
_CTC_TYPES = {
    "paraformer": "from_paraformer",
    "sense_voice": "from_sense_voice",
    "zipformer2_ctc": "from_zipformer_ctc",
    "wenet_ctc": "from_wenet_ctc",
    "telespeech_ctc": "from_telespeech_ctc",
    "tdnn": "from_tdnn_ctc",
    "dolphin": "from_dolphin_ctc",
    "fire-red-asr": "from_fire_red_asr_ctc",
    "omnilingual": "from_omnilingual_asr_ctc",
    "medasr": "from_medasr_ctc",
    "EncDec": "from_nemo_ctc",
}
"""How a metadata `model_type` begins, and what makes a recognizer of such a graph."""
_SEVERAL = 16
"""Pieces that are decoded at once."""
SHORTEST = 0.1
"""Seconds. Less audio has no label: of less than a frame sherpa-onnx ends the process."""


@dataclass(frozen=True)
class Found:
    """A kind of recognizer, and its files."""

    factory: str
    """Of `sherpa_onnx.OfflineRecognizer`."""
    files: Mapping[str, Path]
    """By the name of the argument."""
    extra: Mapping[str, Any]


def recognize_folder(folder: Path) -> Found:
    """What the files of a folder make.

    Raises:
        UserError: no such folder, or files of no kind that is known here; says what is there.
    """
    if not folder.is_dir():
        raise UserError(f"sherpa:{folder}: no such folder")
    tokens = _one(folder, lambda name: name.endswith("tokens.txt"))
    graphs = {part: _graph(folder, part) for part in ("encoder", "decoder", "joiner")}
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    if tokens is None:
        raise UserError(f"sherpa:{folder}: no tokens.txt; there: {there}")
    if all(graphs.values()):
        kind = _model_type(graphs["encoder"])
        extra = {"model_type": "nemo_transducer"} if kind.startswith("EncDec") else {}
        return Found("from_transducer", {**_there(graphs), "tokens": tokens}, extra)
    moonshine = {
        "preprocessor": _graph(folder, "preprocess"),
        "encoder": _graph(folder, "encode"),
        "uncached_decoder": _graph(folder, "uncached_decode"),
        "cached_decoder": _graph(folder, "cached_decode", but="uncached"),
    }
    if all(moonshine.values()):
        return Found("from_moonshine", {**_there(moonshine), "tokens": tokens}, {})
    if graphs["encoder"] and graphs["decoder"]:
        kind = _model_type(graphs["encoder"])
        if kind.startswith("EncDec"):
            factory = "from_nemo_canary"
        else:
            factory = "from_fire_red_asr" if kind.startswith("fire-red") else "from_whisper"
        pair = {name: path for name, path in _there(graphs).items() if name != "joiner"}
        return Found(factory, {**pair, "tokens": tokens}, {})
    single = next((path for part in _SINGLE if (path := _graph(folder, part)) is not None), None)
    if single is not None:
        kind = _model_type(single)
        factory = next((name for begin, name in _CTC_TYPES.items() if kind.startswith(begin)), "")
        if not factory and "paraformer" in single.name:
            factory = "from_paraformer"
        if factory:
            argument = "paraformer" if factory == "from_paraformer" else "model"
            return Found(factory, {argument: single, "tokens": tokens}, {})
        raise UserError(f"sherpa:{single}: a model of type '{kind}', of which no recognizer is made here")
    raise UserError(f"sherpa:{folder}: no graphs of an offline recognizer; there: {there}")


@register_labeler("sherpa")
class SherpaLabeler:
    """A `sherpa_onnx.OfflineRecognizer`; audio longer than it hears at once comes in pieces."""

    def __init__(self, place: str, options: LabelerOptions) -> None:
        """
        Raises:
            UserError: see `recognize_folder`; or sherpa-onnx is not installed.
        """
        self._folder, self._options = Path(place), options
        self._found = recognize_folder(self._folder)
        _sherpa()

    @cached_property
    def _recognizer(self) -> Any:
        module, found, options = _sherpa(), self._found, self._options
        arguments: dict[str, Any] = {
            **{name: str(path) for name, path in found.files.items()},
            **found.extra,
            "num_threads": options.threads,
        }
        if not options.device.startswith("cpu"):
            arguments["provider"] = options.device.partition(":")[0]
        if found.factory == "from_transducer" and options.beam > 1:
            arguments |= {"decoding_method": "modified_beam_search", "max_active_paths": options.beam}
        if found.factory == "from_whisper":
            arguments["language"] = options.language or ""
        try:
            return getattr(module.OfflineRecognizer, found.factory)(**arguments)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise UserError(f"sherpa:{self._folder}: cannot be loaded: {first_line(error)}") from None

    def settings(self) -> dict[str, Any]:
        """The files, and how it searches."""
        return {
            "labeler": "sherpa",
            "files": {name: sha256(path) for name, path in sorted(self._found.files.items())},
            "beam": self._options.beam,
            "language": self._options.language,
            "longest": self._options.longest,
            "words": self._options.words,
        }

    def label(self, batch: Sequence[Speech]) -> list[Label]:
        """See `Labeler`."""
        return label_in_pieces(batch, self._options.longest, self._label_pieces)

    def _label_pieces(self, pieces: list[Speech]) -> list[Label]:
        heard = [piece for piece in pieces if piece.seconds >= SHORTEST]
        labels = iter(self._label_heard(heard))
        nothing = Label("", language=self._options.language)
        return [next(labels) if piece.seconds >= SHORTEST else nothing for piece in pieces]

    def _label_heard(self, pieces: list[Speech]) -> list[Label]:
        labels: list[Label] = []
        for start in range(0, len(pieces), _SEVERAL):
            group = pieces[start : start + _SEVERAL]
            streams = []
            for piece in group:
                stream = self._recognizer.create_stream()
                stream.accept_waveform(SAMPLE_RATE, piece.samples_N)
                streams.append(stream)
            self._recognizer.decode_streams(streams)
            labels += [
                self._as_label(stream.result, piece.seconds)
                for stream, piece in zip(streams, group, strict=True)
            ]
        return labels

    def _as_label(self, result: Any, seconds: float) -> Label:
        scores = [float(value) for value in getattr(result, "ys_log_probs", None) or ()]
        language = (getattr(result, "lang", "") or "").strip("<|>") or self._options.language
        return Label(
            text=result.text.strip(),
            score=sum(scores) / len(scores) if scores else None,
            language=language,
            words=_words(result, seconds) if self._options.words else [],
        )


def _words(result: Any, seconds: float) -> list[HeardWord]:
    """A word lasts until the next one begins: of pieces, their begin alone is known."""
    tokens, times = list(result.tokens), [float(time) for time in result.timestamps]
    if len(tokens) != len(times):
        return []
    words: list[tuple[str, float]] = []
    for token, time in zip(tokens, times, strict=True):
        text = token.replace("\u2581", " ")
        if text.startswith(" ") or not words:
            words.append((text.strip(), time))
        else:
            words[-1] = (words[-1][0] + text.strip(), words[-1][1])
    ends = [begin for _, begin in words[1:]] + [seconds]
    return [HeardWord(text, begin, end) for (text, begin), end in zip(words, ends, strict=True) if text]


def _graph(folder: Path, part: str, but: str = "\0") -> Path | None:
    """The graph whose name has this part; the one in float where there are several."""

    def is_it(name: str) -> bool:
        stem = name.removesuffix(".onnx").removesuffix(".int8").removesuffix(".fp16")
        words = stem.replace(".", "-").split("-")
        return name.endswith(".onnx") and but not in name and (part in words or stem == part)

    return _one(folder, is_it)


def _one(folder: Path, is_it: Callable[[str], bool]) -> Path | None:
    found = sorted(path for path in folder.iterdir() if path.is_file() and is_it(path.name))
    plain = [path for path in found if ".int8" not in path.name and ".fp16" not in path.name]
    return next(iter(plain or found), None)


def _there(graphs: Mapping[str, Path | None]) -> dict[str, Path]:
    return {name: path for name, path in graphs.items() if path is not None}


def _model_type(graph: Path | None) -> str:
    """What a graph says that it is; empty where it does not."""
    assert graph is not None
    from kdasr.export.onnx_graph import OnnxGraph

    return OnnxGraph(graph, threads=1).metadata.get("model_type", "")


def _sherpa() -> Any:
    try:
        import sherpa_onnx
    except ImportError as error:
        raise UserError(
            f"sherpa needs sherpa-onnx ({first_line(error)}): pip install 'kdasr[export]'"
        ) from None
    return sherpa_onnx
