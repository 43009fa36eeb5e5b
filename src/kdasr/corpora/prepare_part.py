"""One part of a corpus is prepared: shared out, resumed, and put together by whoever finishes last."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.common.files import sha256, write_json
from kdasr.common.locks import locked
from kdasr.common.logging import get_logger
from kdasr.corpora.base import Part
from kdasr.corpora.part_manifests import PartManifests, write_manifests
from kdasr.corpora.prepare_options import PrepareOptions
from kdasr.corpora.utterance_spool import Spooled, UtteranceSpool
from kdasr.data.audio_files import quote
from kdasr.data.bad import BadUtterance, ids_of, report_bad
from kdasr.data.fingerprint import folder_size
from kdasr.data.folder import (
    RECORD,
    VERSION,
    cuts_path,
    holds_something,
    load_record,
    manifest_path,
    recorded_normalization,
)
from kdasr.data.part_features import PartTasks, part_tasks, sample_stats, settings_key
from kdasr.data.staging import Staged, Workers

log = get_logger(__name__)

_PUBLISHING = "publishing"
"""In the record: the parts that were being moved into place when it was written."""


@dataclass
class PreparedFolder:
    """A data folder and its record, which several processes may write."""

    out_dir: Path
    normalize: str | None
    """The rule that is asked for; None: as the record says."""
    record: dict[str, Any] = field(default_factory=dict)

    def load(self) -> "PreparedFolder":
        """Read the record as it is now; itself."""
        self.record = load_record(self.out_dir) or {"version": VERSION, "parts": {}}
        rule = self.normalize or self._rule
        if rule != self._rule:
            self.record["text"] = {"normalize": rule}
        return self

    @property
    def _rule(self) -> str:
        return recorded_normalization(self.record)

    def record_normalization(self) -> None:
        """Note the rule that is asked for; the cuts keep their text as it is, so that it can change."""
        before = recorded_normalization(load_record(self.out_dir))
        if self._rule != before and self.record["parts"]:
            log.warning(
                "%s: text.normalize was %s and is %s now: run `kdasr tokens` again",
                self.out_dir, before, self._rule,
            )  # fmt: skip
            with locked(self.out_dir):
                self.load().write()

    def write(self) -> None:
        """Write the record."""
        write_json(self.out_dir / RECORD, self.record)

    def check_free(self, part: str) -> None:
        """Refuse a part in whose place are files that `kdasr prepare` has not written, and would remove.

        Raises:
            UserError: there are such; names them.
        """
        there = [path for path in part_places(self.out_dir, part) if holds_something(path)]
        self.load()  # afterwards: another process may just have published the part
        is_of_other_version = (self.out_dir / RECORD).is_file() and load_record(self.out_dir) is None
        is_ours = part in self.record["parts"] or part in self.record.get(_PUBLISHING, ())
        if there and not (is_ours or is_of_other_version):
            raise UserError(
                f"{quote(there)}: there already, and `kdasr prepare` would replace what it has not written: "
                "give another --out, or move it away"
            )

    def begin_publishing(self, part: str) -> bool:
        """Note that the files of a part are replaced now: until `end_publishing` it counts as not prepared.
        Whether it was prepared before."""
        was_there = self.record["parts"].pop(part, None) is not None
        self.record[_PUBLISHING] = sorted({*self.record.get(_PUBLISHING, ()), part})
        self.write()
        return was_there

    def end_publishing(self, part: str, entry: dict[str, Any]) -> None:
        """Note what there is of a part."""
        self.record["parts"][part] = entry
        others = [name for name in self.record.pop(_PUBLISHING, ()) if name != part]
        if others:
            self.record[_PUBLISHING] = others
        self.write()

    def has(self, part: str, settings: dict[str, Any]) -> bool:
        """Whether a part was prepared from what is there now."""
        entry = self.record["parts"].get(part)
        return entry is not None and entry["settings"] == settings

    def is_done(self, part: str, settings: dict[str, Any]) -> bool:
        """Whether it was, and is still as it was left."""
        if not self.has(part, settings):
            return False
        if self.record["parts"][part].get("written") == self.written(part):
            return True
        log.warning("%s: its files are not as `kdasr prepare` left them: preparing it again", part)
        return False

    def written(self, part: str) -> dict[str, Any]:
        """What there is of a part: to tell whether something was lost or replaced since."""
        path = cuts_path(self.out_dir, part)
        return {
            "cuts_sha256": sha256(path) if path.is_file() else None,
            "fbank": folder_size(self.out_dir / "fbank" / part),
            "audio": folder_size(self.out_dir / "audio" / part),
        }


@dataclass
class PartWork:
    """What is to be done for a part."""

    checked: Part
    settings: dict[str, Any]
    """What decides the result; plain values."""
    options: PrepareOptions
    data: PreparedFolder

    def __post_init__(self) -> None:
        self._out_dir = self.options.out_dir.resolve()
        key, part = settings_key(self.settings), self.checked.name
        self._audio = Staged(self._out_dir / "audio" / part, key)
        self._fbank = Staged(self._out_dir / "fbank" / part, key)

    def run(self, workers: Workers) -> None:
        """Do this process's share beside what is published; who does the last one moves all into place.

        Raises:
            UserError: too many bad utterances, or another command is at work on this part.
        """
        started, options = time.monotonic(), self.options
        with ExitStack() as stack:
            with self._alone():
                if self._is_done():
                    return
                stack.enter_context(self._begun())
            spool = UtteranceSpool(self.checked, self._audio.notes, tuple(self.settings["speeds"]))
            spooled = spool.make(self._audio.partial, options.jobs, options.ranks)
            spooled.remarks.log(self.checked.name)
            store = not options.on_the_fly
            tasks = part_tasks(spooled.copies, self._fbank, self._audio, self._out_dir, store=store)
            bad = tasks.run(options.ranks, workers, stop_at_once=options.max_bad.at_once)
            if bad and options.max_bad.at_once:
                report_bad_of(self.checked, [*self.checked.bad, *spooled.bad, *bad], options)
        with self._alone():
            self.data.load()
            # Who has put it together has removed the notes.
            if self._fbank.notes.is_dir() and tasks.is_complete():
                self._publish(spooled, tasks, started)

    def _alone(self) -> AbstractContextManager[object]:
        self._out_dir.mkdir(parents=True, exist_ok=True)
        return locked(self._out_dir)

    def _is_done(self) -> bool:
        self.data.load()
        if not self.data.is_done(self.checked.name, self.settings):
            return False
        known = self.data.record["parts"][self.checked.name].get("bad", [])
        report_bad_of(self.checked, [BadUtterance(*item) for item in known], self.options)
        log.info("%s: already prepared", self.checked.name)
        return True

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Folders for what is computed, which nobody removes meanwhile, where the file system has locks."""
        with ExitStack() as stack:
            for staged in (self._audio, self._fbank):
                staged.notes.mkdir(parents=True, exist_ok=True)
                with locked(staged.notes, wait=False) as is_ours:
                    if not (is_ours or staged.is_known()):
                        raise UserError(
                            f"{self.checked.name}: another `kdasr prepare` is at work on it with other "
                            "settings or other files: let it finish"
                        )
                    stack.enter_context(staged)
                stack.enter_context(locked(staged.notes, shared=True))
            yield

    def _publish(self, spooled: Spooled, tasks: PartTasks, started: float) -> None:
        """Put together what all processes have computed, move it into place, and record it."""
        checked, options, part = self.checked, self.options, self.checked.name
        for staged in (self._audio, self._fbank):
            with locked(staged.notes):  # others may still look whether something is left to do
                pass
        result = tasks.result()
        bad = report_bad_of(checked, [*checked.bad, *spooled.bad, *result.bad], options)
        left_out = ids_of(bad)
        sampled = options.on_the_fly and self.settings["train"]
        stats = sample_stats(spooled.copies, left_out) if sampled else result.stats
        manifests = write_manifests(self._audio.notes / "manifests", spooled.copies, tasks, left_out)
        self._move(manifests, was_there=self.data.begin_publishing(part))
        entry = {
            "settings": self.settings,
            "utterances": manifests.utterances,
            "bad": [list(utterance) for utterance in bad],
            "empty_transcripts": checked.empty,
            "cuts": manifests.cuts,
            "hours": round(manifests.seconds / 3600, 4),
            **checked.notes(),
            "stats": stats.to_json(),
            "written": self.data.written(part),
        }
        self.data.end_publishing(part, entry)
        content = f"{manifests.utterances} utterances, {manifests.cuts} cuts"
        kind = "features on the fly" if options.on_the_fly else "features stored"
        log.info(
            "%s: %s, %.2f h, %s, in %.1f s",
            part, content, manifests.seconds / 3600, kind, time.monotonic() - started,
        )  # fmt: skip

    def _move(self, manifests: PartManifests, *, was_there: bool) -> None:
        manifests.move(self._out_dir, self.checked.name, was_there=was_there)
        self._fbank.publish()
        self._audio.publish()


def part_places(data_dir: Path, part: str) -> list[Path]:
    """The folders and files that are replaced when a part is prepared."""
    folders = [data_dir / kind / part for kind in ("audio", "fbank")]
    manifests = [manifest_path(data_dir, kind, part) for kind in ("recordings", "supervisions")]
    return [*folders, *manifests, cuts_path(data_dir, part)]


def report_bad_of(part: Part, bad: list[BadUtterance], options: PrepareOptions) -> list[BadUtterance]:
    """See `report_bad`."""
    total = part.num_utterances + len(part.bad)
    return report_bad(part.name, bad, total, options.max_bad, options.out_dir / f"bad-{part.name}.tsv")
