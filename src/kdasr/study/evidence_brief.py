"""The evidence as a document shows it: what a reader decides by, and the names of the CSV files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.files import write_text
from kdasr.report.wording import NOTHING, THOUSANDS
from kdasr.study.evidence import Evidence
from kdasr.study.evidence_records import Record, as_csv, records
from kdasr.study.evidence_tables import sizes

WHAT = {
    "rows": "every row, with its WER by seed and all latencies",
    "comparisons": "every row against every baseline, with the share of the gap that it closes",
    "dev": "all streaming rows on the dev parts, where settings were chosen, lowest WER first",
    "rates": "learning rates that were tried, with their dev WER",
}


@dataclass(frozen=True)
class BriefTables:
    """The short tables of one decoding, from its records."""

    found: Mapping[str, Sequence[Record]]
    """See `records`."""
    parts: Sequence[str]
    """Columns, in this order."""
    rows: Sequence[str]
    """The rows whose comparisons are shown; those of all others are in the CSV file."""

    def blocks(self) -> list[str]:
        """A table of all rows, and one of comparisons, with what is bold in it."""
        found = [self._means(), self._comparisons()]
        return [block for block in found if block]

    def _means(self) -> str:
        lines = [line for line in self.found.get("rows", []) if line["part"] in self.parts]
        streamed = any(line["first_word_ms"] for line in lines)
        heads = [
            head
            for part in self.parts
            for head in (f"{part}: WER % (95 %)", *(["first word, ms (right, %)"] if streamed else []))
        ]
        table = [["row", "starts from", "steps", "seeds", *heads]]
        for row in dict.fromkeys(line["row"] for line in lines):
            by_part = {line["part"]: line for line in lines if line["row"] == row}
            first = next(iter(by_part.values()))
            name = f"`{row}`" + (f" ({first['role']})" if first["role"] else "")
            cells = [name, first["starts_from"], _shown(first["steps"], thousands=True), first["seeds"]]
            for part in self.parts:
                line = by_part.get(part, {})
                cells.append(_spread(line, "wer"))
                cells += [_with_share(line)] if streamed else []
            table.append(cells)
        return markdown_table(table) if len(table) > 1 else ""

    def _comparisons(self) -> str:
        lines = [line for line in self.found.get("comparisons", []) if line["part"] in self.parts]
        lines = [line for line in lines if line["row"] in self.rows]
        streamed = any(line["first_word_earlier_ms"] for line in lines)
        latency = ["first word earlier, ms (95 %)"] if streamed else []
        heads = [head for part in self.parts for head in (f"{part}: fewer word errors, % (95 %)", *latency)]
        table = [["row", "against", *heads]]
        pairs = dict.fromkeys((line["row"], line["against"]) for line in lines)
        for row, against in sorted(pairs, key=lambda pair: self.rows.index(pair[0])):
            pair = [line for line in lines if (line["row"], line["against"]) == (row, against)]
            by_part = {line["part"]: line for line in pair}
            cells = [f"`{row}`", f"`{against}`"]
            for part in self.parts:
                line = by_part.get(part, {})
                cells.append(decided(line, "fewer_word_errors_percent", "word_errors"))
                cells += [decided(line, "first_word_earlier_ms", "first_word")] if streamed else []
            table.append(cells)
        if len(table) == 1:
            return ""
        note = "Positive is better, bold is decided: the interval does not contain 0."
        if streamed:
            note += " First words are compared on the utterances that both rows have right."
        return f"{note}\n\n{markdown_table(table)}"


def brief(evidence: Evidence, name: str, folder: str) -> list[str]:
    """The short tables, then a line of links to the CSV files of `write_csv`.

    The parts are the test parts, or where none was decoded the dev parts. Comparisons are those of the row
    that all are ranked against, and of rows that are compared with more than the baselines; without any, of
    every row that is neither the topline nor a baseline nor what both start from.
    """
    found = records(evidence)
    test = [part for part in evidence.parts if evidence.is_test(part)]
    decoded = {line["part"] for line in found.get("rows", [])}
    parts = [part for part in test if part in decoded] or [part for part in evidence.parts if part in decoded]
    if not found:
        return []
    size = "; ".join(f"{part} has {sizes(part, evidence)}" for part in parts)
    blocks = BriefTables(found, parts, _headline_rows(evidence)).blocks()
    return [f"{size}.", *blocks, links(found, name, folder)]


def links(tables: Mapping[str, object], name: str, folder: str) -> str:
    """One line that names the CSV files of these tables."""
    files = [f"[{WHAT[table]}]({folder}/{name}-{table}.csv)" for table in tables]
    return f"All numbers as CSV: {'; '.join(files)}."


def write_csv(evidence: Evidence, name: str, folder: Path) -> list[Path]:
    """Write `NAME-TABLE.csv` for each table of `records` into a folder, and return their paths."""
    paths = []
    for table, lines in records(evidence).items():
        paths.append(folder / f"{name}-{table}.csv")
        write_text(paths[-1], as_csv(lines))
    return paths


def _headline_rows(evidence: Evidence) -> list[str]:
    named = {evidence.rank_against, *evidence.against}
    chosen = [row for row in evidence.rows if row in named]
    starts = {mean.init for mean in evidence.means}
    return chosen or [
        row for row in evidence.rows if row not in (evidence.topline, *evidence.baselines, *starts)
    ]


def _shown(text: str, thousands: bool = False, sign: bool = False) -> str:
    """A number of a record as people read it: a real minus sign, a dash where nothing was measured."""
    if not text:
        return NOTHING
    if thousands:
        text = f"{int(text):,}".replace(",", THOUSANDS)
    plus = "+" if sign and float(text.replace(THOUSANDS, "")) > 0 else ""
    return plus + text.replace("-", "−")


def _with_share(line: Mapping[str, str]) -> str:
    """First-word latency, and for how many percent of the utterances there is one."""
    if not line.get("first_word_ms"):
        return NOTHING
    return f"{_shown(line['first_word_ms'])} ({_shown(line['first_word_right_percent'])})"


def _spread(line: Mapping[str, str], name: str, sign: bool = False) -> str:
    if not line.get(name):
        return NOTHING
    estimate, low, high = (_shown(line[name + end], sign=sign) for end in ("", "_low", "_high"))
    return f"{estimate} ({low} to {high})"


def decided(line: Mapping[str, str], name: str, finding: str) -> str:
    """A number of a record with its interval; bold where the finding says that it is decided."""
    text = _spread(line, name, sign=True)
    return f"**{text}**" if line.get(finding) in ("fewer", "more", "earlier", "later") else text


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the heads."""
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([lines[0], f"|{'---|' * len(table[0])}", *lines[1:]])
