"""A data folder, as `kdasr prepare` leaves it: where things are, and how to read them."""

import json
import re
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.cut import MonoCut

from kdasr.common.errors import UserError
from kdasr.common.failures import first_line
from kdasr.common.files import atomic_path, read_object, sha256
from kdasr.common.logging import get_logger
from kdasr.data.blocks import write_blocks
from kdasr.data.cut_check import check_cuts
from kdasr.data.text_rules import NONE

log = get_logger(__name__)

RECORD = "prepare.json"
"""What was prepared from what; a part that is not in it is not there."""
VERSION = 1
"""Raised when the content of a data folder changes, so that older folders are prepared again."""
_PREPARE_ANEW = "move it and the parts that were prepared beside it away, and run `kdasr prepare`"
"""`kdasr prepare` replaces only what a record says that it has written."""


def load_record(data_dir: Path) -> dict[str, Any] | None:
    """The content of `prepare.json`, or None when there is none of this version.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(data_dir) / RECORD
    if not path.is_file():
        return None
    try:
        record = read_object(path)
    except UserError as error:
        raise UserError(f"{error}: {_PREPARE_ANEW}") from None
    if record.get("version") != VERSION:
        return None
    parts = record.get("parts")
    if not isinstance(parts, dict) or not all(map(_is_entry, parts.values())):
        raise UserError(f"{path}: damaged 'parts': {_PREPARE_ANEW}")
    return record


def _is_entry(entry: Any) -> bool:
    """Whether it can be what `kdasr prepare` wrote of a part."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("settings"), dict)
        and isinstance(entry.get("written", {}), dict)
    )


def holds_something(path: Path) -> bool:
    """Whether there is a file, or a folder that is not empty."""
    return any(path.iterdir()) if path.is_dir() else path.exists()


def cuts_path(data_dir: Path, part: str) -> Path:
    """Where the cuts of a part are."""
    return Path(data_dir) / f"cuts_{part}.jsonl.gz"


def manifest_path(data_dir: Path, kind: str, part: str) -> Path:
    """Where the `recordings` or `supervisions` of a part are written."""
    return Path(data_dir) / "manifests" / f"{kind}_{part}.jsonl.gz"


def find_manifest(data_dir: Path, kind: str, part: str) -> Path:
    """Where they are. Earlier versions wrote the name of a corpus before theirs: `<corpus>_<kind>_<part>`."""
    path = manifest_path(data_dir, kind, part)
    return path if path.is_file() else next(iter(_old_manifests(path)), path)


def old_manifests(data_dir: Path, part: str) -> list[Path]:
    """The manifests of a part under the names of earlier versions."""
    kinds = ("recordings", "supervisions")
    return [path for kind in kinds for path in _old_manifests(manifest_path(data_dir, kind, part))]


def write_manifest(path: Path, items: Iterable[Recording | SupervisionSegment | MonoCut]) -> None:
    """Write a manifest (`.jsonl.gz`) in one step; the same items give the same file.

    Raises:
        OSError: it cannot be written.
    """
    write_lines(path, map(line_of, items))


def write_lines(path: Path, lines: Iterable[bytes]) -> None:
    """The same of lines that `line_of` made."""
    # Not Lhotse's own writer: single lines of a file in blocks can be read.
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        write_blocks(file, lines)


def line_of(item: Recording | SupervisionSegment | MonoCut) -> bytes:
    """The line of a manifest that an item is."""
    return (json.dumps(item.to_dict(), ensure_ascii=False) + "\n").encode()


def _old_manifests(path: Path) -> list[Path]:
    old = re.compile(f"(?!recordings_|supervisions_)[a-z0-9]+_{re.escape(path.name)}")
    return [file for file in sorted(path.parent.glob("*.jsonl.gz")) if old.fullmatch(file.name)]


def recorded_normalization(record: Mapping[str, Any] | None) -> str:
    """How the text of a data folder is written before it is cut into pieces; `none` where it does not say."""
    return str(((record or {}).get("text") or {}).get("normalize", NONE))


def load_cuts(data_dir: Path | str, part: str, limit: int | None = None) -> CutSet:
    """The cuts of a prepared part, all of them in memory, with paths that hold from the current directory.

    With a `limit`, so many of them, from the first on; what comes after is not read.

    Raises:
        UserError: the part has not been prepared, and the message names those that have; or it is empty or
            damaged, or its features are gone.
    """
    data_dir = Path(data_dir)
    check_prepared(data_dir, part)
    path = cuts_path(data_dir, part)
    cuts = _read(path, limit)
    warn_if_changed(data_dir, part, sha256(path))
    for cut in cuts:
        in_folder(cut, data_dir)
    first = next(iter(cuts), None)
    if first is None:
        raise UserError(f"{path}: no utterances: remove it and run `kdasr prepare`")
    check_sources(first, part)
    return cuts


def check_prepared(data_dir: Path, part: str) -> None:
    """
    Raises:
        UserError: the part has not been prepared; the message names those that have.
    """
    record = load_record(data_dir)
    if record is None:
        raise UserError(f"{data_dir}: not a prepared data folder ({RECORD} is missing): run `kdasr prepare`")
    if part not in record["parts"] or not cuts_path(data_dir, part).is_file():
        raise UserError(
            f"{data_dir}: part '{part}' is not prepared; there are: {', '.join(record['parts']) or 'none'}"
        )


def warn_if_changed(data_dir: Path, part: str, digest: str) -> None:
    """Warn when the cuts of a part, which have this digest, are not as `kdasr prepare` left them."""
    record = load_record(data_dir) or {"parts": {part: {}}}
    if record["parts"][part].get("written", {}).get("cuts_sha256") not in (None, digest):
        log.warning("%s: not as `kdasr prepare` left it", cuts_path(data_dir, part))


def in_folder(cut: MonoCut, data_dir: Path) -> MonoCut:
    """Give a cut of the manifest paths that hold from the current directory."""
    for source in cut.recording.sources:
        source.source = str(data_dir / source.source)
    if cut.features is not None:
        cut.features.storage_path = str(data_dir / cut.features.storage_path)
    return cut


def check_sources(first: MonoCut, part: str) -> None:
    """Whether features and audio of a part are there, by its first cut.

    Raises:
        UserError: the features are gone. Audio that is gone is a warning.
    """
    if first.features is not None and not Path(first.features.storage_path).exists():
        raise UserError(
            f"{first.features.storage_path}: the features of '{part}' are gone: run `kdasr prepare`"
        )
    if not Path(first.recording.sources[0].source).is_file():
        log.warning("%s: the audio of '%s' is gone", first.recording.sources[0].source, part)


def _read(path: Path, limit: int | None) -> CutSet:
    """
    Raises:
        UserError: the file is damaged, in whatever way.
    """
    try:
        if limit is None:
            cuts = CutSet.from_jsonl(path).to_eager()
        else:
            cuts = CutSet.from_cuts(islice(CutSet.from_jsonl_lazy(path), limit))
        other = next((type(cut).__name__ for cut in cuts if not isinstance(cut, MonoCut)), None)
    except Exception as error:  # gzip, JSON and Lhotse each have their own
        raise UserError(f"{path}: damaged ({first_line(error)}): remove it and run `kdasr prepare`") from None
    if other is not None:
        raise UserError(f"{path}: holds a {other}, not utterances: remove it and run `kdasr prepare`")
    check_cuts(cuts, path)
    return cuts


def train_parts(data_dir: Path | str) -> list[str]:
    """The prepared parts that are trained on."""
    record = load_record(Path(data_dir)) or {"parts": {}}
    return [part for part, entry in record["parts"].items() if entry["settings"]["train"]]
