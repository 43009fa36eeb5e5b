"""Word times in the cuts of a prepared part, or in LibriSpeech-Alignments' text form."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from lhotse import CutSet
from lhotse.cut import MonoCut
from lhotse.supervision import AlignmentItem

from kdasr.common.files import sha256, write_json, write_text
from kdasr.data.folder import RECORD, cuts_path, load_record, write_manifest
from kdasr.evaluation.latency import RefWord

_NAME = r"[^-./][^-/]*"
"""Of a folder, and of none above another one."""
_CHAPTER = re.compile(rf"(?P<chapter>(?P<speaker>{_NAME})-(?P<number>{_NAME}))-\d+")


def write_into_cuts(data_dir: Path, part: str, times: Mapping[str, Sequence[RefWord]], by: str) -> None:
    """Give the cuts of a part these word times, and note in the folder's record where they are from.

    The part still counts as prepared: `kdasr prepare` leaves it as it is.

    Args:
        data_dir: the prepared folder.
        part: of it.
        times: by cut; other cuts stay as they are.
        by: what has made them.

    Raises:
        OSError: the file cannot be written.
    """
    path = cuts_path(data_dir, part)
    # Read while it is written beside: a part of many hours is never in memory as a whole.
    write_manifest(path, (_timed(cut, times.get(cut.id)) for cut in CutSet.from_jsonl_lazy(path)))
    record = load_record(data_dir)
    if record is not None and part in record["parts"]:
        entry = record["parts"][part]
        entry["written"] = {**entry.get("written", {}), "cuts_sha256": sha256(path)}
        entry["word_times"] = {"by": by, "cuts": len(times)}
        write_json(data_dir / RECORD, record)


def _timed(cut: MonoCut, words: Sequence[RefWord] | None) -> MonoCut:
    if words is not None:
        items = [AlignmentItem(word.word, word.start, round(word.end - word.start, 8)) for word in words]
        supervision = cut.supervisions[0]
        supervision.alignment = {**(supervision.alignment or {}), "word": items}
    return cut


def write_text_form(folder: Path, part: str, times: Mapping[str, Sequence[RefWord]]) -> list[Path]:
    """Write `<folder>/<part>/<speaker>/<chapter>/<speaker>-<chapter>.alignment.txt`; returns the files.

    Utterances whose id is not `speaker-chapter-number` are in `<folder>/<part>/<part>.alignment.txt`. Words
    with a comma, a quote or a space would break the form, as would ids with a space: see `fits_text_form`.
    """
    lines: dict[Path, list[str]] = defaultdict(list)
    for id in sorted(times):
        named = _CHAPTER.fullmatch(id)
        place = folder / part / f"{part}.alignment.txt"
        if named:
            place = folder / part / named["speaker"] / named["number"] / f"{named['chapter']}.alignment.txt"
        lines[place].append(_line(id, times[id]))
    for place, found in lines.items():
        write_text(place, "".join(f"{line}\n" for line in found))
    return sorted(lines)


def fits_text_form(id: str, words: Sequence[RefWord]) -> bool:
    """Whether the text form can spell the id of an utterance and all its words."""
    return not (re.search(r"\s", id) or any(re.search(r'[,"\s]', word.word) for word in words))


def _line(id: str, words: Sequence[RefWord]) -> str:
    symbols, ends, before = [], [], 0.0
    for word in words:
        if word.start > before + 5e-4:
            symbols.append("")
            ends.append(word.start)
        symbols.append(word.word)
        ends.append(word.end)
        before = word.end
    return f'{id} "{",".join(symbols)}" "{",".join(f"{end:.3f}" for end in ends)}"'
