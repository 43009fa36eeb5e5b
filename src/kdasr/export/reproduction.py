"""The commands that made a system: its own training, after those of what it starts from and learns from."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdasr.checkpoint import AVERAGED, FOLDER
from kdasr.common.configio import load_yaml
from kdasr.common.errors import UserError
from kdasr.common.files import read_json
from kdasr.training.stage import resolve_reference


def training_commands(folder: Path) -> list[list[str]]:
    """How to train the system of `folder`, in order, with paths relative to one folder.

    What it starts from and learns from comes first, as far as that is still where it was. Empty where the
    folder does not say how its system was trained.
    """
    found: dict[Path, list[list[str]]] = {}
    _collect(folder, found, seen=set())
    return _relative([command for commands in found.values() for command in commands])


def read_record(path: Path) -> dict[str, Any]:
    """A file of an experiment folder; nothing where there is none (a checkpoint may have left its home)."""
    if not path.is_file():
        return {}
    try:
        content = load_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except (UserError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def exp_of(command: Sequence[str]) -> str:
    """The folder of the system that a command trains or averages, as it names it."""
    if command[1:2] == ["average"]:
        return command[-1]
    named = [value for option, value in pairwise(command) if option == "--exp"]
    return next(iter(named + [word[6:] for word in command if word.startswith("--exp=")]), "EXP")


def _collect(folder: Path, found: dict[Path, list[list[str]]], seen: set[Path]) -> None:
    place = folder.resolve()
    command = _command(folder)
    if place in seen or not command:
        return
    seen.add(place)
    for reference in _references(read_record(folder / "config.yaml")):
        try:
            path = resolve_reference(reference, folder)
        except UserError:
            continue
        _collect(path if path.is_dir() else path.parent.parent, found, seen)
    found[place] = [command]
    if (folder / FOLDER / AVERAGED).is_file():
        found[place] += [["kdasr", "average", exp_of(command)]]


def _command(folder: Path) -> list[str]:
    """That trained a system; empty where its folder does not say."""
    found = read_record(folder / "environment.json").get("command")
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else []


def _references(config: Mapping[str, Any]) -> Iterator[str]:
    """The systems that a configuration names: whose weights it starts from, and its teachers."""
    stages, objective = config.get("stages"), config.get("objective")
    if isinstance(stages, list) and stages and isinstance(stages[0], Mapping):
        yield from _names([stages[0].get("init_from")])
    if isinstance(objective, Mapping):
        more = objective.get("more_teachers")
        yield from _names([objective.get("teacher"), *(more if isinstance(more, list) else [])])


def _names(values: Sequence[Any]) -> Iterator[str]:
    yield from (value for value in values if isinstance(value, str) and value)


def _relative(commands: Sequence[Sequence[str]]) -> list[list[str]]:
    """Without the folders of their machine: paths from where they part."""
    values = [word.rpartition("=")[2] for command in commands for word in command[1:]]
    roots = [set(Path(value).parents) for value in values if value.startswith("/")]
    shared = max(set.intersection(*roots), key=lambda path: len(path.parts)) if roots else Path("/")

    def shortened(word: str) -> str:
        name, equals, value = word.rpartition("=")
        if value.startswith("/"):
            value = Path(value).name if shared == Path("/") else str(Path(value).relative_to(shared))
        return f"{name}{equals}{value}"

    return [[Path(command[0]).name, *map(shortened, command[1:])] for command in commands]
