"""Damaged files, killed commands, full disks: what kdasr makes of them. `make torture`."""

import json
import logging
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from torture.damage import damage
from torture.full_disk import can_mount, fill_and_resume
from torture.kills import Reference, kill_and_resume, prepare_references
from torture.kinds import make_kinds

CONFIG = Path(__file__).parents[2] / "egs" / "librispeech" / "conf" / "tiny.yaml"
KILLS_PER_RUN = 2


@click.command()
@click.option("--seed", type=int, default=1, show_default=True)
@click.option(
    "--minutes",
    type=float,
    default=30.0,
    show_default=True,
    help="Stop after so long; each kind of harm has a share.",
)
@click.option("--damages", type=int, default=200, show_default=True, help="Damaged files of each kind.")
@click.option("--kills", type=int, default=100, show_default=True, help="Kills, over all commands.")
@click.option("--disks", type=int, default=20, show_default=True, help="Full disks, over all commands.")
@click.option("--jobs", type=int, default=2, show_default=True, help="Runs side by side.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("exp/torture"), show_default=True)
def main(seed: int, minutes: float, damages: int, kills: int, disks: int, jobs: int, out: Path) -> None:
    """Print the numbers of tries and of faults, each fault, and write both to OUT/torture.json."""
    end = time.monotonic() + 60 * minutes
    later = bool(kills) + bool(disks)
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        folder = Path(name)
        rows = _damages(folder / "damage", (damages, seed), jobs, _share_of(end, 1 + later))
        with ThreadPoolExecutor(jobs) as pool:
            wanted = range(jobs if kills or disks else 0)
            sets = list(pool.map(lambda job: prepare_references(folder / f"job-{job}", CONFIG), wanted))
        rows += _kills(sets, (kills, seed), _share_of(end, later))
        if disks and not can_mount(folder / "mount"):
            click.echo("full disks are left out: they take the right to mount")
            disks = 0
        rows += _disks(sets[0] if sets else [], (disks, seed), end)
    faults = [fault for row in rows for fault in row["faults"]]
    out.mkdir(parents=True, exist_ok=True)
    (out / "torture.json").write_text(json.dumps({"seed": seed, "rows": rows}, indent=2) + "\n")
    tries = sum(row["tries"] for row in rows)
    click.echo(f"{tries} tries, {len(faults)} faults; {out / 'torture.json'}")
    sys.exit(bool(faults))


def _share_of(end: float, count: int) -> float:
    """When the first of `count` kinds of harm has had its share of the time that is left."""
    now = time.monotonic()
    return now + (end - now) / max(count, 1)


def _damages(folder: Path, counts: tuple[int, int], jobs: int, end: float) -> list[dict[str, Any]]:
    """The kinds of files are shared out to processes, each of which has files of its own."""
    if not counts[0]:
        return []
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        shares = [
            pool.submit(_damage_share, folder / f"{job}", counts, (job, jobs), end) for job in range(jobs)
        ]
        return [row for share in shares for row in share.result()]


def _damage_share(
    folder: Path, counts: tuple[int, int], share: tuple[int, int], end: float
) -> list[dict[str, Any]]:
    folder.mkdir(parents=True)
    (tries, seed), (job, jobs) = counts, share
    rows = []
    for kind in make_kinds(folder, CONFIG)[job::jobs]:
        if time.monotonic() > end:
            click.echo(f"no time left for damaged files of kind {kind.name}")
            continue
        tally = damage(kind, tries, seed)
        rows.append(_row("damaged", kind.name, tally.tries, tally.faults, dict(tally.outcomes)))
    return rows


def _kills(sets: list[list[Reference]], counts: tuple[int, int], end: float) -> list[dict[str, Any]]:
    """Runs side by side, one in the folder of each set of references."""
    kills, seed = counts
    names = range(len(sets[0]) if sets else 0)
    runs = [(number, number % len(names)) for number in range(kills // KILLS_PER_RUN if names else 0)]

    def work(job: int) -> dict[int, str]:
        found = {}
        for number, which in runs[job :: len(sets)]:
            if time.monotonic() < end:
                draws = Random(f"{seed}:kill:{number}")
                found[number] = kill_and_resume(sets[job][which], draws, KILLS_PER_RUN)
        return found

    told: dict[int, str] = {}
    with ThreadPoolExecutor(max(1, len(sets))) as pool:
        for found in pool.map(work, range(len(sets))):
            told |= found
    references = [sets[0][which] for _, which in runs]
    return _by_command("killed", references, [told.get(number) for number, _ in runs], KILLS_PER_RUN)


def _disks(references: list[Reference], counts: tuple[int, int], end: float) -> list[dict[str, Any]]:
    disks, seed = counts
    runs = [references[number % len(references)] for number in range(disks)]
    found = [
        None if time.monotonic() > end else fill_and_resume(run, Random(f"{seed}:disk:{number}"))
        for number, run in enumerate(runs)
    ]
    return _by_command("disk full", runs, found, 1)


def _by_command(
    what: str, runs: list[Reference], found: list[str | None], tries_each: int
) -> list[dict[str, Any]]:
    rows = []
    for name in dict.fromkeys(run.command.name for run in runs):
        mine = [fault for run, fault in zip(runs, found, strict=True) if run.command.name == name]
        done = [fault for fault in mine if fault is not None]
        if len(done) < len(mine):
            click.echo(f"no time left for {len(mine) - len(done)} of {len(mine)} runs of {name}, {what}")
        rows.append(
            _row(what, name, tries_each * len(done), [f"{name}: {fault}" for fault in done if fault], {})
        )
    return rows


def _row(what: str, name: str, tries: int, faults: list[str], outcomes: dict[str, int]) -> dict[str, Any]:
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    click.echo(f"{what:10} {name:20} {tries:4} tries, {len(faults):3} faults  {told}")
    for fault in faults:
        click.echo(f"    {fault}")
    return {"what": what, "name": name, "tries": tries, "faults": faults, "outcomes": outcomes}


if __name__ == "__main__":
    main()
