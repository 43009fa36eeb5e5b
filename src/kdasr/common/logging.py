"""Logging: to the terminal through rich, and to a file in the experiment folder."""

import logging
import sys
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

console = Console(stderr=True)


def get_logger(name: str) -> logging.Logger:
    """The logger of one module, below the `kdasr` root logger."""
    return logging.getLogger(name)


def setup_logging(log_file: Path | None = None, level: int = logging.INFO) -> None:
    """Send `kdasr` logs to the terminal and, when given, append them to `log_file`."""
    logging.raiseExceptions = False  # a full disk is said once, by what matters, not at every line
    root = logging.getLogger("kdasr")
    root.setLevel(level)
    root.propagate = False
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.addHandler(_terminal_handler())
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(log_file, encoding="utf-8")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        root.addHandler(file_handler)


def _terminal_handler() -> logging.Handler:
    """Rich on a terminal; elsewhere (a log file, a pipe) one plain line per message, never wrapped."""
    if console.is_terminal:
        return RichHandler(console=console, show_path=False, rich_tracebacks=True)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    return handler
