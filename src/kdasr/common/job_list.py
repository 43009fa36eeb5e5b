"""Lists of jobs as text, in the manner of a Makefile.

```
== Stage 3: teacher
train-teacher:
        kdasr train --config conf/demo.yaml --system teacher --exp exp/demo/teacher
        kdasr average exp/demo/teacher
== Stage 7: decoding
decode-teacher: train-teacher
        kdasr decode exp/demo/teacher --data data/demo --parts test-clean
report: decode-teacher | check-export
        kdasr report exp/demo
```

Before the bar stands what a job needs, behind it what must have ended before it, in whatever way. Indented
lines are its commands, one after another, each a line for bash. `==` begins a stage, `#` a comment.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kdasr.common.errors import UserError
from kdasr.common.job_runner import Job

_HEAD = re.compile(r"(?P<name>[^\s:|]+):(?P<needs>[^|]*)(\|(?P<after>[^|]*))?")


@dataclass
class _Entry:
    name: str
    needs: list[str]
    after: list[str]
    stage: str
    commands: list[str] = field(default_factory=list)

    def job(self) -> Job:
        return Job(self.name, self.commands, self.needs, self.after, self.stage)


def read_jobs(text: str, source: str) -> list[Job]:
    """The jobs of a list; see the module's docstring.

    Raises:
        UserError: a line that is neither a job nor a command of one, a job that is there twice or has no
            command, or one that names a job that is not above it; names `source` and the line.
    """
    entries: dict[str, _Entry] = {}
    stage, entry = "", None
    for number, line in _lines(text):
        where = f"{source}, line {number}"
        if line.startswith("=="):
            stage, entry = line.removeprefix("==").strip(), None
        elif line[0].isspace():
            if entry is None:
                raise UserError(f"{where}: a command that belongs to no job: {line.strip()}")
            entry.commands.append(line.strip())
        else:
            entry = _read_head(line, stage, list(entries), where)
            entries[entry.name] = entry
    for entry in entries.values():
        if not entry.commands:
            raise UserError(f"{source}: job '{entry.name}' has no command")
    return [entry.job() for entry in entries.values()]


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line


def _read_head(line: str, stage: str, known: Sequence[str], where: str) -> _Entry:
    found = _HEAD.fullmatch(line.rstrip())
    if found is None:
        raise UserError(f"{where}: '{line.strip()}': expected a job as NAME: NEEDED ... | BEFORE ...")
    name, needs, after = found["name"], found["needs"].split(), (found["after"] or "").split()
    if name in known:
        raise UserError(f"{where}: job '{name}' is there twice")
    for other in (*needs, *after):
        if other not in known:
            raise UserError(f"{where}: job '{name}' names '{other}', which is not above it")
    return _Entry(name, needs, after, stage)
