"""The manifests of a part: written beside, cut by cut, then moved into place together."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lhotse import Recording, SupervisionSegment
from lhotse.cut import MonoCut

from kdasr.common.name_digests import name_digest
from kdasr.data.copies import Copies
from kdasr.data.features import utterance_name
from kdasr.data.folder import cuts_path, manifest_path, old_manifests, write_lines, write_manifest
from kdasr.data.part_features import PartTasks

_FILE = "{}.jsonl.gz"


@dataclass
class PartManifests:
    """What was written."""

    folder: Path
    utterances: int = 0
    cuts: int = 0
    seconds: float = 0.0
    """Of all cuts."""

    def move(self, data_dir: Path, part: str, *, was_there: bool) -> None:
        """Move them into a data folder, in the place of earlier ones; `was_there`: it had the part before."""
        # Lhotse's own recipes write manifests of such names, too: those are left alone.
        if was_there and not manifest_path(data_dir, "recordings", part).is_file():
            for path in old_manifests(data_dir, part):
                path.unlink()
        for kind in ("recordings", "supervisions"):
            target = manifest_path(data_dir, kind, part)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.folder / _FILE.format(kind)).replace(target)
        (self.folder / _FILE.format("cuts")).replace(cuts_path(data_dir, part))


def write_manifests(folder: Path, copies: Copies, tasks: PartTasks, left_out: set[str]) -> PartManifests:
    """Write the recordings, supervisions and cuts of a part, without the utterances that are left out.

    Eight bytes of each recording are kept in memory.
    """
    found = PartManifests(folder)

    def utterances() -> Iterator[MonoCut]:
        return (tasks.relocate(cut) for cut in copies.utterances() if cut.id not in left_out)

    recordings = array("q")

    def supervisions() -> Iterator[SupervisionSegment]:
        for cut in utterances():
            found.utterances += 1
            recordings.append(name_digest(cut.recording.id))
            yield from cut.supervisions

    def first_recordings() -> Iterator[Recording]:
        """Each recording once, where it comes first."""
        is_first = np.zeros(len(recordings), np.bool_)
        is_first[np.unique(np.array(recordings, np.int64), return_index=True)[1]] = True
        return (cut.recording for cut, first in zip(utterances(), is_first, strict=True) if first)

    def cuts() -> Iterator[bytes]:
        for line in tasks.lines():
            cut = json.loads(line)
            if utterance_name(cut["id"], cut.get("custom")) not in left_out:
                found.cuts += 1
                found.seconds += cut["duration"]
                yield line

    write_manifest(folder / _FILE.format("supervisions"), supervisions())
    write_manifest(folder / _FILE.format("recordings"), first_recordings())
    write_lines(folder / _FILE.format("cuts"), cuts())
    return found
