"""Encoder contexts on the command line: as texts, and those that a system was trained with."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.nn.context import Context

if TYPE_CHECKING:
    from kdasr.experiment.config import ExperimentConfig

log = get_logger(__name__)


def system_folder(exp: Path) -> Path:
    """The experiment folder of a folder or of one of its checkpoint files."""
    if exp.is_dir():
        return exp
    return exp.parent.parent if exp.parent.name == "checkpoints" else exp.parent


def parse_context(text: str) -> Context:
    """Read `full` or `left=32,chunk=8,right=0` (right may be left out).

    Raises:
        UserError: anything else, with the text and what was expected.
    """
    if text.strip() == "full":
        return Context.full()
    message = f"context '{text}': expected 'full' or such as 'left=32,chunk=8,right=0'"
    values: dict[str, int] = {}
    for assignment in text.replace(",", " ").split():
        name, _, number = assignment.partition("=")
        if name not in ("left", "chunk", "right") or name in values or not number.isdecimal():
            raise UserError(message)
        values[name] = int(number)
    if not {"left", "chunk"} <= set(values):
        raise UserError(message)
    try:
        return Context(**values)
    except ValueError as error:
        raise UserError(f"context '{text}': {error}") from None


def parse_contexts(text: str, exp: Path) -> dict[str, Context]:
    """Read contexts between semicolons, such as `full; left=32,chunk=8; left=32,chunk=4,right=2`.

    Returns:
        Each by the name of its folder in `EXP/contexts`, which is that of `trained_contexts` where it is one
        of those.

    Raises:
        UserError: as `parse_context`; no context, or one twice.
    """
    known = {}
    if (exp / "config.yaml").is_file():
        known = {context: name for name, context in trained_contexts(exp).items()}
    found: dict[str, Context] = {}
    for part in filter(str.strip, text.split(";")):
        context = parse_context(part)
        name = known.get(context) or context.folder_name
        if name in found:
            raise UserError(f"--contexts: '{part.strip()}' is there twice")
        found[name] = context
    if not found:
        raise UserError(f"--contexts '{text}': expected such as 'full; left=32,chunk=8'")
    return found


def trained_contexts(exp: Path) -> dict[str, Context]:
    """The contexts that a system was trained with, each by the name of its folder in `EXP/contexts`.

    Such as `left-32-chunk-8-right-4`, as in a study; or `chunk-8`, where no others have that chunk and an
    earlier version has left a folder of this name. None of a system with a single context.

    Raises:
        UserError: `exp` is not the folder of a transducer.
    """
    config = _saved_config(exp)
    if config is None:
        raise UserError(f"--all-contexts: {exp} has no config.yaml of a transducer, which names the contexts")
    if len(config.contexts) == 1:
        if config.context_choice:
            log.warning(
                "--all-contexts: %s draws contexts (%s) and names none to evaluate: only its own is decoded; "
                "--contexts decodes others",
                exp,
                config.context_choice,
            )
        return {}
    short = len({context.chunk for context in config.contexts}) == len(config.contexts)
    return {
        (short and _earlier_name(exp, context)) or context.folder_name: context for context in config.contexts
    }


def warn_of_untrained(exp: Path, contexts: Iterable[Context]) -> None:
    """Say which contexts a system was not trained with: words are worse there, often by far.

    Args:
        exp: The experiment folder or one of its checkpoint files. An exported bundle does not tell.
    """
    contexts = list(contexts)
    try:
        config = _saved_config(system_folder(exp)) if contexts else None
    except UserError:  # of another version
        return
    if config is None:
        return
    trained = config.context_choice.all() or config.contexts
    for context in contexts:
        if context not in trained:
            log.warning(
                "%s was not trained under %s, but under %s: expect more errors",
                exp,
                context,
                config.context_choice or "; ".join(map(str, trained)),
            )


def _saved_config(exp: Path) -> "ExperimentConfig | None":
    """The options that a transducer was trained with; None: this is no folder of one."""
    from kdasr.experiment.config import ExperimentConfig
    from kdasr.experiment.saved_config import CONFIG, load_saved_experiment

    config = load_saved_experiment(exp) if (exp / CONFIG).is_file() else None
    return config if isinstance(config, ExperimentConfig) else None


def _earlier_name(exp: Path, context: Context) -> str:
    """The name that an earlier version gave the folder of a context, if it is there alone; else empty."""
    name, folder = f"chunk-{context.chunk}", exp / "contexts"
    return name if (folder / name).is_dir() and not (folder / context.folder_name).is_dir() else ""
