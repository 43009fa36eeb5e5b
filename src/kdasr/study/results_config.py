"""The options of the `results` section of a recipe: rows, seeds, and what is compared with what."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from kdasr.common.errors import UserError
from kdasr.common.ranges import Items, OneOf, above, at_least, between
from kdasr.decoding.expansion import MAX_PENALTY
from kdasr.experiment.config import ExperimentConfig
from kdasr.study.trained_run import OWN, SCRATCH, TEACHER

ORDERS = ("seed", "row")
CONTEXTS = "contexts"
LANGUAGE_MODEL = "lm"
"""The job that trains the recipe's language model, and its folder."""
WITH_LM = f"-{LANGUAGE_MODEL}"
"""What a decoding with that model adds to the name of its job and folder."""
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
    """Rows with the same name here are one line of the plot: the same method with more and more steps; in a
    summary by contexts, a model for each chunk. Empty: no line, or in that summary one of its own."""
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
class StudySearch:
    """A beam search by which every row is decoded once more, beside greedy search."""

    beam: Annotated[int, at_least(1)] = 4
    blank_penalty: Annotated[float | None, between(-MAX_PENALTY, MAX_PENALTY)] = None
    """None: that of the system."""
    lm: str = ""
    """What `kdasr decode --lm` takes, an n-gram or a language model: its place in the data folder, or an
    absolute path. Empty: none."""
    lm_scale: Annotated[float, between(-100, 100)] = 0.3
    """Of shallow fusion."""
    biasing: str = ""
    """Phrases to favor, as in `kdasr decode --biasing`; found likewise. Empty: none."""


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
    searches: dict[str, StudySearch] = field(default_factory=dict)
    """Further searches by their names; each has tables of its own."""

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
