"""What several methods, trained with several seeds each, have shown: rows, means and comparisons."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from kdasr.evaluation.latency import FirstToken
from kdasr.evaluation.latency_summary import FirstWordGain
from kdasr.evaluation.statistics import Interval
from kdasr.study.ranking import Ranking, rank
from kdasr.study.seeds import (
    Draws,
    coverage_over_seeds,
    gain_over_seeds,
    gap_closed,
    reduction_over_seeds,
    wer_over_seeds,
)
from kdasr.study.trained_run import (
    OWN,
    SCRATCH,
    TEACHER,
    PartResult,
    TrainedRun,
    common_ids,
    errors_of,
    finite,
    first_token_of,
    first_word_of,
    is_timed,
    matrix,
    mean_of,
    part_result,
    speakers_by_id,
    words_of,
)

# Shapes: S seeds, N utterances.


@dataclass(frozen=True)
class MeanResult:
    """One row on one part over its seeds: the mean, or the rate of all seeds together, with its interval."""

    row: str
    init: str
    part: str
    num_seeds: int
    steps: int
    """Training steps of its own, without those of what it starts from."""
    wer: Interval
    first_word_ms: float | None
    """On the utterances whose first word is right; see `first_word_coverage`."""
    first_word_coverage: float | None
    first_tokens: dict[str, float | None]
    """Mean shares of utterances whose first token was right, wrong, premature or missing."""
    first_token_ms: float | None
    emission_delay_ms: float | None
    finalization_ms: float | None

    def as_json(self) -> dict[str, Any]:
        """The entry of `means` in `summary.json`."""
        return {
            "row": self.row,
            "init": self.init,
            "part": self.part,
            "num_seeds": self.num_seeds,
            "train_steps": self.steps,
            "wer": finite(self.wer.estimate),
            "wer_ci": [finite(self.wer.low), finite(self.wer.high)],
            "num_speakers": self.wer.speakers,
            "first_word_ms": self.first_word_ms,
            "first_word_coverage": self.first_word_coverage,
            **{f"first_token_{name}": share for name, share in self.first_tokens.items()},
            "first_token_ms": self.first_token_ms,
            "emission_delay_ms": self.emission_delay_ms,
            "finalization_ms": self.finalization_ms,
        }


@dataclass(frozen=True)
class SeedComparison:
    """`row` against `baseline` on one part, on the seeds and utterances that both have."""

    row: str
    baseline: str
    part: str
    num_seeds: int
    wer: Interval
    """Relative reduction of errors in percent; positive: `row` makes fewer."""
    first_word: FirstWordGain
    """How much earlier `row` shows its first word, where both have it right."""
    first_token: Interval
    """How much earlier `row` shows its first token, whatever it says, ms; positive: earlier."""
    gap: Interval
    """Share of the baseline's distance to the topline that `row` closes; 1: all of it."""

    def as_json(self) -> dict[str, Any]:
        """The entry of `comparisons` in `summary.json`."""
        return {
            "row": self.row,
            "baseline": self.baseline,
            "part": self.part,
            "wer_rel_reduction": finite(self.wer.estimate),
            "wer_ci": [finite(self.wer.low), finite(self.wer.high)],
            **self.first_word.as_json(),
            "first_token_gain_ms": finite(self.first_token.estimate),
            "first_token_ci": [finite(self.first_token.low), finite(self.first_token.high)],
            "gap_closed": finite(self.gap.estimate),
            "gap_closed_ci": [finite(self.gap.low), finite(self.gap.high)],
            "num_seeds": self.num_seeds,
            "num_utterances": self.wer.count,
            "num_speakers": self.wer.speakers,
            "num_first_token_pairs": self.first_token.count,
        }


@dataclass(frozen=True)
class Evidence:
    """All runs of a recipe that have been decoded, and what they are to be compared with.

    Its numbers are computed once: their intervals take seconds each, and tables, plot and summary ask again.
    """

    rows: list[str]
    """Every row of the recipe, in the order of tables, decoded or not."""
    runs: list[TrainedRun]
    baselines: list[str]
    topline: str
    seeds: list[int]
    """Those that a complete row has."""
    parts: list[str]
    with_fewer_seeds: dict[str, int] = field(default_factory=dict)
    """Rows that are complete with fewer seeds, and how many that is."""
    shared: list[str] = field(default_factory=list)
    """Rows with one run, of the first seed, that stands beside the students of every seed: a teacher that all
    share, and what it descends from."""
    choices: list[str] = field(default_factory=list)
    """Rows to choose among on the dev parts: no test part is decoded of them."""
    against: dict[str, list[str]] = field(default_factory=dict)
    """By row, the rows that it is compared with beside the baselines."""
    lines: dict[str, str] = field(default_factory=dict)
    """By row, the line of the plot that it is on: rows of one name are the same method with other steps."""
    rank_against: str = ""
    """The row that the others are ranked against on the dev parts; empty: no ranking."""
    test_parts: list[str] = field(default_factory=list)
    """Those that nothing was chosen on, decoded or not."""
    tuned: list[dict[str, Any]] = field(default_factory=list)
    """Trials of learning rates on the dev parts, as in `summary.json`."""

    def role_of(self, row: str) -> str:
        """What a row is to the others: the topline, a baseline, or empty."""
        return "topline" if row == self.topline else "baseline" if row in self.baselines else ""

    def start_of(self, mean: MeanResult) -> str:
        """What a row starts from, for people."""
        known = {SCRATCH: "random weights", TEACHER: self.topline, OWN: "elsewhere"}
        return known.get(mean.init, mean.init)

    def wer_by_seed(self, mean: MeanResult) -> list[float | None]:
        """WER of each seed of a row on a part, percent."""
        return [
            result.wer for result in self.results if (result.info.row, result.part) == (mean.row, mean.part)
        ]

    def of(self, row: str, part: str) -> dict[int, TrainedRun]:
        """By seed, the runs of a row that were decoded on a part."""
        found = {run.info.seed: run for run in self.runs if run.info.row == row and part in run.parts}
        return dict(sorted(found.items()))

    def is_test(self, part: str) -> bool:
        """Whether a part is there to report on, not to choose by."""
        return part in self.test_parts

    @property
    def reported(self) -> list[str]:
        """The decoded parts to report on: the test parts, or all where none of them was decoded."""
        decoded = [part for part in self.parts if any(part in run.parts for run in self.runs)]
        return [part for part in decoded if self.is_test(part)] or decoded

    def parts_of(self, row: str) -> list[str]:
        """The parts that a complete row was decoded on."""
        kept = [part for part in self.parts if not self.is_test(part)]
        return kept if row in self.choices and kept else self.parts

    @cached_property
    def ranking(self) -> Ranking | None:
        """All streaming rows that have all their seeds, on the dev parts; see `rank`."""
        incomplete = self.incomplete()
        rows = [row for row in self.rows if row != self.topline and row not in incomplete]
        parts = [part for part in self.parts if not self.is_test(part)]
        runs = {row: {part: self.by_seed(row, part) for part in parts} for row in rows}
        return rank(runs, self.rank_against, self.seeds) if parts else None

    @cached_property
    def results(self) -> list[PartResult]:
        """One entry per run and part, by row."""
        return [
            part_result(run, part)
            for row in self.rows
            for part in self.parts
            for run in self.of(row, part).values()
        ]

    @cached_property
    def means(self) -> list[MeanResult]:
        """One entry per row and part, over the row's seeds."""
        return [self._mean(row, part) for part in self.parts for row in self.rows if self.of(row, part)]

    @cached_property
    def comparisons(self) -> list[SeedComparison]:
        """Every row against every baseline and what else it is to be compared with, by part."""
        found = [
            self.compare(row, baseline, part)
            for part in self.parts
            for row in self.rows
            for baseline in dict.fromkeys([*self.baselines, *self.against.get(row, [])])
            if row != baseline
        ]
        return [comparison for comparison in found if comparison is not None]

    def compare(self, row: str, baseline: str, part: str) -> SeedComparison | None:
        """`row` against `baseline`, paired by seed and utterance; None without a common one.

        A teacher that all seeds share stands beside each of them.
        """
        ours, theirs = self.by_seed(row, part), self.by_seed(baseline, part)
        toplines = self.by_seed(self.topline, part)
        seeds = [seed for seed in ours if seed in theirs]
        has_topline = bool(seeds) and all(seed in toplines for seed in seeds)
        groups = [ours, theirs, *([toplines] if has_topline else [])]
        ids = common_ids([group[seed].parts[part] for group in groups for seed in seeds])
        if not ids:
            return None
        errors = [matrix(group, seeds, part, ids, errors_of) for group in groups]
        token, other_token = (matrix(group, seeds, part, ids, first_token_of) for group in (ours, theirs))
        word, other_word = (matrix(group, seeds, part, ids, first_word_of) for group in (ours, theirs))
        timed, other_timed = (matrix(group, seeds, part, ids, is_timed) for group in (ours, theirs))
        draws = Draws(speakers=speakers_by_id(ours[seeds[0]].parts[part], ids))
        nothing = Interval(np.nan, np.nan, np.nan, 0)
        return SeedComparison(
            row=row,
            baseline=baseline,
            part=part,
            num_seeds=len(seeds),
            wer=reduction_over_seeds(errors[0], errors[1], draws),
            first_word=FirstWordGain(
                gain_over_seeds(word, other_word, draws),
                coverage_over_seeds(word, other_word, timed * other_timed),
            ),
            first_token=gain_over_seeds(token, other_token, draws),
            gap=gap_closed(errors[0], errors[1], errors[2], draws) if has_topline else nothing,
        )

    def by_seed(self, row: str, part: str) -> dict[int, TrainedRun]:
        """The runs of a row by seed, where the one run of a shared teacher stands for every seed."""
        found = self.of(row, part)
        if row in self.shared and found:
            return dict.fromkeys(self.seeds, next(iter(found.values())))
        return found

    def _mean(self, row: str, part: str) -> MeanResult:
        runs = self.of(row, part)
        ids = common_ids([run.parts[part] for run in runs.values()])
        seeds = list(runs)
        results = [part_result(run, part) for run in runs.values()]
        return MeanResult(
            row=row,
            init=results[0].info.init,
            part=part,
            num_seeds=len(runs),
            steps=results[0].info.steps,
            wer=wer_over_seeds(
                matrix(runs, seeds, part, ids, errors_of),
                matrix(runs, seeds, part, ids, words_of),
                Draws(speakers=speakers_by_id(runs[seeds[0]].parts[part], ids)),
            ),
            first_word_ms=mean_of([result.first_word_ms for result in results]),
            first_word_coverage=mean_of([result.first_word_coverage for result in results]),
            first_tokens={
                kind.value: mean_of([result.first_tokens[kind.value] for result in results])
                for kind in FirstToken
            },
            first_token_ms=mean_of([result.first_token_ms for result in results]),
            emission_delay_ms=mean_of([result.emission_delay_ms for result in results]),
            finalization_ms=mean_of([result.finalization_ms for result in results]),
        )

    def num_seeds(self, row: str) -> int:
        """How many runs a complete row has."""
        return 1 if row in self.shared else self.with_fewer_seeds.get(row, len(self.seeds))

    def incomplete(self) -> dict[str, int]:
        """Rows that lack seeds on some part, with the number of seeds that they have everywhere."""
        have = {row: min(len(self.of(row, part)) for part in self.parts_of(row)) for row in self.rows}
        return {row: count for row, count in have.items() if count < self.num_seeds(row)}
