"""Damages every kind of file that others make: what does kdasr make of it? `python tools/torture_parts`."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from torture_parts.mutations import FAULTS, KINDS, Trial, run_mutations


@click.command()
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed, the same mutations.")
@click.option(
    "--count", type=click.IntRange(min=1), default=200, show_default=True, help="Of each kind of file."
)
@click.option("--minutes", type=float, default=10.0, show_default=True, help="Stop after so long.")
@click.option("--kinds", default="", help="Only these kinds, separated by commas.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("exp/torture/work"), show_default=True)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("exp/torture/mutations.json"), show_default=True
)
def main(seed: int, count: int, minutes: float, kinds: str, work: Path, out: Path) -> None:
    """Print a table of tries and faults, then each fault; the exit status is 1 if there is one."""
    names = [name.strip() for name in kinds.split(",") if name.strip()]
    unknown = sorted(set(names) - {kind.name for kind in KINDS})
    if unknown:
        raise click.UsageError(
            f"--kinds: no '{unknown[0]}'; there are: {', '.join(kind.name for kind in KINDS)}"
        )
    work.mkdir(parents=True, exist_ok=True)
    trials = run_mutations(work, seed, count, time.monotonic() + 60 * minutes, names)
    rows = summarise(trials, count, names)
    for line in table(rows):
        click.echo(line)
    faults = [trial for trial in trials if trial.is_fault]
    for trial in faults:
        click.echo(f"{trial.kind} {trial.index} ({trial.what}): {trial.outcome}: {trial.detail}")
    out.parent.mkdir(parents=True, exist_ok=True)
    value = {"seed": seed, "rows": rows, "faults": [trial._asdict() for trial in faults]}
    out.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.exit(bool(faults))


def summarise(trials: Sequence[Trial], count: int, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Tries of each kind, by what they came to, and how many were left out for lack of time."""
    rows = []
    for kind in KINDS:
        if names and kind.name not in names:
            continue
        counts = Counter(trial.outcome for trial in trials if trial.kind == kind.name)
        tries = sum(counts.values())
        rows.append(
            {
                "kind": kind.name,
                "oracle": kind.oracle,
                "tries": tries,
                "left_out": max(0, count - tries),
                "refused": counts["refused"],
                "right": counts["right"],
                "faults": sum(counts[name] for name in FAULTS),
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of text."""
    columns = ("tries", "refused", "right", "faults", "left_out")
    lines = [f"{'file':<16}" + "".join(f"{name:>10}" for name in columns)]
    lines += [f"{row['kind']:<16}" + "".join(f"{row[name]:>10}" for name in columns) for row in rows]
    total = {name: sum(row[name] for row in rows) for name in columns}
    return [*lines, f"{'all':<16}" + "".join(f"{total[name]:>10}" for name in columns)]


if __name__ == "__main__":
    main()
