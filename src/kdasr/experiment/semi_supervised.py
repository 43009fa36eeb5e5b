"""A system that also learns from speech without transcripts: local prior matching, pseudo-labels, or
distillation (`kdasr.experiment.unpaired_distillation`)."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from kdasr.bundle import load_bundle
from kdasr.common.errors import UserError
from kdasr.common.files import read_object
from kdasr.common.logging import get_logger
from kdasr.common.ranks import Ranks
from kdasr.data.cut_table import WORDS
from kdasr.data.data_config import JoinConfig
from kdasr.data.index_folder import open_parts
from kdasr.data.loader import TrainLoader, rows_at_speeds, valid_batches
from kdasr.data.table_view import TableView, as_it_is
from kdasr.data.train_share import rows_in_share
from kdasr.data.unpaired import (
    InterleavedBatches,
    Transcripts,
    check_all_named,
    no_pieces,
    rows_named,
    sources_print,
    without_text,
)
from kdasr.decoding.rescoring import SentenceScorer
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import GIVEN, JOINT
from kdasr.distillation.unpaired_terms import is_distilled
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.unpaired_distillation import Speech, usable, with_distillation
from kdasr.language_model.scorer import load_sentence_scorer
from kdasr.models.transducer.model import Transducer
from kdasr.self_training.first_search import FirstSearch, warn_of_missing
from kdasr.self_training.labels import FirstGuess, Labeler, label_search
from kdasr.self_training.proposals import DATA, ProposalModel, load_hypotheses
from kdasr.self_training.step import SemiSupervisedObjective, UnpairedParts
from kdasr.training.stage import resolve_reference
from kdasr.training.system import System
from kdasr.training.transducer import validate_model
from kdasr.training.validation import Validation

logger = get_logger(__name__)

GUESSES = "first_guesses.json"
"""Beside the checkpoints: what the first proposal model said."""


def with_unpaired(
    system: System, objective: Objective, config: ExperimentConfig, fabric: Fabric
) -> tuple[System, TableView]:
    """Add `config.unpaired` to a system that has none; also its utterances.

    Args:
        system: the system without.
        objective: that of its paired batches.
        config: its configuration.
        fabric: the processes.

    Raises:
        UserError: no data, no proposal model, other pieces or features, an option out of range.
    """
    options = config.unpaired
    speech = _load_speech(config, system)
    if is_distilled(options):
        system = with_distillation(system, objective, config, fabric, speech)
    else:
        system, cuts = _with_labels(system, objective, config, fabric, speech)
        speech = speech._replace(cuts=cuts)
    if options.mixing == JOINT:
        system.batches_at_once = 1 + options.ratio
    return system, speech.cuts


def _with_labels(
    system: System, objective: Objective, config: ExperimentConfig, fabric: Fabric, speech: Speech
) -> tuple[System, TableView]:
    """With labels that a proposal model proposes; also the utterances that are left."""
    options = config.unpaired
    cuts = usable(speech.cuts, config, system)
    if len(cuts) == 0:
        raise UserError(f"{config.data.dir}: no usable utterance in {', '.join(options.parts)}")
    proposal = _load_proposal(config, system).to(fabric.device)
    language_model = _load_language_model(config, system, fabric)  # before the long search of the guesses
    guesses, cuts = _guesses(proposal, cuts, config, system, fabric)
    labeler = Labeler(options.labels, guesses, language_model)
    parts = UnpairedParts(
        config=options,
        proposal=proposal,
        labeler=labeler,
        tokenizer=system.tokenizer,
        spec_augment=config.data.spec_augment,
        transcripts=speech.transcripts,
    )
    # Labels go by utterance, so that nothing is joined; masks come after the search.
    unmasked = replace(config.data.spec_augment, enabled=False)
    unpaired = TrainLoader(
        cuts,
        system.tokenizer,
        replace(config.data, spec_augment=unmasked, join=JoinConfig(), train_share=1.0),
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        num_frames=config.model.geometry.num_frames,
        pin_memory=fabric.device.type == "cuda",
    )
    assert isinstance(system.train_batches, TrainLoader)
    accumulate = config.training.optim.accumulate
    system = replace(
        system,
        objective=SemiSupervisedObjective(objective, parts),
        train_batches=InterleavedBatches(system.train_batches, unpaired, options.ratio, accumulate),
    )
    if options.update == "better":
        system.after_validation = update_when_better(system, objective, proposal)
    return system, cuts


def update_when_better(
    system: System, objective: Objective, proposal: ProposalModel
) -> Callable[[Fabric, Validation, nn.Module], None]:
    """What replaces the proposal model at a validation of the system: see `ProposalModel.consider`.

    Its own error is measured at the first validation, on the same dev utterances: word errors of greedy
    search, all dev parts together (the paper takes the mean of two).
    """

    def update(fabric: Fabric, validation: Validation, model: nn.Module) -> None:
        if not proposal.measured:
            batches = system.valid_batches()
            measured = validate_model(
                fabric, proposal.model, objective, batches, system.tokenizer, proposal.context
            )
            proposal.set_error(measured.criterion)
            logger.info("proposal model: dev %s %.2f %%", _measure(measured), measured.criterion)
        assert isinstance(model, Transducer)
        if proposal.consider(model, validation.criterion):
            logger.info(
                "the model is the proposal model from now on (update %d), dev %s %.2f %%",
                int(proposal.updates),
                _measure(validation),
                validation.criterion,
            )

    return update


def _measure(validation: Validation) -> str:
    """The name of the criterion: WER, or CER."""
    return next(iter(validation.scores)).upper()


def _load_speech(config: ExperimentConfig, system: System) -> Speech:
    """The cuts of the parts, without transcripts unless these are given labels; and not those that the
    system is trained on with their transcripts, where `data.train_share` chooses some."""
    table = open_parts(config.data.dir, config.unpaired.parts)
    rows = rows_at_speeds(table.columns, config.data.speed_perturbation)
    share, begin = config.data.train_share, 0
    for part, count in zip(config.unpaired.parts, table.lengths, strict=True):
        if share < 1.0 and part in config.data.train_parts:
            of_part = rows[(begin <= rows) & (rows < begin + count)]
            rows = np.setdiff1d(rows, rows_in_share(table, of_part, share))
        begin += count
    transcripts = Transcripts(table, rows, system.tokenizer)
    if is_distilled(config.unpaired) and config.unpaired.hypothesis.source == GIVEN:
        if len(transcripts) < len(rows):
            without = len(rows) - len(transcripts)
            logger.warning("%d of %d unpaired utterances have no text: left out", without, len(rows))
            rows = np.sort(transcripts.rows)
        return Speech(TableView(table, rows, as_it_is, lambda tokenizer: table.pieces(tokenizer)[rows]), {})
    if transcripts:
        logger.warning(
            "%d of %d unpaired utterances carry transcripts: ignored, but for a comparison in the log",
            len(transcripts),
            len(rows),
        )
    return Speech(TableView(table, rows, without_text, no_pieces(len(rows)), WORDS), transcripts)


def _load_proposal(config: ExperimentConfig, system: System) -> ProposalModel:
    if config.unpaired.proposal is None:
        raise UserError("unpaired.parts needs unpaired.proposal, a trained model that proposes transcripts")
    bundle = load_bundle(resolve_reference(config.unpaired.proposal, system.exp_dir), as_trained=True)
    if bundle.tokenizer.fingerprint != system.tokenizer.fingerprint:
        raise UserError(
            f"unpaired.proposal: {bundle.path} was trained with other tokens than {config.data.dir}/tokens; "
            "its transcripts mean nothing here"
        )
    assert isinstance(system.model, Transducer)
    own, theirs = system.model, bundle.model
    if (theirs.config.num_features, theirs.geometry.features) != (
        own.config.num_features,
        own.geometry.features,
    ):
        raise UserError(f"unpaired.proposal: {bundle.path} takes other features than this system")
    if config.unpaired.update == "better" and _shapes(bundle.model) != _shapes(system.model):
        raise UserError(
            f"unpaired.proposal: {bundle.path} is of another architecture than this system, which so cannot "
            "take its place; set unpaired.update: never"
        )
    logger.info("proposal model: %s (%s), context %s", bundle.name, bundle.path, bundle.context)
    return ProposalModel(bundle.model, bundle.context, later_context=config.contexts[0])


def _shapes(model: Transducer) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _load_language_model(config: ExperimentConfig, system: System, fabric: Fabric) -> SentenceScorer | None:
    """The language model; None where no weight needs one."""
    if config.unpaired.language_model is None or config.unpaired.labels.weights != "prior":
        return None
    path = resolve_reference(config.unpaired.language_model, system.exp_dir)
    return load_sentence_scorer(path, system.tokenizer, f"{config.data.dir}/tokens").to(fabric.device)


def _guesses(
    proposal: ProposalModel, cuts: TableView, config: ExperimentConfig, system: System, fabric: Fabric
) -> tuple[dict[str, FirstGuess], TableView]:
    """Those of the experiment folder; made there at the first start, by all processes together. Also the
    utterances that have one: the others could not be read."""
    path, labels = system.exp_dir / GUESSES, config.unpaired.labels
    # Only the filter of low scores asks for scores, which must be those of the search that labels come from.
    search = label_search(labels) if labels.worst_share else replace(label_search(labels), beam=1)
    made_by = f"{proposal.fingerprint()}, beam {search.beam}, blank penalty {search.blank_penalty:g}"
    data = {
        "utterances": cuts.digest(),
        "max_duration": config.data.max_duration,
        "audio": sources_print(cuts),
    }
    is_there = path.is_file()
    fabric.barrier()  # all have looked before one of them writes it
    if not is_there:
        logger.info("first search in %d unpaired utterances by the first proposal model", len(cuts))
        batches = valid_batches(cuts, system.tokenizer, config.data, config.model.geometry.num_frames)
        first_search = FirstSearch(batches, fabric.device, made_by, data, proposal, search)
        first_search.run(path, Ranks(fabric.global_rank, fabric.world_size))
    guesses = load_hypotheses(path, made_by)
    searched = read_object(path).get(DATA, {})
    if searched.get("utterances") != data["utterances"]:  # earlier versions did not say
        check_all_named(path, guesses, cuts)
    elif searched["audio"] != data["audio"]:
        raise UserError(f"{path}: the audio has been replaced since the search; remove it to search again")
    elif len(guesses) < len(cuts):
        warn_of_missing(path, len(cuts) - len(guesses), len(cuts))
        cuts = cuts.take(rows_named(guesses, cuts))
    return guesses, cuts
