"""Which part each system plays in a report: teacher, baselines, method, and others."""

from collections.abc import Sequence
from dataclasses import dataclass

from kdasr.report.records import SystemRecord


@dataclass(frozen=True)
class Roles:
    """The parts as the recipe has given them (section `report` of the configuration), or as guessed.

    Systems that play a part need not have been trained.
    """

    teachers: tuple[str, ...] = ()
    """Systems that hear the whole utterance: no students."""
    baselines: tuple[str, ...] = ()
    """Systems that the students are compared with, and each of them with those before it."""
    method: str = ""
    """The system that the report is about; empty: none."""

    @property
    def named(self) -> list[str]:
        """The systems that play a part, in the order of every table and plot."""
        names = (*self.teachers, *self.baselines, *([self.method] if self.method else []))
        return list(dict.fromkeys(names))

    def order(self, names: Sequence[str]) -> list[str]:
        """The systems that play a part first, then the others alphabetically."""
        ranks = {name: rank for rank, name in enumerate(self.named)}
        return sorted(names, key=lambda name: (ranks.get(name, len(ranks)), name))

    def baselines_of(self, name: str) -> list[str]:
        """What a student is compared with."""
        if name in self.baselines:
            return list(self.baselines[: self.baselines.index(name)])
        return list(self.baselines)

    def pairs(self) -> list[tuple[str, str]]:
        """Student and baseline, the method's first, then those of its best baselines."""
        students = [*([self.method] if self.method else []), *reversed(self.baselines)]
        return [(student, baseline) for student in students for baseline in self.baselines_of(student)]


def roles_of(systems: Sequence[SystemRecord]) -> Roles:
    """The parts that the configurations of some systems state; guessed for those that state none.

    The guess: what hears the whole utterance, while others do not, is a teacher; students that learn from
    nobody, under one context, are baselines, those from random weights first; the first student that learns
    from a teacher is the method.
    """
    stated = [section for system in systems if (section := system.config.get("report"))]
    teachers = [str(section["teacher"]) for section in stated if section.get("teacher")]
    baselines = [str(name) for section in stated for name in section.get("baselines") or ()]
    methods = [str(section["method"]) for section in stated if section.get("method")]
    if teachers or baselines or methods:
        return Roles(tuple(dict.fromkeys(teachers)), tuple(dict.fromkeys(baselines)), next(iter(methods), ""))
    return _guess(systems)


def _guess(systems: Sequence[SystemRecord]) -> Roles:
    names = sorted(systems, key=lambda system: system.name)
    teachers = [system.name for system in names if system.waits_for_end]
    if len(teachers) == len(names):
        teachers = []
    students = [system for system in names if system.name not in teachers and system.config.get("contexts")]
    plain = [system for system in students if not system.learns and system.num_contexts == 1]
    plain.sort(key=lambda system: (system.init_from is not None, system.name))
    learning = [system.name for system in students if system.learns]
    return Roles(tuple(teachers), tuple(system.name for system in plain), next(iter(learning), ""))
