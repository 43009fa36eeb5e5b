"""The HTML page: one file, no script, nothing loaded from anywhere."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdasr import __version__
from kdasr.common.files import write_text
from kdasr.report.contexts import context_table
from kdasr.report.gains import gain_table
from kdasr.report.headline import Headline
from kdasr.report.long_form import LongFormRow, counts, first_word, increase
from kdasr.report.notes import Note, decode_command
from kdasr.report.plots import Plot
from kdasr.report.records import DecodedPart, SystemRecord
from kdasr.report.results import PairedGain, ResultRow, part_names
from kdasr.report.roles import Roles
from kdasr.report.style import COLORS, Styles, figure_svg
from kdasr.report.wording import amount, interval, number, resampled_units, share, signed, verdict


@dataclass
class PageContent:
    """Everything on the page, as it was computed."""

    folders: Sequence[Path]
    systems: Sequence[SystemRecord]
    styles: Styles
    roles: Roles
    rows: Sequence[ResultRow]
    comparisons: Sequence[PairedGain]
    contexts: Sequence[ResultRow]
    long_form: Sequence[LongFormRow]
    headline: Headline
    notes: Sequence[Note]
    plots: Sequence[Plot]
    examples: Sequence[Plot]
    example_rule: str
    example_notes: Sequence[str] = field(default_factory=list)
    data_dir: Path | None = None


def write_page(content: PageContent, path: Path) -> None:
    """Render the page to `path` in one step."""
    environment = Environment(
        loader=PackageLoader("kdasr.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "signed": signed}
    environment.globals |= {"interval": interval, "verdict": verdict, "share": share, "resampled": _resampled}
    environment.globals |= {
        "amount": amount,
        "counts": counts,
        "first_word": first_word,
        "increase": increase,
    }
    write_text(path, environment.get_template("report.html").render(_variables(content)))


def _variables(content: PageContent) -> dict[str, Any]:
    parts = part_names(content.rows)
    names = list(dict.fromkeys(row.system for row in content.rows))
    return {
        "version": __version__,
        "title": ", ".join(_folder_name(folder) for folder in content.folders),
        "headline": content.headline,
        "num_systems": len(names),
        "parts": parts,
        "colors": COLORS,
        "swatch": {name: style.color.name for name, style in content.styles.items()},
        "sections": [(part, [row for row in content.rows if row.part == part]) for part in parts],
        "best": {part: _best_student(content, part) for part in parts},
        "rows": content.rows,
        "comparisons": content.comparisons,
        "contexts": context_table(content.contexts),
        "gains": gain_table(content.rows),
        "long_form": content.long_form,
        "notes": content.notes,
        "plots": [_figure(plot) for plot in content.plots],
        "examples": [_figure(plot) for plot in content.examples],
        "example_rule": content.example_rule,
        "example_notes": content.example_notes,
        "trainings": [_training(system, content.rows) for system in content.systems],
        "environment": environment_table(content.systems),
        "onsets": sorted({row.onset for row in content.rows if row.onset}),
        "commands": _commands(content),
    }


def _resampled(found: Sequence[ResultRow | PairedGain]) -> str:
    """What the intervals of rows or comparisons are over."""
    return resampled_units(one.wer for one in found)


def _folder_name(folder: Path) -> str:
    return str(folder) if not folder.is_absolute() else "/".join(folder.parts[-2:])


def _figure(plot: Plot) -> dict[str, Any]:
    return {
        "name": plot.name,
        "title": plot.title,
        "caption": plot.caption,
        "alt": plot.alt,
        "svg": Markup(figure_svg(plot.figure, plot.name)),
    }


def _best_student(content: PageContent, part: str) -> str | None:
    teachers = content.roles.teachers
    students = [row for row in content.rows if row.part == part and row.system not in teachers]
    if len(students) < 2:
        return None
    return min(students, key=lambda row: row.error_rate.estimate).system


def _training(system: SystemRecord, rows: Sequence[ResultRow]) -> dict[str, Any]:
    """How one system came to be, from its configuration and its decoding."""
    found = [row for row in rows if row.system == system.name]
    contexts = [_context(context) for context in system.config.get("contexts") or []]
    return {
        "name": system.name,
        "context": (found[0].context if found else "") or " / ".join(contexts),
        "seed": system.config.get("seed"),
        "stages": [
            {
                "name": stage.get("name"),
                "steps": system.steps_of_stages.get(str(stage.get("name"))),
                "init": stage.get("init_from"),
                "losses": ", ".join(f"{k} {v:g}" for k, v in (stage.get("loss_weights") or {}).items()),
            }
            for stage in system.config.get("stages") or []
        ],
        "steps": found[0].train_steps if found else system.trained_steps,
        "params": found[0].params if found else None,
        "checkpoints": sorted({_checkpoint(part) for part in system.parts.values()} - {""}),
        "modes": sorted({row.mode for row in found}),
        "blank_penalties": sorted({row.blank_penalty for row in found}),
    }


def _checkpoint(decoded: DecodedPart) -> str:
    """Name and the start of the digest of the decoded weights."""
    name = Path(str(decoded.summary.get("checkpoint") or "")).name
    digest = str(decoded.summary.get("checkpoint_sha256") or "")[:8]
    return f"{name} ({digest})" if digest else name


def _context(context: Mapping[str, int]) -> str:
    if context.get("chunk", -1) < 0:
        return "full"
    return " ".join(f"{name}={context.get(name, 0)}" for name in ("left", "chunk", "right"))


def environment_table(systems: Sequence[SystemRecord]) -> list[tuple[str, str]]:
    """Versions and machine, one line per key; where systems differ, every value with its systems."""
    values: dict[str, dict[str, list[str]]] = {}
    for system in systems:
        # The seed stands with the system, the command with the other commands.
        shown = {key: value for key, value in system.environment.items() if key not in ("seed", "command")}
        for key, value in _flatten(shown):
            values.setdefault(key, {}).setdefault(value, []).append(system.name)
    table = []
    for key, found in values.items():
        if len(found) == 1:
            table.append((key, next(iter(found))))
        else:
            table.append((key, "; ".join(f"{value} ({', '.join(who)})" for value, who in found.items())))
    return table


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            lines += _flatten(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            lines.append((f"{prefix}{key}", " ".join(str(item) for item in value)))
        elif value not in (None, ""):
            lines.append((f"{prefix}{key}", str(value)))
    return lines


def _commands(content: PageContent) -> list[str]:
    """What was typed to train, as far as it is known, and what to type for the rest."""
    data = str(content.data_dir) if content.data_dir else None
    lines = [_train_command(system) for system in content.systems]
    for system in content.systems:
        if system.parts:
            lines.append(decode_command(system, list(system.parts), data))
    where = ["--data", data] if data else []
    lines.append(shlex.join(["kdasr", "report", *map(str, content.folders), *where]))
    return lines


def _train_command(system: SystemRecord) -> str:
    command = system.environment.get("command")
    if isinstance(command, list) and len(command) > 1:
        return shlex.join([Path(str(command[0])).name, *(str(word) for word in command[1:])])
    config = str(system.folder / "config.yaml")
    return shlex.join(["kdasr", "train", "--config", config, "--exp", str(system.folder)])
