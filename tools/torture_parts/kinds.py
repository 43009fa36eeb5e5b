"""The kinds of file that others make: how each is mutated, read by kdasr, and read independently.

A kind has `mutate`, which changes the file; `read`, which gives what kdasr makes of it; and `right`, the
oracle, which says of a success whether it is the right one. `right` gets the mutated bytes, what kdasr gave,
and what it gives of the unmutated file; it returns None, or why the success is wrong.
"""

import json
import math
import random
from pathlib import Path
from typing import Any

from torture_parts.base import PART, Base, digest
from torture_parts.mutate import TEXT, change_bytes, change_value


class Kind:
    """One kind of file."""

    name = ""
    oracle = ""
    """What a success has to give, in words."""

    def __init__(self, base: Base) -> None:
        self.base = base

    @property
    def victim(self) -> Path:
        """The file that is mutated."""
        raise NotImplementedError

    @property
    def foreign(self) -> Path:
        """Another file, whose content the victim may get."""
        return self.base.exp / "tokens" / "tokens.txt"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        """What is done to the file, and its new content."""
        return change_bytes(content, TEXT, self.foreign.read_bytes(), rng)

    def read(self, scratch: Path) -> Any:
        """What kdasr makes of the file; `scratch` is an empty folder."""
        raise NotImplementedError

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        """Why a success is wrong; None if it is right."""
        whole = json.loads(json.dumps(whole))  # kdasr's value has been through JSON too
        return None if value == whole else f"gives {str(value)[:120]}, not {str(whole)[:120]}"


def prepared(base: Base, scratch: Path) -> dict[str, dict[str, Any]]:
    """What `kdasr prepare` makes of the part: text and word times of each utterance that it takes."""
    from lhotse import SupervisionSet

    from kdasr.cli.main import cli

    arguments = ["prepare", "--corpus-dir", base.corpus, "--parts", PART, "--out", scratch, "--on-the-fly"]
    cli([str(word) for word in arguments], standalone_mode=False)
    path = scratch / "manifests" / f"librispeech_supervisions_{PART}.jsonl.gz"
    return {
        item.id: {
            "text": item.text,
            "words": [
                (word.symbol, word.start, round(word.start + word.duration, 6))
                for word in (item.alignment or {}).get("word", [])
            ],
            "seconds": item.duration,
        }
        for item in SupervisionSet.from_jsonl(path)
    }


def newline_lines(content: bytes) -> list[str]:
    """The lines of UTF-8 text: they end at LF (CR LF), or at CR where there is no LF.

    Raises:
        UnicodeDecodeError: not UTF-8.
    """
    text = content.decode("utf-8").removeprefix("\ufeff")
    end = "\n" if "\n" in text else "\r"
    return [line[:-1] if line.endswith("\r") else line for line in text.split(end)]


class Transcript(Kind):
    """`*.trans.txt`, through `kdasr prepare`."""

    name = "transcript"
    oracle = (
        "the words of each line of UTF-8, found by the id before the first white space; no control characters"
    )

    @property
    def victim(self) -> Path:
        return self.base.chapter / "200-1.trans.txt"

    @property
    def foreign(self) -> Path:
        return next((self.base.corpus / "train-clean-100").rglob("*.trans.txt"))

    def read(self, scratch: Path) -> Any:
        return {name: item["text"].split() for name, item in prepared(self.base, scratch).items()}

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        try:
            lines = newline_lines(content)
        except UnicodeDecodeError:
            return "taken, though it is not UTF-8"
        pairs = [line.split() for line in lines if line.split()]
        names = [words[0] for words in pairs]
        if len(set(names)) != len(names):
            return "taken, though an id is there twice"
        expected = {words[0]: words[1:] for words in pairs if words[0] in whole and words[1:]}
        if any(any(ord(letter) < 32 for letter in word) for words in value.values() for word in words):
            return "a control character in a transcript"
        return super().right(content, value, expected)


class Alignment(Kind):
    """`*.alignment.txt`, through `kdasr prepare`."""

    name = "alignment"
    oracle = (
        "the words and times of each line, or none of an utterance; times in order and within the recording"
    )

    @property
    def victim(self) -> Path:
        return self.base.chapter / "200-1.alignment.txt"

    def read(self, scratch: Path) -> Any:
        return prepared(self.base, scratch)

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        if {name: item["text"] for name, item in value.items()} != {
            n: item["text"] for n, item in whole.items()
        }:
            return "another transcript"
        try:
            rows = [line.strip().split() for line in newline_lines(content) if line.strip()]
        except UnicodeDecodeError:
            return "taken, though it is not UTF-8"
        if len({row[0] for row in rows}) != len({tuple(row) for row in rows}):
            return "taken, though an id is there twice, with different words or times"
        lines = {row[0]: row[1:] for row in rows}
        for name, item in value.items():
            if not item["words"]:
                continue
            words, ends = (field.strip('"').split(",") for field in lines[name])
            expected = [
                (word, start, end)
                for word, start, end in zip(
                    words, [0.0, *map(float, ends[:-1])], map(float, ends), strict=True
                )
                if word
            ]
            close = len(expected) == len(item["words"]) and all(
                word == other[0] and abs(start - other[1]) < 1e-4 and abs(end - other[2]) < 1e-4
                for (word, start, end), other in zip(expected, item["words"], strict=True)
            )
            if not close:
                return f"{name}: word times {item['words']}, not {expected}"
            times = [time for _, start, end in item["words"] for time in (start, end)]
            if (
                not all(map(math.isfinite, times))
                or max(times) > item["seconds"] + 0.11
                or min(times) < -0.11
            ):
                return f"{name}: times beyond the recording"
            if any(end < start for _, start, end in item["words"]) or sorted(times[::2]) != times[::2]:
                return f"{name}: times not in order"
        return None


class Phrases(Kind):
    """The file of `--biasing`, through the automaton that is built of it."""

    name = "phrases"
    oracle = "each line's words, and after a tab its boost, a number from 0 to 100"

    @property
    def victim(self) -> Path:
        return self.base.root / "phrases.txt"

    def read(self, scratch: Path) -> Any:
        from kdasr.data.tokenizer import Tokenizer
        from kdasr.decoding.biasing import BiasingGraph, read_phrases

        phrases = read_phrases(self.victim)
        BiasingGraph.from_phrases(phrases, Tokenizer.load(self.base.exp / "tokens"))
        return [(phrase.text.split(), phrase.boost) for phrase in phrases]

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        try:
            lines = [line for line in newline_lines(content) if line.strip()]
        except UnicodeDecodeError:
            return "taken, though it is not UTF-8"
        fields = [line.split("\t", 1) for line in lines]
        expected = [(field[0].split(), float(field[1]) if len(field) > 1 else 1.0) for field in fields]
        if any(not 0 <= boost <= 100 for _, boost in expected):
            return "a boost out of range"
        return super().right(content, value, expected)


class Recipe(Kind):
    """The YAML of `--config`, through `load_any_experiment`."""

    name = "configuration"
    oracle = "every option as PyYAML reads it; no number that is not finite, no unknown option"

    @property
    def victim(self) -> Path:
        return self.base.root / "recipe.yaml"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.5:
            return super().mutate(content, rng)
        import yaml

        what, value = change_value(yaml.safe_load(content), rng)
        return what, yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()

    def read(self, scratch: Path) -> Any:
        from kdasr.common.configio import config_to_dict
        from kdasr.experiment import load_any_experiment

        return config_to_dict(load_any_experiment(self.victim))

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        import yaml

        return _unlike(yaml.safe_load(content.decode("utf-8")), value, "")


def _unlike(wanted: Any, found: Any, name: str) -> str | None:
    """The first option of `wanted` that `found` has otherwise; numbers may have changed their type."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        for key, inner in wanted.items():
            if key not in found and name:
                return f"{name}.{key} is lost"
            if inner is None and isinstance(found.get(key), dict):  # a section without options
                continue
            fault = _unlike(inner, found.get(key), f"{name}.{key}" if name else str(key))
            if fault:
                return fault
        return None
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return next(
            (
                f
                for i, (w, g) in enumerate(zip(wanted, found, strict=True))
                if (f := _unlike(w, g, f"{name}.{i}"))
            ),
            None,
        )
    if isinstance(found, float) and not math.isfinite(found):
        return f"{name}: {found}"
    if wanted == found or str(wanted) == str(found):
        return None
    try:
        if float(wanted) == float(found):
            return None
    except (TypeError, ValueError):
        pass
    return f"{name}: {found!r}, not {wanted!r}"


class BundleManifest(Kind):
    """`manifest.json` of an export, through the recogniser that is built on it."""

    name = "export manifest"
    oracle = "the unmutated recogniser, but for the facts that do not decide what is heard"

    @property
    def victim(self) -> Path:
        return self.base.bundle / "manifest.json"

    def mutate(self, content: bytes, rng: random.Random) -> tuple[str, bytes]:
        if rng.random() < 0.4:
            return super().mutate(content, rng)
        what, value = change_value(json.loads(content), rng)
        return what, json.dumps(value, indent=2).encode()

    def read(self, scratch: Path) -> Any:
        return heard_by_export(self.base)

    def right(self, content: bytes, value: Any, whole: Any) -> str | None:
        manifest = json.loads(content)
        wanted = dict(whole)
        for key in ("system", "train_steps", "params"):
            wanted[key] = manifest.get(key)
        if manifest.get("blank_penalty") != 0.0 and value.get("blank_penalty") == manifest.get(
            "blank_penalty"
        ):
            wanted["blank_penalty"] = manifest["blank_penalty"]
        numbers = (value["train_steps"], value["params"], value["blank_penalty"])
        if any(not math.isfinite(number) or number < 0 for number in numbers[:2]) or not math.isfinite(
            numbers[2]
        ):
            return f"takes {numbers} for steps, parameters and penalty"
        return super().right(content, value, wanted)


def heard_by_export(base: Base) -> dict[str, Any]:
    """What is recognised with the bundle, and what it says of itself."""
    from kdasr.export.runtime import load_exported

    loaded = load_exported(base.bundle)
    return {
        "heard": heard(loaded),
        "system": loaded.name,
        "train_steps": loaded.train_steps,
        "params": loaded.model.num_inference_params,
        "blank_penalty": loaded.blank_penalty,
        "context": str(loaded.context),
        "calibration": str(loaded.calibration),
        "normalization": loaded.tokenizer.normalization,
    }


def heard(bundle: Any) -> str:
    """Pieces and frames that a system hears in three quarters of a second."""
    from kdasr.streaming.recognizer import StreamingRecognizer
    from kdasr.testing import SAMPLE_RATE, tone

    recognizer = StreamingRecognizer(bundle)
    stream = recognizer.create_stream()
    stream.accept_waveform(SAMPLE_RATE, tone(0.75, seed=5))
    stream.input_finished(warn=False)
    recognizer.decode_all([stream])
    return digest([(token.piece, token.frame) for token in recognizer.result(stream).tokens])
