"""The files that others make, what reads them here, and what an independent reading says of a damaged one."""

# Shapes: N samples.

import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import yaml

from kdasr.bundle import load_bundle
from kdasr.checkpoint import save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.corpora.audio_part import AudioPart
from kdasr.corpora.librispeech import list_part
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.corpora.remarks import Remarks
from kdasr.data.folder import load_cuts
from kdasr.decoding.biasing import LARGEST_BOOST, read_phrases
from kdasr.experiment.recipe_file import load_experiment
from kdasr.export.build import export_bundle
from kdasr.export.bundle import open_bundle
from kdasr.export.runtime import load_exported
from kdasr.recognition.recognizer import StreamingRecognizer
from kdasr.recognition.simulate import simulate
from kdasr.testing import tiny_model, tiny_tokenizer, tone, write_corpus
from torture.mutations import OF_BYTES, OF_TEXT, Mutation
from torture.sounds import flac_says, sound, wav_says
from torture.structured import OF_VALUES, facts, facts_say, recordings, recordings_say, signed

PART = "dev-clean"
Allowed = Callable[[bytes, Any], bool]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    `read` gives what kdasr makes of it, or raises. `allowed(content, value)` says whether `value` is right
    for a file of this content by another reading than kdasr's; it is not asked where the value is that of
    the whole file.
    """

    name: str
    path: Path
    read: Callable[[], Any]
    allowed: Allowed
    mutations: tuple[Mutation, ...]


def only_the_same(content: bytes, value: Any) -> bool:
    """Of files whose damage shows: nothing but what the whole file gives is right."""
    return False


def make_kinds(folder: Path, config: Path) -> list[Kind]:
    """A whole file of each kind, in `folder`; `config` is a recipe's configuration."""
    exp, bundle, corpus, data = (folder / name for name in ("exp", "bundle", "corpus", "data"))
    _write_experiment(exp)
    export_bundle(load_bundle(exp), bundle)
    write_corpus(corpus, [PART], alignments_dir=folder / "alignments")
    prepare_corpus(PrepareOptions(corpus_dir=corpus, out_dir=data, parts=[PART]))
    chapter = Path(PART) / "100" / "1"
    (folder / "conf.yaml").write_bytes(config.read_bytes())
    (folder / "phrases.txt").write_text("ALPHA BRAVO\t2.5\nCHARLIE\nDELTA ECHO\t0.5\n")
    wave_N = tone(1.2, seed=3)

    def heard(load: Callable[[Path], Any], path: Path) -> Any:
        result = simulate(StreamingRecognizer(load(path)), wave_N).result
        return [(token.id, token.frame) for token in result.tokens]

    listing = lambda: list_part(corpus, folder / "alignments", PART)  # noqa: E731
    return [
        *_kinds_of_sound(folder),
        Kind("cuts", data / f"cuts_{PART}.jsonl.gz", lambda: _cuts(data), _cuts_say, OF_BYTES),
        Kind(
            "transcript",
            corpus / chapter / "100-1.trans.txt",
            lambda: {item.id: item.text for item in listing().utterances if item.id.startswith("100-")},
            _transcript_says,
            OF_TEXT,
        ),
        Kind(
            "alignment",
            folder / "alignments" / chapter / "100-1.alignment.txt",
            lambda: _words(_alignments(listing())),
            _alignment_says,
            OF_TEXT,
        ),
        Kind(
            "pieces", exp / "tokens" / "bpe.model", lambda: heard(load_bundle, exp), only_the_same, OF_BYTES
        ),
        Kind(
            "checkpoint",
            exp / "checkpoints" / "last.pt",
            lambda: _weights(load_bundle(exp).model),
            only_the_same,
            OF_BYTES,
        ),
        Kind("graph", bundle / "encoder.onnx", lambda: heard(load_exported, bundle), only_the_same, OF_BYTES),
        Kind("tokens", bundle / "tokens.txt", lambda: heard(load_exported, bundle), only_the_same, OF_TEXT),
        Kind(
            "manifest",
            bundle / "manifest.json",
            lambda: _manifest(open_bundle(bundle)),
            _manifest_says,
            OF_TEXT,
        ),
        Kind(
            "configuration",
            folder / "conf.yaml",
            lambda: config_to_dict(load_experiment(folder / "conf.yaml", "two-stage")),
            _configuration_says,
            OF_TEXT,
        ),
        Kind(
            "phrases",
            folder / "phrases.txt",
            lambda: [(phrase.text, phrase.boost) for phrase in read_phrases(folder / "phrases.txt")],
            _phrases_say,
            OF_TEXT,
        ),
        *_kinds_of_values(folder),
        Kind(
            "graph, signed",
            bundle / "joiner.onnx",
            lambda: signed(bundle, "joiner.onnx", lambda: heard(load_exported, bundle)),
            lambda content, value: True,  # its digest says that it is meant
            OF_BYTES,
        ),
    ]


def _kinds_of_sound(folder: Path) -> list[Kind]:
    """Ogg and mp3 have checksums: their damage shows."""
    sound_N = (tone(1.0, seed=1) * 20000).astype(np.int16)
    says = {"wav": wav_says, "flac": flac_says, "ogg": only_the_same, "mp3": only_the_same}
    for suffix in says:
        soundfile.write(folder / f"sound.{suffix}", sound_N, 16000)
    paths = {suffix: folder / f"sound.{suffix}" for suffix in says}
    return [
        Kind(suffix, path, partial(sound, path), says[suffix], OF_BYTES) for suffix, path in paths.items()
    ]


def _kinds_of_values(folder: Path) -> list[Kind]:
    """Whole files with a wrong value in them; see `torture.structured`."""
    exp, bundle, data = (folder / name for name in ("exp", "bundle", "data"))
    cuts, checkpoint = data / f"cuts_{PART}.jsonl.gz", exp / "checkpoints" / "last.pt"
    return [
        Kind(
            "cuts, values",
            cuts,
            lambda: recordings(data, PART, exp / "tokens"),
            recordings_say(data, exp / "tokens"),
            (OF_VALUES["cuts"],),
        ),
        Kind(
            "checkpoint, values",
            checkpoint,
            lambda: facts(exp),
            facts_say(facts(exp)),
            (OF_VALUES["checkpoint"],),
        ),
        Kind(
            "manifest, values",
            bundle / "manifest.json",
            lambda: _manifest(load_exported_manifest(bundle)),
            _manifest_says,
            (OF_VALUES["json"],),
        ),
        Kind(
            "configuration, values",
            folder / "conf.yaml",
            lambda: config_to_dict(load_experiment(folder / "conf.yaml", "two-stage")),
            _configuration_says,
            (OF_VALUES["yaml"],),
        ),
    ]


def load_exported_manifest(bundle: Path) -> Any:
    """The bundle, after a recognizer was built on it."""
    StreamingRecognizer(load_exported(bundle))
    return open_bundle(bundle)


def _write_experiment(exp: Path) -> None:
    tokenizer = tiny_tokenizer(exp / "tokens")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    payload = {
        "model_config": config_to_dict(model.config),
        "model": model.state_dict(),
        "context": {"left": 8, "chunk": 4, "right": 0},
        "tokenizer_fingerprint": tokenizer.fingerprint,
        "system": "student",
        "train_steps": 7,
    }
    save_checkpoint(exp / "checkpoints" / "last.pt", payload)


def _weights(model: Any) -> str:
    digest = sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _cuts(data: Path) -> list[tuple[str, float, str]]:
    return [(cut.id, cut.duration, cut.supervisions[0].text) for cut in load_cuts(data, PART)]


def _cuts_say(content: bytes, value: Any) -> bool:
    """gzip has a checksum; the lines are JSON."""
    lines = gzip.decompress(content).decode().split("\n")
    records = [json.loads(line) for line in lines if line.strip()]
    return value == [(cut["id"], cut["duration"], cut["supervisions"][0]["text"]) for cut in records]


def _lines(content: bytes) -> list[str]:
    text = content.decode("utf-8-sig")
    return text.split("\r" if "\r" in text and "\n" not in text else "\n")


def _transcript_says(content: bytes, value: Any) -> bool:
    """An id, white space, words; ids without audio and empty transcripts do not count."""
    told: dict[str, str] = {}
    for line in _lines(content):
        name, *words = line.strip().split(None, 1) or [""]
        if name in told:
            return False
        if name:
            told[name] = words[0] if words else ""
    audio = {f"100-1-{index:04d}" for index in range(3)}
    return value == {name: text for name, text in told.items() if name in audio and text}


def _alignments(part: AudioPart) -> Any:
    """The word times that `kdasr prepare` uses."""
    return part.alignments(part.utterances, Remarks())


def _words(alignments: Any) -> Any:
    return {
        name: [(item.symbol, round(item.start, 6), round(item.start + item.duration, 6)) for item in items]
        for name, items in alignments.items()
        if name.startswith("100-")
    }


def _alignment_says(content: bytes, value: Any) -> bool:
    """Times are finite, in order and within the recording, and stand in the file with their words."""
    told: dict[str, list[tuple[str, float]]] = {}
    for line in _lines(content):
        fields = re.split("[ \t]+", line.strip())
        if len(fields) == 3:
            words, ends = (field.replace('"', "").split(",") for field in fields[1:])
            told[fields[0]] = list(zip(words, map(float, ends), strict=False))
    for name, items in value.items():
        ends = [end for _, _, end in items]
        starts = [start for _, start, _ in items]
        if not all(map(math.isfinite, starts + ends)) or ends != sorted(ends) or max(ends, default=0) > 60:
            return False
        if any(start < -1e-6 or start > end + 1e-6 for start, end in zip(starts, ends, strict=True)):
            return False
        if [(word, round(end, 6)) for word, _, end in items] != [(w, round(e, 6)) for w, e in told[name]]:
            return False
    return True


_FACTS = ("context", "files", "system", "train_steps", "params")


def _manifest(bundle: Any) -> Any:
    return {name: bundle.manifest[name] for name in _FACTS}


def _manifest_says(content: bytes, value: Any) -> bool:
    """What the manifest alone knows is what its JSON says; digests and context are those of the graphs."""
    told = json.loads(content)
    return value == {name: told[name] for name in _FACTS}


def _configuration_says(content: bytes, value: Any) -> bool:
    """Every option that YAML gives has its value: those of the system go before those of all."""
    told = yaml.safe_load(content)
    system = told.pop("systems")["two-stage"] or {}
    for layer in (told, system):
        for key, option in layer.items():
            if not (layer is told and key in system) and not _within(option, value[key]):
                return False
    return True


def _within(told: Any, found: Any) -> bool:
    if isinstance(told, dict):
        return isinstance(found, dict) and all(_within(option, found[key]) for key, option in told.items())
    if isinstance(told, list):
        return len(told) == len(found) and all(map(_within, told, found))
    if told is None or told == found or str(told) == str(found):
        return True
    try:
        return float(told) == found
    except (TypeError, ValueError):
        return False


def _phrases_say(content: bytes, value: Any) -> bool:
    """A phrase a line, and its boost after a tab."""
    told = []
    for line in _lines(content):
        text, tab, boost = line.removesuffix("\r").partition("\t")
        if line.strip():
            told.append((text.strip(), float(boost) if tab else None))
    if len(told) != len(value):
        return False
    for (text, boost), (found, found_boost) in zip(told, value, strict=True):
        if text != found or not text or not (found_boost is None or 0 <= found_boost <= LARGEST_BOOST):
            return False
        if boost is not None and boost != found_boost:
            return False
    return True
