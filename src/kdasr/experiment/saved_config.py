"""The configuration in the folder of a system: written when it begins, compared when it goes on."""

import re
from pathlib import Path
from typing import Any

from kdasr.common.configio import build_config, config_to_dict, load_yaml, save_yaml
from kdasr.common.errors import SYSTEM_FOLDER, UserError
from kdasr.common.ranges import declared_at
from kdasr.experiment.config import AnyExperiment, LanguageModelExperiment, experiment_schema, kind_of
from kdasr.experiment.differences import Difference, differences, is_idle

CONFIG = "config.yaml"
"""Of an experiment folder: the configuration of its system."""


def claim_folder(config: AnyExperiment, exp_dir: Path) -> list[Difference]:
    """Make `exp_dir` the folder of this configuration, or check that it already is.

    Returns:
        Options in which the run began otherwise and that change nothing of the model (`MAY_CHANGE`,
        `MAY_MOVE` if the same data and models lie there, and what `is_idle`), or make a stage longer that no
        other has followed yet. The file is not changed.

    Raises:
        UserError: it holds a run of another configuration; names the first option that differs.
    """
    if not (exp_dir / CONFIG).is_file():
        save_experiment(config, exp_dir)
        return []
    saved = load_saved_experiment(exp_dir)
    both = config_to_dict(saved), config_to_dict(config)
    found = list(differences(*both))
    for key, old, new in found:
        free = type(saved) is type(config) and (
            declared_at(type(config), key).may_change or all(is_idle(key, options) for options in both)
        )
        if not free and not _is_longer(exp_dir, key, old, new):
            raise UserError(
                f"{exp_dir} holds a run with {key}: {old}, this one has {key}: {new}, another model. "
                "Give another --exp, or remove that folder."
            )
    return found


def _is_longer(exp_dir: Path, key: str, old: Any, new: Any) -> bool:
    """Whether an option gives more steps to a stage that none has followed yet."""
    name = re.fullmatch(r"stages\.(\d+)\.num_steps", key)
    if name is None or not isinstance(old, int) or not isinstance(new, int) or new < old:
        return False
    from kdasr.training.resume import saved_progress  # brings torch and Fabric, which few commands need

    return int(name[1]) >= saved_progress(exp_dir).stage


def save_experiment(config: AnyExperiment, exp_dir: Path) -> None:
    """Write the configuration of a system into its folder."""
    save_yaml(config, exp_dir / CONFIG)


def load_saved_experiment(exp_dir: Path) -> AnyExperiment:
    """The configuration that a system's folder was trained with.

    Raises:
        UserError: not the folder of a system, or made by another version of the options.
    """
    path = exp_dir / CONFIG
    if not path.is_file():
        raise UserError(f"{exp_dir}: no {CONFIG} there; expected {SYSTEM_FOLDER}")
    saved = load_yaml(path)
    if kind_of(saved, source=str(path)) is None:
        return build_config(experiment_schema(), saved, source=str(path))
    return build_config(LanguageModelExperiment, saved, source=str(path))
