"""Utterances whose audio cannot be used: how many are left out before a part is refused, and their list."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kdasr.common.errors import UserError
from kdasr.common.files import write_text
from kdasr.common.logging import get_logger
from kdasr.data.audio_files import quote

log = get_logger(__name__)


class BadUtterance(NamedTuple):
    """An utterance that is left out because its audio cannot be used."""

    id: str
    audio: str
    """The file, or the id where it has none."""
    reason: str

    def __str__(self) -> str:
        return f"{self.audio} ({self.reason})"


@dataclass(frozen=True)
class MaxBad:
    """The most bad utterances that a part may have: a share of them, or a number."""

    value: float = 0.01
    is_share: bool = True

    @classmethod
    def parse(cls, text: str) -> "MaxBad":
        """Read `1%` or `25`.

        Raises:
            UserError: anything else.
        """
        share, is_share = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            value = float(share) / 100 if is_share else float(int(share))
        except ValueError:
            value = math.nan
        if not 0 <= value < math.inf or (is_share and value > 1):
            raise UserError(f"--max-bad '{text}': expected a share such as 1%, or a number of utterances")
        return cls(value, is_share)

    def of(self, total: int) -> int:
        """The most of `total` utterances. A share is rounded up: it allows at least one, unless it is 0."""
        return math.ceil(self.value * total - 1e-9) if self.is_share else int(self.value)

    @property
    def at_once(self) -> bool:
        """Whether the first bad utterance ends the work."""
        return self.value == 0

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.is_share else f"{self.value:g}"


def report_bad(
    part: str, bad: Iterable[BadUtterance], total: int, limit: MaxBad, list_path: Path
) -> list[BadUtterance]:
    """Write the list of all bad utterances of a part and say what becomes of them; sorted.

    Args:
        part: its name.
        bad: what is bad; without any, an earlier list is removed.
        total: utterances of the part, the bad ones included.
        limit: how many may be bad.
        list_path: the list: id, file and reason of each, with tabs between.

    Raises:
        UserError: more than `limit`.
    """
    found = sorted({item.id: item for item in sorted(bad, reverse=True)}.values())
    if not found:
        list_path.unlink(missing_ok=True)
        return found
    write_text(list_path, "".join(f"{name}\t{audio}\t{reason}\n" for name, audio, reason in found))
    text = f"{part}: {len(found)} of {total} utterances have bad audio"
    listed = f"{quote(found)}; all are listed in {list_path}"
    if len(found) > limit.of(total) or len(found) == total:
        stopped = " so far" if limit.at_once else ""
        raise UserError(
            f"{text}{stopped}, more than --max-bad {limit} allows: {listed}. What is done is kept; "
            "copy these files again, or raise --max-bad"
        )
    log.warning("%s, left out: %s", text, listed)
    return found


def ids_of(bad: Sequence[BadUtterance]) -> set[str]:
    """The ids of bad utterances."""
    return {utterance.id for utterance in bad}
