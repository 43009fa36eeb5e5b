"""The `results` section of a recipe: which rows are trained, how often, and what they are compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from kdasr.common.configio import build_config, load_yaml
from kdasr.common.errors import UserError
from kdasr.common.ranges import Items, OneOf, above, at_least, between
from kdasr.decoding.expansion import MAX_PENALTY
from kdasr.distillation.objective_config import DISTILLATION, LENGTHS
from kdasr.experiment.config import (
    ExperimentConfig,
    LanguageModelExperiment,
    load_any_experiment,
    load_experiment,
    load_roles,
)
from kdasr.experiment.config import (
    differences as options_that_differ,
)
from kdasr.study.trained_run import OWN, SCRATCH, TEACHER

RENAMED = {"bound": "topline", "shipped": "rank_against"}
"""Options of the section by their former names."""
ORDERS = ("seed", "row")
CONTEXTS = "contexts"
SUMMARIES = ("comparisons", "recovered", CONTEXTS)


@dataclass
class RowConfig:
    """One line of the results: a system, what it starts from, and what it changes."""

    init: str = SCRATCH
    """scratch | teacher | NAME: random weights, the teacher's, or those of one of the `references`, which
    replace `init_from` of the first stage. own: what that names, a system trained elsewhere; a relative path
    is taken from the folder of the results, as if its system had been trained there."""
    system: str | None = None
    """Which of the recipe's `systems`; None: the one that is called like the row."""
    num_seeds: Annotated[int, at_least(0)] = 0
    """Trained with so many of the recipe's seeds, the first ones; 0: with all."""
    rate_of: str | None = None
    """Its learning rate is the one that was chosen for this row; for references that repeat a student with
    other steps."""
    against: Annotated[list[str], Items()] = field(default_factory=list)
    """Rows that it is compared with beside the baselines."""
    line: str = ""
    """Of a summary by contexts: rows with the same name here are one line of it, such as a model for each
    chunk. Empty: the row is a line of its own."""
    test: bool = True
    """Whether test parts are decoded; not for variants that are there to choose among on the dev parts."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Options of the experiment on top of the system's; nested, or dotted as in `--override`."""


@dataclass
class TuneConfig:
    """Rows whose peak learning rate is chosen on the dev parts."""

    rows: Annotated[list[str], Items()] = field(default_factory=list)
    learning_rate: Annotated[list[float], above(0), Items()] = field(default_factory=list)
    """Values of the first stage; the other stages keep their ratio to it."""


@dataclass
class StudyLanguageModel:
    """A language model that weighs the labels of rows and decodes every row a second time."""

    conf: str
    """Its configuration, relative to the recipe's folder. It is trained once, on `text`, and measured on the
    dev parts; what changes every system changes nothing of it."""
    text: str = "lm-text.txt"
    """Sentences to train on: a file in the data folder, or an absolute path."""
    scale: Annotated[float, between(-100, 100)] = 0.3
    """Of shallow fusion in decoding, for all rows."""
    beam: Annotated[int, at_least(1)] = 4
    blank_penalty: Annotated[float, between(-MAX_PENALTY, MAX_PENALTY)] = 0.0
    """In the same decoding."""
    rescore: bool = False
    """Rescore the hypotheses of the beam instead of shallow fusion, with a scale and a word bonus that each
    run chooses on the dev parts; `scale` is not used."""


@dataclass
class ResultsConfig:
    """What is trained, and what is compared with what."""

    seeds: Annotated[list[int], between(0, 2**32 - 1), Items(at_least=1)] = field(
        default_factory=lambda: [1, 2, 3]
    )
    order: Annotated[str, OneOf(*ORDERS)] = "seed"
    """seed | row: every row of the first seed first, or every seed of the first row."""
    topline: str = ""
    """The row that the others cannot be expected to pass: the teacher, from which they start and learn, or
    full supervision. Empty: the `teacher` of the recipe's section `report`."""
    references: Annotated[list[str], Items()] = field(default_factory=list)
    """Rows that train for steps of their own and are not tuned: what the teacher starts from, or a baseline
    that trains for longer."""
    teacher_per_seed: bool = True
    """Whether each seed has its own teacher, or all learn from that of the first seed."""
    baselines: Annotated[list[str], Items()] = field(default_factory=list)
    """Rows that every other one is compared with. Empty: the baselines of the recipe's section `report`."""
    same_parts: bool = True
    """Whether all students train on the same parts. false: what their parts are worth is compared."""
    rank_against: str = ""
    """The row that is recommended: every row is ranked against it on the dev parts. Empty: no ranking."""
    test_parts: Annotated[list[str], Items(at_least=1)] = field(
        default_factory=lambda: ["test-clean", "test-other"]
    )
    calibrate: bool = False
    """Choose the blank penalty of every run on the dev parts before it is decoded (`kdasr calibrate`)."""
    rows: dict[str, RowConfig] = field(default_factory=dict)
    """In the order of the tables; also that of training."""
    tune: Annotated[list[TuneConfig], Items(unique=False)] = field(default_factory=list)
    summary: Annotated[str, OneOf(*SUMMARIES)] = "comparisons"
    """What `summary.json` holds. comparisons: runs, means, comparisons; recovered: a list of runs with the
    share of the first baseline's distance to the topline that each has recovered; contexts: a list of runs,
    each under every context that it is evaluated under. Rows' own contexts may differ then."""
    language_model: StudyLanguageModel | None = None
    """None: rows are decoded by greedy search alone, and those with weights `prior` name a model of their
    own."""

    def parent(self, row: str) -> str | None:
        """The row whose weights a row starts from; None: random weights, or those of no row."""
        init = self.rows[row].init
        return None if init in (SCRATCH, OWN) else self.topline if init == TEACHER else init

    def teacher(self, row: str, config: ExperimentConfig) -> str | None:
        """The row that a row learns from: the topline, if its system has a teacher."""
        return self.topline if row != self.topline and config.objective.teacher is not None else None

    def proposal(self, config: ExperimentConfig) -> str | None:
        """The row that proposes labels for a system; None: it has no speech without transcripts, or the
        proposals come from elsewhere."""
        named = config.unpaired.proposal if config.unpaired.parts else None
        return named if named in self.rows else None

    def needs(self, row: str, config: ExperimentConfig) -> list[str]:
        """The rows that must be trained before a row: its start, its teacher, who proposes its labels."""
        found = (self.parent(row), self.teacher(row, config), self.proposal(config))
        return [name for name in dict.fromkeys(found) if name is not None]

    def line(self, row: str) -> list[str]:
        """A row and all that its weights descend from, nearest first.

        Raises:
            UserError: it descends from itself.
        """
        found = [row]
        while (parent := self.parent(found[-1])) is not None:
            if parent in found:
                raise UserError(f"row '{parent}' starts from itself, by way of {', '.join(found)}")
            found.append(parent)
        return found

    def teacher_chain(self) -> list[str]:
        """The teacher, and the rows that it descends from: nearest first."""
        return self.line(self.topline)

    def is_student(self, row: str) -> bool:
        """Whether a row is compared at equal steps and equal tuning."""
        return row != self.topline and row not in self.references

    def seeds_of(self, row: str) -> list[int]:
        """The seeds that a row is trained with."""
        return self.seeds[: self.rows[row].num_seeds or None]

    def rates(self, row: str) -> list[float | None]:
        """The learning rates to try for a row; None: the one that its system states."""
        return next((list(group.learning_rate) for group in self.tune if row in group.rows), [None])


@dataclass(frozen=True)
class Recipe:
    """A recipe file with results: every row resolved, and checked to be comparable."""

    path: Path
    results: ResultsConfig
    systems: dict[str, ExperimentConfig]
    """By row; `name`, `seed` and references to the teacher are still those of the file."""
    language_model: LanguageModelExperiment | None = None
    """That of `results.language_model`; its data are still those of its file."""

    def parts(self, kind: str) -> list[str]:
        """The parts that are decoded to choose (`dev`) or to report (`test`)."""
        return (
            self.results.test_parts if kind == "test" else self.systems[self.results.topline].data.dev_parts
        )


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and its rows.

    `overrides` change every system, as `--override` does; the settings of a row go over them.

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
    results = build_config(ResultsConfig, filled, source=f"{path}: results")
    _take_roles(results, path)
    _check_names(results, f"{path}: results")
    systems = {}
    for name, row in results.rows.items():
        own = tuple(row.settings.items())
        systems[name] = load_experiment(path, row.system or name, (*overrides, *own))
    for name, row in results.rows.items():
        if row.init == OWN and systems[name].stages[0].init_from is None:
            raise UserError(
                f"{path}: row '{name}': init 'own', but its system's first stage has no init_from"
            )
    _check_students(results, systems, f"{path}: row")
    _check_proposals(results, systems, f"{path}: row")
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


def _check_names(results: ResultsConfig, source: str) -> None:
    named = {results.topline, *results.references, *results.baselines}
    named |= {results.rank_against} - {""}
    named |= {other for row in results.rows.values() for other in row.against}
    named |= {row for group in results.tune for row in group.rows}
    for name in sorted(named - set(results.rows)):
        raise UserError(f"{source}: no row '{name}'; there are: {', '.join(results.rows)}")
    starts = (SCRATCH, TEACHER, OWN, *results.references)
    for name, row in results.rows.items():
        if not 0 <= row.num_seeds <= len(results.seeds):
            raise UserError(
                f"{source}: row '{name}': num_seeds {row.num_seeds}: expected 0 (all) to {len(results.seeds)}"
            )
        if row.init not in starts:
            raise UserError(f"{source}: row '{name}': init '{row.init}': expected {' or '.join(starts)}")
    for name in results.rows:
        try:
            results.line(name)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
    _check_tuning(results, source)


def _check_tuning(results: ResultsConfig, source: str) -> None:
    """Every student is tuned with as many trials as any other, or none is."""
    tuned = [row for group in results.tune for row in group.rows]
    twice = next((row for row in tuned if tuned.count(row) > 1), None)
    if twice:
        raise UserError(f"{source}: tune: row '{twice}' is in two groups")
    if results.topline in tuned:
        raise UserError(
            f"{source}: tune: '{results.topline}' is the teacher, which its students must agree on"
        )
    for row in results.references:
        if row in tuned:
            raise UserError(f"{source}: tune: '{row}' is one of the references, which are not tuned")
    for name, config in results.rows.items():
        if config.rate_of is not None and (config.rate_of not in tuned or name not in results.references):
            raise UserError(
                f"{source}: row '{name}': rate_of '{config.rate_of}': expected a tuned row, "
                "for one of the references"
            )
    trials = {row: len(results.rates(row)) for row in results.rows if results.is_student(row)}
    for row, count in trials.items():
        first = next(iter(trials))
        if count != trials[first] or not count:
            raise UserError(
                f"{source}: tune: '{first}' has {trials[first]} learning rates and '{row}' has {count}; "
                "rows that are compared must be tuned equally"
            )


def _check_students(results: ResultsConfig, systems: Mapping[str, ExperimentConfig], source: str) -> None:
    """Students have the same steps, data, model and context, or their comparison would mix effects."""
    for name in results.teacher_chain()[1:]:
        if systems[name].objective.teacher is not None:
            raise UserError(f"{source} '{name}': it learns from '{results.topline}', which starts from it")
    students = {name: config for name, config in systems.items() if results.is_student(name)}
    for name, config in students.items():
        if any(stage.plateau_patience for stage in config.stages):
            raise UserError(f"{source} '{name}': plateau_patience would end it before the others' steps")
    first = next(iter(students), "")
    for name, config in students.items():
        ours, theirs = _comparable(config), _comparable(students[first])
        if results.summary == CONTEXTS:
            ours.pop("first context")
        if not results.same_parts:
            for values in (ours, theirs):
                values["data"] = replace(values["data"], train_parts=[])
        for key in ours:
            if ours[key] != theirs[key]:
                old, new = (_plain(value) for value in (theirs[key], ours[key]))
                found = next(options_that_differ(old, new, key))
                raise UserError(
                    f"{source} '{name}': {found.key} {found.new}, but '{first}' has {found.old}; "
                    "rows that are compared must agree"
                )


def _check_proposals(results: ResultsConfig, systems: Mapping[str, ExperimentConfig], source: str) -> None:
    """Labels are proposed by a row that is there before, and weighed by a language model that there is."""
    for name, config in systems.items():
        options = config.unpaired
        if not options.parts or options.method == DISTILLATION:
            continue
        proposal = results.proposal(config)
        known = (results.topline, *results.references)
        elsewhere = proposal is None and options.proposal is not None and Path(options.proposal).exists()
        if proposal not in known and not elsewhere:
            raise UserError(
                f"{source} '{name}': unpaired.proposal '{options.proposal}': expected one of the references "
                f"({', '.join(results.references) or 'there are none'}), or a folder"
            )
        weighed = options.labels.weights == "prior"
        if weighed and options.language_model is None and results.language_model is None:
            raise UserError(
                f"{source} '{name}': labels.weights 'prior' needs results.language_model, or "
                "unpaired.language_model of its own"
            )
    for name in systems:
        _check_order(results, systems, name, (), source)


def _check_order(
    results: ResultsConfig,
    systems: Mapping[str, ExperimentConfig],
    row: str,
    waiting: tuple[str, ...],
    source: str,
) -> None:
    """No row waits for itself, by way of others."""
    if row in waiting:
        raise UserError(f"{source} '{row}': it needs itself, by way of {', '.join((*waiting, row))}")
    for other in results.needs(row, systems[row]):
        _check_order(results, systems, other, (*waiting, row), source)


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


def _total(config: ExperimentConfig, option: str) -> float:
    return sum(stage.length.get(option, 0) for stage in config.stages)


def _comparable(config: ExperimentConfig) -> dict[str, Any]:
    return {
        **{name: _total(config, name) for name in LENGTHS},
        "first context": str(config.contexts[0]),
        "accumulate": config.training.optim.accumulate,
        "data": config.data,
        "model": config.model,
    }


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
