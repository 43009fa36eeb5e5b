"""What a run keeps of its schedule, and what reports read of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdasr.common.files import read_object

SCHEDULE = "schedule.json"
"""Of an experiment folder whose recipe counts epochs or hours: the pace of its steps, and what came of it."""


def planned_steps(stages: Sequence[Mapping[str, Any]], exp_dir: Path) -> dict[str, int]:
    """The steps of each stage of a system: as its configuration says, or as they were counted at its start.

    Args:
        stages: as in `config.yaml`.
        exp_dir: the folder of the system. A stage is absent whose steps are not known there yet.
    """
    path = exp_dir / SCHEDULE
    counted = read_object(path).get("stages", {}) if path.is_file() else {}
    found = {str(stage.get("name")): stage.get("num_steps") for stage in stages}
    found = {name: counted.get(name) if steps is None else steps for name, steps in found.items()}
    return {name: int(steps) for name, steps in found.items() if steps is not None}
