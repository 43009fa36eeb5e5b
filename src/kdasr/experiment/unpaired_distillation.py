"""A system that also learns from speech without transcripts by the terms of its objective."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from lightning_fabric import Fabric

from kdasr.common.errors import UserError
from kdasr.common.logging import get_logger
from kdasr.common.ranks import Ranks
from kdasr.data.batch import CLEAN, MASKED, REMASKED, UNMASKED
from kdasr.data.cut_table import WORDS
from kdasr.data.loader import TrainLoader, usable_rows, valid_batches
from kdasr.data.table_view import TableView
from kdasr.data.unpaired import InterleavedBatches, digest_of_names, sources_print, with_texts
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import GIVEN, ONCE
from kdasr.distillation.teacher import Transcriber
from kdasr.distillation.terms.base import Need, needing
from kdasr.distillation.unpaired_terms import is_searched, unpaired_terms
from kdasr.experiment.config import ExperimentConfig
from kdasr.self_training.first_search import warn_of_missing
from kdasr.self_training.hypotheses import (
    AUDIO,
    UTTERANCES,
    Hypotheses,
    TranscriptSearch,
    UnpairedDistillation,
    load_texts,
)
from kdasr.self_training.labels import label_search
from kdasr.training.system import System

logger = get_logger(__name__)

HYPOTHESES = "hypotheses.json"
"""Beside the checkpoints: what the teacher said, where that is searched once."""


class Speech(NamedTuple):
    """Speech without transcripts."""

    cuts: TableView
    """With the text that they are to be trained on, if there is one."""
    transcripts: Mapping[str, str]
    """Those that the parts have, normalized as the pieces are; for the log alone."""


def with_distillation(
    system: System, objective: Objective, config: ExperimentConfig, fabric: Fabric, speech: Speech
) -> System:
    """Add the distillation of `config.unpaired` to a system that has none.

    Args:
        system: the system without.
        objective: that of its paired batches.
        config: its configuration.
        fabric: the processes.
        speech: of the parts.

    Raises:
        UserError: a teacher that cannot say what it hears, an option out of range.
    """
    options = config.unpaired
    teacher = _transcriber(config, objective)
    hypotheses = Hypotheses(teacher, label_search(options.hypothesis, "hypothesis"), system.tokenizer)
    cuts = speech.cuts
    if teacher is not None and options.hypothesis.source == ONCE:
        cuts = _searched_once(hypotheses, cuts, config, system, fabric)
        hypotheses = replace(hypotheses, teacher=None)
    in_turn = hypotheses.teacher is not None
    hypotheses = replace(
        hypotheses,
        transcripts=speech.transcripts,
        search_copy=in_turn and config.objective.teacher_features == MASKED,
    )
    assert isinstance(system.train_batches, TrainLoader)
    unpaired = TrainLoader(
        cuts,
        system.tokenizer,
        replace(config.data, train_share=1.0),
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        word_times=_has_word_times(config, cuts),
        num_frames=config.model.geometry.num_frames,
        teacher_features=_heard(config, in_turn=in_turn),
        pin_memory=fabric.device.type == "cuda",
    )
    accumulate = config.training.optim.accumulate
    for stage in config.stages:
        logger.info("stage '%s' without transcripts: losses %s", stage.name, unpaired_terms(stage, options))
    return replace(
        system,
        objective=UnpairedDistillation(objective, options, hypotheses),
        train_batches=InterleavedBatches(system.train_batches, unpaired, options.ratio, accumulate),
    )


def _transcriber(config: ExperimentConfig, objective: Objective) -> Transcriber | None:
    """The teacher, where it is to say what it hears.

    Raises:
        UserError: it cannot.
    """
    if not is_searched(config.stages, config.unpaired):
        return None
    if not isinstance(objective.teacher, Transcriber):
        raise UserError(
            f"unpaired.hypothesis.source '{config.unpaired.hypothesis.source}': the teacher has no "
            "`transcribe`, so it cannot say what it hears"
        )
    return objective.teacher


def _heard(config: ExperimentConfig, *, in_turn: bool) -> str:
    """What batches hold beside what the student hears.

    Masks would make the teacher's hypotheses worse, so that a search hears none.
    """
    terms = {name for stage in config.stages for name in unpaired_terms(stage, config.unpaired)}
    if needing(Need.SECOND_MASKS, terms):
        return REMASKED
    if in_turn:
        return CLEAN if config.objective.teacher_features == CLEAN else UNMASKED
    return config.objective.teacher_features if needing(Need.TEACHER, terms) else MASKED


def _has_word_times(config: ExperimentConfig, cuts: TableView) -> bool:
    """Whether pieces of given labels can be tied to the times of their words."""
    given = config.unpaired.hypothesis.source == GIVEN and config.objective.rnnt.is_restricted
    return given and bool((cuts.columns.flags_N & WORDS).any())


def usable(cuts: TableView, config: ExperimentConfig, system: System) -> TableView:
    """Those that can be trained on; the others are logged."""
    whole = replace(config.data, train_share=1.0)
    return cuts.take(usable_rows(cuts, system.tokenizer, whole, config.model.geometry.num_frames))


def _searched_once(
    hypotheses: Hypotheses, cuts: TableView, config: ExperimentConfig, system: System, fabric: Fabric
) -> TableView:
    """The cuts with the teacher's hypotheses as their texts: those of the experiment folder, which all
    processes make together at the first start. Without the utterances that could not be read."""
    path, search = system.exp_dir / HYPOTHESES, hypotheses.search
    cuts = usable(cuts, config, system)
    teacher = next(iter(system.teachers)).sha256[:16]
    made_by = f"{teacher}, beam {search.beam}, blank penalty {search.blank_penalty:g}"
    digest, audio = cuts.digest()[:16], sources_print(cuts)
    is_there = path.is_file()
    fabric.barrier()  # all have looked before one of them writes it
    if not is_there:
        logger.info("the teacher searches %d utterances without transcripts", len(cuts))
        batches = valid_batches(cuts, system.tokenizer, config.data, config.model.geometry.num_frames)
        data = {UTTERANCES: digest, AUDIO: audio, "max_duration": config.data.max_duration}
        searching = TranscriptSearch(batches, fabric.device, made_by, data, hypotheses)
        searching.run(path, Ranks(fabric.global_rank, fabric.world_size))
    texts = load_texts(path, made_by, digest, audio, earlier=lambda: digest_of_names(cuts)[:16])
    if len(texts) < len(cuts):
        warn_of_missing(path, len(cuts) - len(texts), len(cuts))
    return with_texts(cuts, texts)
