"""Folders in Lhotse's Shar format: shards of cuts (`cuts.*.jsonl.gz`) and audio (`recording.*.tar`)."""

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import Cut

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.logging import get_logger
from kdasr.corpora.cut_manifest import read_cuts
from kdasr.data.audio_files import quote

log = get_logger(__name__)

CUTS, AUDIO = "cuts", "recording"
_ENDING = re.compile(r"(^|\.)(jsonl(\.\w+)?|tar)$")
"""Of a name behind its field: `cuts.000000.jsonl.gz`, or `cuts.jsonl.gz` of a folder with a single shard."""


@dataclass(frozen=True)
class Shard:
    """Some cuts, and the archive with their audio in the same order; None where it lies in files."""

    cuts: Path
    audio: Path | None


def find_shards(folder: Path) -> list[Shard]:
    """The shards of a folder, in the order of their numbers.

    Raises:
        UserError: no shards, one that is there twice, or not equally many of cuts and of audio; names those
            without the other.
    """
    fields: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        field, _, rest = path.name.partition(".")
        if path.is_file() and (".jsonl" in path.name or path.suffix == ".tar"):
            number = _ENDING.sub("", rest)
            other = fields.setdefault(field, {}).setdefault(number, path)
            if other != path:
                raise UserError(f"{folder}: the same shard twice: {other.name} and {path.name}")
    cuts, audio = fields.pop(CUTS, {}), fields.pop(AUDIO, {})
    if not cuts:
        there = sorted(path.name for path in folder.iterdir())
        raise UserError(
            f"{folder}: not a Shar folder (cuts.000000.jsonl.gz, recording.000000.tar, ...); "
            f"there: {quote(there) or 'nothing'}"
        )
    if audio and cuts.keys() != audio.keys():
        alone = [
            path.name for number, path in {**cuts, **audio}.items() if (number in cuts) != (number in audio)
        ]
        raise UserError(
            f"{folder}: {len(cuts)} shards of cuts and {len(audio)} of recordings; without the other: "
            f"{quote(alone)}"
        )
    if fields:
        log.info("%s: not used: %s (features are computed here)", folder, ", ".join(sorted(fields)))
    return [Shard(path, audio.get(number)) for number, path in cuts.items()]


def check_shard(shard: Shard) -> list[Cut]:
    """The cuts of a shard, without their audio, of which only the names are read.

    Raises:
        UserError: an empty shard, or audio of other utterances than its cuts, which Lhotse would cut short
            without a word.
    """
    cuts = read_cuts(shard.cuts)
    if not cuts:
        raise UserError(f"{shard.cuts}: an empty shard: 0 cuts")
    if shard.audio is None:
        return cuts
    names = _names(shard.audio)
    if not names:
        raise UserError(f"{shard.audio}: an empty shard: 0 recordings, {len(cuts)} cuts in {shard.cuts.name}")
    if len(names) != len(cuts):
        raise UserError(f"{shard.audio}: {len(names)} recordings, {len(cuts)} cuts in {shard.cuts.name}")
    for name, cut in zip(names, cuts, strict=True):
        if name != cut.id:
            raise UserError(
                f"{shard.audio}: has '{name}' in the place of '{cut.id}', which is in {shard.cuts.name}"
            )
    return cuts


def load_shard(shard: Shard) -> Iterator[Cut]:
    """The cuts of a checked shard with their audio, one after another.

    Raises:
        UserError: the archive is damaged.
    """
    fields = {CUTS: [str(shard.cuts.resolve())]}
    if shard.audio is not None:
        fields[AUDIO] = [str(shard.audio.resolve())]
    try:
        yield from CutSet.from_shar(fields=fields)
    except UserError:
        raise
    except Exception as error:  # tarfile, Lhotse and JSON each have their own
        raise UserError(f"{shard.audio or shard.cuts}: damaged ({first_line(error)})") from None


def _names(path: Path) -> list[str]:
    """The utterances that an archive has an entry for: a file with audio, then one that describes it."""
    try:
        with tarfile.open(path) as archive:
            members = [Path(name) for name in archive.getnames()]
    except (tarfile.TarError, OSError, EOFError) as error:
        if path.stat().st_size == 0:
            return []
        raise UserError(f"{path}: not a tar file ({first_line(error)})") from None
    return [str(name.parent / name.stem) for name in members[::2]]
