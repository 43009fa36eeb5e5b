"""Logging: to the terminal through rich, and to a file in the experiment folder."""

import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

console = Console(stderr=True)
OWN_SHARE = {"own_share": True}
"""As `extra` of a message: it is about this process's share of the work, of which no other one speaks."""


def get_logger(name: str) -> logging.Logger:
    """The logger of one module, below the `kdasr` root logger."""
    return logging.getLogger(name)


def setup_logging(log_file: Path | None = None, level: int = logging.INFO, *, is_first: bool = True) -> None:
    """Send `kdasr` logs to the terminal and, when given, append them to `log_file`.

    Of several processes that do the same work all but the first one are silent, except for errors and for
    what is said with `OWN_SHARE`.
    """
    logging.raiseExceptions = False  # a full disk is said once, by what matters, not at every line
    root = logging.getLogger("kdasr")
    root.setLevel(level)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    handlers = [_terminal_handler()]
    if log_file is not None:
        if is_first:
            log_file.parent.mkdir(parents=True, exist_ok=True)
        # The others open it when they have something to say: the first one makes the folder.
        file_handler = logging.FileHandler(log_file, encoding="utf-8", delay=not is_first)
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        handlers.append(file_handler)
    for handler in handlers:
        if not is_first:
            handler.addFilter(_is_for_all)
        root.addHandler(handler)


def _is_for_all(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or getattr(record, "own_share", False)


def _terminal_handler() -> logging.Handler:
    """Rich on a terminal; elsewhere (a log file, a pipe) one plain line per message, never wrapped."""
    if console.is_terminal:
        return RichHandler(console=console, show_path=False, rich_tracebacks=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    return handler
