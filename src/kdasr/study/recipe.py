"""A recipe file with its section `results`: every row resolved to a system."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.configio import build_config, load_yaml, of_sections
from kdasr.common.errors import UserError
from kdasr.experiment.config import ExperimentConfig, LanguageModelExperiment
from kdasr.experiment.recipe_file import load_any_experiment, load_experiment, load_roles
from kdasr.study.recipe_checks import check_names, check_systems
from kdasr.study.results_config import WITH_LM, ResultsConfig
from kdasr.study.trained_run import Decoding

RENAMED = {"bound": "topline", "shipped": "rank_against"}
"""Options of the section by their former names."""


@dataclass(frozen=True)
class Recipe:
    """A recipe file with results: every row resolved, and checked to be comparable."""

    path: Path
    results: ResultsConfig
    systems: dict[str, ExperimentConfig]
    """By row; `name`, `seed` and references to the teacher are still those of the file."""
    language_model: LanguageModelExperiment | None = None
    """That of `results.language_model`; its data are still those of its file."""

    def decodings(self) -> dict[str, Decoding]:
        """How every run is decoded, by what each way adds to the names of its jobs and folder."""
        found = {"": Decoding()}
        if self.language_model is not None:
            found[WITH_LM] = Decoding(beam=True, language_model=True)
        for name, search in self.results.searches.items():
            found[f"-{name}"] = Decoding(True, bool(search.lm), bool(search.biasing))
        calibrated = self.results.calibrate
        return {variant: how._replace(calibrated=calibrated) for variant, how in found.items()}

    def parts(self, kind: str) -> list[str]:
        """The parts that are decoded to choose (`dev`) or to report (`test`)."""
        return (
            self.results.test_parts if kind == "test" else self.systems[self.results.topline].data.dev_parts
        )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and its rows.

    `overrides` change every system, as `--override` does; the settings of a row go over them. Those that
    begin with `results.` change that section.

    Raises:
        UserError: no such file, no rows, an unknown option, row or system, students that are not
            comparable; names the culprit.
    """
    section = load_yaml(path).get("results")
    if not isinstance(section, Mapping) or not section.get("rows"):
        raise UserError(f"{path}: no rows under 'results': expected results: {{rows: {{NAME: ...}}}}")
    for former, name in RENAMED.items():
        if former in section:
            raise UserError(f"{path}: results: option '{former}' is called '{name}' now")
    filled = {**section, "rows": {name: row or {} for name, row in section["rows"].items()}}
    own = of_sections(overrides, ("results",))
    changes = [word.removeprefix("results.") for word in own]
    results = build_config(ResultsConfig, filled, overrides=changes, source=f"{path}: results")
    overrides = [word for word in overrides if word not in own]
    _take_roles(results, path)
    check_names(results, f"{path}: results")
    systems = {}
    for name, row in results.rows.items():
        settings = tuple(row.settings.items())
        systems[name] = load_experiment(path, row.system or name, (*overrides, *settings))
    check_systems(results, systems, f"{path}: row")
    language_model = load_language_model(path, results) if results.language_model else None
    return Recipe(path, results, systems, language_model)


def _take_roles(results: ResultsConfig, path: Path) -> None:
    """Fill in what the section leaves to the section `report`."""
    roles = load_roles(path)
    results.topline = results.topline or roles.teacher
    results.baselines = results.baselines or [name for name in roles.baselines if name in results.rows]
    if not results.topline:
        raise UserError(f"{path}: results: no topline: name that row, or the teacher in the section 'report'")
    if results.summary == "recovered" and not results.baselines:
        raise UserError(f"{path}: results: summary 'recovered' needs one of the baselines")


def load_language_model(path: Path, results: ResultsConfig) -> LanguageModelExperiment:
    """The language model of a recipe, from the file beside it.

    Raises:
        UserError: no such file, or not a language model.
    """
    assert results.language_model is not None
    conf = path.parent / results.language_model.conf
    config = load_any_experiment(conf)
    if not isinstance(config, LanguageModelExperiment):
        raise UserError(f"{path}: results.language_model.conf: {conf} does not describe a language model")
    return config
