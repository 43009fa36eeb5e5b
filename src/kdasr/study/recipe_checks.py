"""Whether the rows of a recipe can be trained, and compared: what their options allow one by one."""

import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

from kdasr.common.errors import UserError
from kdasr.distillation.objective_config import DISTILLATION, LENGTHS
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.differences import differences as options_that_differ
from kdasr.models.encoders.base import COPY
from kdasr.models.transducer.transducer_config import TransducerConfig
from kdasr.study.results_config import CONTEXTS, LANGUAGE_MODEL, ResultsConfig
from kdasr.study.trained_run import OWN, SCRATCH, TEACHER


def check_names(results: ResultsConfig, source: str) -> None:
    """Refuse rows that name others which are not there, or that start from themselves, or unequal tuning.

    Raises:
        UserError: naming the row.
    """
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
    for name in results.searches:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) or name in (LANGUAGE_MODEL, CONTEXTS):
            raise UserError(
                f"{source}: searches: '{name}': expected small letters and digits with hyphens between, and "
                f"neither '{LANGUAGE_MODEL}' nor '{CONTEXTS}'"
            )
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


def check_systems(results: ResultsConfig, systems: Mapping[str, ExperimentConfig], source: str) -> None:
    """Refuse systems that cannot be trained in the order of the rows, or whose comparison means nothing.

    Args:
        results: with names that were checked.
        systems: by row.
        source: what stands before the name of a row in messages.

    Raises:
        UserError: naming the row.
    """
    for name, row in results.rows.items():
        if row.init == OWN and systems[name].stages[0].init_from is None:
            raise UserError(f"{source} '{name}': init 'own', but its system's first stage has no init_from")
        for other in results.needs(name, systems[name]):
            if results.rows[other].rate_of is not None:
                raise UserError(
                    f"{source} '{name}': it needs '{other}', whose rate_of is known only after others have "
                    "been trained"
                )
    _check_students(results, systems, source)
    _check_proposals(results, systems, source)


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
            for values in (ours, theirs):
                values["model"] = _without_lookahead(values["model"])
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


def _without_lookahead(model: TransducerConfig) -> TransducerConfig:
    """The sizes of a model; how it comes by its look-ahead is part of the contexts."""
    if not hasattr(model.encoder, "lookahead"):
        return model
    return replace(model, encoder=replace(model.encoder, lookahead=COPY))  # type: ignore[call-arg]


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
