"""Notes of a report, and the commands that mend what they say."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from kdasr.report.records import SystemRecord


@dataclass(frozen=True)
class Note:
    """Something that is not as it should be, and the command that mends it, if there is one."""

    subject: str
    text: str
    command: str = ""


def decode_command(system: SystemRecord, parts: Sequence[str], data: str | None = None) -> str:
    """The command that decodes `parts` with `system`."""
    data = data or str((system.config.get("data") or {}).get("dir") or "DATA")
    command = ["kdasr", "decode", str(system.folder), "--data", data, "--parts", " ".join(parts)]
    return shlex.join([*command, "--mode", "streaming"])


def mend_command(system: SystemRecord, parts: Sequence[str]) -> str:
    """The command that decodes what is missing or old; empty where the results are of a model elsewhere."""
    return decode_command(system, parts) if system.config else ""
