"""Walk "A corpus" of docs/extending.md: one file in `src/kdasr/corpora/`, and nothing else."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from kdasr.common.errors import UserError
from kdasr.corpora.audio_part import AudioPart, Told, audio_part
from kdasr.corpora.base import Location, Place, Reading, register


@register
class Tables:
    """A file `<part>.tsv` per part: path, text, speaker."""

    name: ClassVar[str] = "tables"

    def __init__(self, folder: Path, parts: Sequence[str]) -> None:
        self.folder, self._parts = folder, list(parts)

    @classmethod
    def open(cls, location: Location, parts: Sequence[str]) -> "Tables":
        folder = location.folder(cls.name)
        there = sorted(path.stem for path in folder.glob("*.tsv"))
        for part in parts:
            if part not in there:
                raise UserError(f"{folder}: no table of '{part}'; there are: {', '.join(there)}")
        return cls(folder, parts or there)

    def parts(self) -> list[str]:
        return self._parts

    def settings(self) -> dict[str, Any]:
        return {"corpus": self.name, "corpus_dir": str(self.folder.resolve())}

    def check(self, part: str, reading: Reading) -> AudioPart:
        with (self.folder / f"{part}.tsv").open(encoding="utf-8") as file:
            rows = list(csv.reader(file, delimiter="\t"))
        told = (
            Told(Path(path).stem, text, self.folder.resolve() / path, speaker, "English")
            for path, text, speaker in rows
        )
        return audio_part(part, told, reading)

    @staticmethod
    def place(utterance_id: str) -> Place | None:
        prefix, _, number = utterance_id.partition("@")
        return Place(prefix, float(number)) if number else None
