"""Error rates of louder and quieter copies of a part, where `kdasr decode --gain-db` has measured them."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdasr.report.results import ResultRow, part_names


@dataclass(frozen=True)
class GainLine:
    """One system on one part."""

    system: str
    part: str
    rates: list[float | None]
    """Percent, of the part's measure, one for each gain of the table; None where it was not measured."""


@dataclass(frozen=True)
class GainTable:
    """The page's table."""

    gains_db: list[float]
    lines: list[GainLine]


def gain_table(rows: Sequence[ResultRow]) -> GainTable | None:
    """The page's table; None when no system was decoded at a gain."""
    measured = [row for row in rows if row.gains]
    if not measured:
        return None
    gains = sorted({float(entry["gain_db"]) for row in measured for entry in row.gains})
    lines = []
    for part in part_names(measured):
        for row in (row for row in measured if row.part == part):
            rates = {float(entry["gain_db"]): entry.get(row.measure) for entry in row.gains}
            lines.append(GainLine(row.system, part, [rates.get(gain) for gain in gains]))
    return GainTable(gains, lines)
