"""What makes an exported folder one to publish: the layout that Hugging Face and sherpa's users expect."""

# Shapes: N samples.

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from kdasr.common.errors import UserError
from kdasr.data.audio_reading import SAMPLE_RATE
from kdasr.recognition.audio import Samples

if TYPE_CHECKING:
    from kdasr.bundle import Bundle

WAVS = "test_wavs"
MAX_WAVS = 5
_BINARY = ("*.model", "*.onnx", "*.wav")
"""Hugging Face takes binary files, of whatever size, through Git LFS alone."""
_ATTRIBUTES = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _BINARY)


@dataclass(frozen=True)
class Recording:
    """Speech that is published with a model."""

    samples_N: Samples
    """At 16 kHz."""
    text: str
    """What is said."""


@dataclass(frozen=True)
class Publication:
    """What its publisher says of a model, and adds to it."""

    license: str = ""
    """An identifier of Hugging Face, such as `apache-2.0`; empty: not stated."""
    language: str = ""
    """A code such as `en`; empty: not stated."""
    hub_layout: bool = False
    """Whether the folder is for Hugging Face: a header in the card, and the files of `write_extras`."""
    recordings: Sequence[Recording] = ()
    """At most `MAX_WAVS` are written."""

    def __post_init__(self) -> None:
        """
        Raises:
            UserError: a license or a language that is no identifier; a layout without a license.
        """
        for name, pattern in (
            ("license", r"[a-z0-9][a-z0-9.-]*"),
            ("language", r"[a-z]{2,3}(-[A-Za-z0-9]+)*"),
        ):
            value = getattr(self, name)
            if value and not re.fullmatch(pattern, value):
                raise UserError(f"--{name} {value!r:.60}: expected an identifier such as {_EXAMPLES[name]}")
        if self.hub_layout and not self.license:
            raise UserError(
                "--hub-layout needs --license: what others may do with the model, by an identifier of "
                f"Hugging Face such as {_EXAMPLES['license']}"
            )

    @property
    def facts(self) -> dict[str, Any]:
        """For card and manifest."""
        return {"license": self.license, "language": self.language, "hub_layout": self.hub_layout}


_EXAMPLES = {"license": "apache-2.0, cc-by-4.0 or other", "language": "en, pt-BR or yue"}


def write_extras(folder: Path, system: "Bundle", publication: Publication) -> list[str]:
    """Write the files beside graphs, tokens, card and manifest; their names within the folder.

    `.gitattributes`; `bpe.model`, and `bpe.vocab` with the pieces and their scores, from which sherpa-onnx
    spells hotwords; `test_wavs/0.wav` and so on, with `test_wavs/trans.txt`.
    """
    if not publication.hub_layout:
        return []
    (folder / ".gitattributes").write_text(_ATTRIBUTES, encoding="utf-8")
    names = [".gitattributes"]
    tokenizer = system.tokenizer
    (folder / "bpe.model").write_bytes(tokenizer.serialized())
    table = "".join(f"{tokenizer.piece(i)}\t{tokenizer.score(i):g}\n" for i in range(tokenizer.vocab_size))
    (folder / "bpe.vocab").write_text(table, encoding="utf-8")
    names += ["bpe.model", "bpe.vocab"]
    return names + _write_wavs(folder / WAVS, publication.recordings[:MAX_WAVS])


def _write_wavs(folder: Path, recordings: Sequence[Recording]) -> list[str]:
    if not recordings:
        return []
    folder.mkdir()
    lines = []
    for number, recording in enumerate(recordings):
        samples_N = np.clip(recording.samples_N, -1, 1)
        soundfile.write(folder / f"{number}.wav", samples_N, SAMPLE_RATE, subtype="PCM_16")
        lines.append(f"{number}.wav {recording.text}\n")
    (folder / "trans.txt").write_text("".join(lines), encoding="utf-8")
    return [f"{WAVS}/{path.name}" for path in sorted(folder.iterdir())]
