"""From the configuration of a system to its parts, and to a trained system."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from kdasr.checkpoint import (
    FOLDER,
    Bundle,
    average_checkpoints,
    load_bundle,
    save_checkpoint,
)
from kdasr.common.errors import UserError
from kdasr.common.failures import is_disk_full
from kdasr.common.feature_frames import KALDI
from kdasr.common.files import read_object, sha256, write_json
from kdasr.common.logging import get_logger, setup_logging
from kdasr.data.batch import MASKED, REMASKED
from kdasr.data.cut_index import FolderTable
from kdasr.data.cut_table import WORDS
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.index_folder import open_parts
from kdasr.data.loader import TrainLoader, valid_batches
from kdasr.data.pace import Pace
from kdasr.data.same_data import check_same_data, describe_data
from kdasr.data.table_view import TableView
from kdasr.data.tokenizer import Tokenizer, copy_tokenizer
from kdasr.data.tokens import check_tokens
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms.base import Need, needing
from kdasr.distillation.unpaired_terms import learns_unpaired, needs_teacher
from kdasr.experiment.config import AnyExperiment, ExperimentConfig, LanguageModelExperiment
from kdasr.experiment.saved_config import claim_folder, load_saved_experiment, save_experiment
from kdasr.experiment.semi_supervised import with_unpaired
from kdasr.experiment.teacher_comparison import compare_with_teacher
from kdasr.language_model.loader import TextLoader, valid_text_batches
from kdasr.language_model.model import TransformerLanguageModel
from kdasr.language_model.module import LanguageModelObjective, validate_language_model
from kdasr.language_model.text import EncodedText, text_sources, transcript_sources
from kdasr.language_model.text_store import stored_text
from kdasr.losses.lattice.kernel_check import check_kernels
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.nn.context import Context
from kdasr.training.clock import Timed, count_steps
from kdasr.training.devices import make_fabric
from kdasr.training.environment import describe_environment
from kdasr.training.resume import TeacherFile, saved_progress, seed_everything, share_out
from kdasr.training.stage import checkpoints_to_average, stages_done, stages_until, teacher_checkpoint
from kdasr.training.system import System
from kdasr.training.trainer import Trainer
from kdasr.training.transducer import validate_transducer

logger = get_logger(__name__)


def train(config: AnyExperiment, exp_dir: Path, until_stage: str | None = None) -> None:
    """Train a system in its folder, or go on with it.

    Raises:
        UserError: bad input of any kind; see `build_trainer`, `build_language_model_trainer`, `Trainer.fit`.
        TrainingInterrupted: stopped by a signal; a checkpoint is left.
    """
    fabric = make_fabric(config.training)
    changed = claim_folder(config, exp_dir) if fabric.is_global_zero else []
    setup_logging(exp_dir / "train.log", is_first=fabric.is_global_zero)
    fabric.barrier()
    wanted = stages_until(config.stages, until_stage)
    if stages_done(saved_progress(exp_dir), config.stages) >= len(wanted):
        if (Path(config.data.dir) / "tokens").is_dir():  # else nothing contradicts
            _own_tokenizer(config, exp_dir, fabric)
        logger.info("%s: already trained: %s", exp_dir, ", ".join(stage.name for stage in wanted))
        return
    try:
        if isinstance(config, LanguageModelExperiment):
            trainer = build_language_model_trainer(config, exp_dir, fabric)
        else:
            trainer = build_trainer(config, exp_dir, fabric)
        if changed:  # not before the data have been found to be the same
            logger.info("goes on with other options: %s", "; ".join(map(str, changed)))
            save_experiment(config, exp_dir)
        trainer.fit(until_stage)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(
            f"{exp_dir}: the disk is full; the last checkpoint is sound. Free some space."
        ) from error


def build_trainer(config: ExperimentConfig, exp_dir: Path, fabric: Fabric) -> Trainer:
    """Build every part of a system from its configuration.

    Raises:
        UserError: missing data, tokens that do not match, no such teacher, an impossible size.
    """
    tokenizer = _own_tokenizer(config, exp_dir, fabric)
    # Of its own: steps are filled in where the recipe counts epochs or hours.
    config = deepcopy(replace(config, training=share_out(config.training, exp_dir, fabric)))
    seed_everything(config.seed, rank=0)
    model = build_model(config, tokenizer)
    if config.training.recompute_layers:
        model.encoder.recompute_layers()
    bundles = _load_teachers(config, exp_dir, tokenizer)
    teachers = [TransducerTeacher(bundle.model, bundle.context).to(fabric.device) for bundle in bundles]
    objective = Objective(config.objective, model.config, teachers[0] if teachers else None, teachers[1:])
    if fabric.device.type == "cuda":
        check_kernels(fabric.device)
    kind = _teacher_kind(config, bundles)
    train_cuts = open_parts(config.data.dir, config.data.train_parts)
    dev_cuts = open_parts(config.data.dir, config.data.dev_parts)
    _heed_word_times(config.objective.rnnt, train_cuts)
    batches = TrainLoader(
        train_cuts,
        tokenizer,
        config.data,
        seed=config.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        word_times=config.objective.rnnt.is_restricted,
        num_frames=model.geometry.num_frames,
        teacher_features=_second_features(config),
        teacher_kind=kind,
        pin_memory=fabric.device.type == "cuda",
    )
    dev_batches = valid_batches(dev_cuts, tokenizer, config.data, model.geometry.num_frames, kind)
    if not len(dev_batches):
        raise UserError(f"{config.data.dir}: no usable utterance in {', '.join(config.data.dev_parts)}")
    dev_batches = dev_batches.first(config.training.max_valid_batches or None)
    system = System(
        name=config.name,
        exp_dir=exp_dir,
        seed=config.seed,
        contexts=config.contexts,
        context_choice=config.context_choice,
        stages=config.stages,
        config=config.training,
        model=model,
        objective=objective,
        tokenizer=tokenizer,
        train_batches=batches,
        valid_batches=lambda: dev_batches,
        validate=validate_transducer,
        teachers=[TeacherFile(str(bundle.path.resolve()), sha256(bundle.path)) for bundle in bundles],
    )
    if bundles:
        system.at_start = compare_with_teacher(system, objective, config, bundles[0])
    backend = objective.lattices.backend_name if fabric.is_global_zero else ""
    data: dict[str, FolderTable | TableView] = {"training": train_cuts, "dev": dev_cuts}
    if learns_unpaired(config.unpaired):
        system, data["unpaired"] = with_unpaired(system, objective, config, fabric)
    _count_steps(system, config.objective.rnnt, fabric)
    if fabric.is_global_zero:
        check_same_data(
            exp_dir, describe_data(config.data, data, config.unpaired.parts), f"data.dir: {config.data.dir}"
        )
    described = {name: f"{len(cuts)} utterances, {_hours(cuts):.2f} h" for name, cuts in data.items()}
    return _start(system, backend, described, fabric)


def _second_features(config: ExperimentConfig) -> str:
    """What batches hold beside what the student hears: for its teacher, or for a second copy."""
    terms = {name for stage in config.stages for name in stage.loss_weights}
    if needing(Need.SECOND_MASKS, terms):
        return REMASKED
    return config.objective.teacher_features if needing(Need.TEACHER, terms) else MASKED


def _teacher_kind(config: ExperimentConfig, teachers: Sequence[Bundle]) -> str:
    """The kind of features that the teachers hear.

    Raises:
        UserError: two kinds, or another one than the student's where batches hold a second copy or speech
            without transcripts.
    """
    kinds = {bundle.model.geometry.features: bundle for bundle in teachers}
    if len(kinds) > 1:
        raise UserError(
            "objective.more_teachers: all teachers need features of one kind, not of " + " and ".join(kinds)
        )
    kind = next(iter(kinds), KALDI)
    if kind != KALDI:
        terms = {name for stage in config.stages for name in stage.loss_weights}
        for told, what in (
            (needing(Need.SECOND_MASKS, terms), "a loss that compares two masked copies"),
            (learns_unpaired(config.unpaired), "speech without transcripts"),
        ):
            if told:
                who = f"objective.teacher: {kinds[kind].path} hears {kind} features"
                raise UserError(f"{who}; not with {what}")
    return kind


def _heed_word_times(rnnt: RnntConfig, cuts: FolderTable) -> None:
    """Take the bounds of words out of the settings, where the recipe allows it and nothing has word times."""
    if not rnnt.is_restricted or rnnt.without_word_times == "refuse":
        return
    if not (cuts.columns.flags_N & WORDS).any():
        logger.warning(
            "no word times in the training data: objective.rnnt.left_buffer and right_buffer are ignored"
        )
        rnnt.left_buffer = rnnt.right_buffer = None


def build_language_model_trainer(config: LanguageModelExperiment, exp_dir: Path, fabric: Fabric) -> Trainer:
    """Build a language model's trainer from its configuration.

    Raises:
        UserError: no tokenizer, no text, or an impossible size.
    """
    if not config.data.train_text:
        raise UserError("data.train_text: name at least one text file to train on")
    config = deepcopy(replace(config, training=share_out(config.training, exp_dir, fabric)))
    tokenizer = _own_tokenizer(config, exp_dir, fabric)
    seed_everything(config.seed, rank=0)
    size = _vocab_size(config.model.vocab_size, tokenizer)
    model = TransformerLanguageModel(replace(config.model, vocab_size=size))
    data, limit = config.data, config.training.max_valid_batches or None
    train_text = stored_text(data.train_text, tokenizer, data.max_pieces, Path(data.dir) / "text")
    dev_sources = text_sources(data.dev_text) or transcript_sources(Path(data.dir), data.dev_parts)
    dev_text = EncodedText(dev_sources, tokenizer, data.max_pieces)
    dev_batches = valid_text_batches(dev_text, data.batch_pieces)
    rank, world_size = fabric.global_rank, fabric.world_size
    system = System(
        name=config.name,
        exp_dir=exp_dir,
        seed=config.seed,
        contexts=[Context.full()],
        stages=config.stages,
        config=config.training,
        model=model,
        objective=LanguageModelObjective(),
        tokenizer=tokenizer,
        train_batches=TextLoader(
            train_text, data.batch_pieces, seed=config.seed, rank=rank, world_size=world_size
        ),
        valid_batches=lambda: islice(dev_batches, limit),
        validate=validate_language_model,
    )
    _count_steps(system, None, fabric)
    texts = {"training": train_text, "dev": dev_text}
    if fabric.is_global_zero:
        found = {name: text.description() for name, text in texts.items()}
        check_same_data(exp_dir, found, f"data.dir: {config.data.dir}")
    described = {name: f"{len(text)} sentences, {text.num_pieces} pieces" for name, text in texts.items()}
    return _start(system, "none", described, fabric)


def _count_steps(system: System, rnnt: RnntConfig | None, fabric: Fabric) -> None:
    """Fill in the steps of what the recipe gives in epochs or hours."""

    def measure() -> Pace:
        per_step = system.config.optim.accumulate * system.batches_at_once * fabric.world_size
        return system.train_batches.pace().of_steps(per_step)

    timed = Timed(system.stages, system.config, rnnt)
    count_steps(timed, system.exp_dir, measure, save=fabric.is_global_zero)


def _start(system: System, backend: str, data: dict[str, str], fabric: Fabric) -> Trainer:
    """Record the environment, say what runs on what data, and make the trainer."""
    if fabric.is_global_zero:
        environment = describe_environment(backend=backend, seed=system.seed)
        write_json(system.exp_dir / "environment.json", environment)
    _log_start(system, data, fabric)
    # From here on the processes differ: dropout is their own.
    seed_everything(system.seed, rank=fabric.global_rank)
    return Trainer(system, fabric)


def _own_tokenizer(config: AnyExperiment, exp_dir: Path, fabric: Fabric) -> Tokenizer:
    """The tokenizer of the data, copied into the experiment folder at the first start."""
    data_tokens = Path(config.data.dir) / "tokens"
    tokenizer = Tokenizer.load(data_tokens)
    wanted = config.text.normalize if isinstance(config, ExperimentConfig) else None
    check_tokens(Path(config.data.dir), tokenizer, wanted)
    own = exp_dir / "tokens"
    if fabric.is_global_zero and not (own / "bpe.model").is_file():
        copy_tokenizer(tokenizer, own)
    fabric.barrier()
    if Tokenizer.load(own).fingerprint != tokenizer.fingerprint:
        raise UserError(f"{data_tokens}: not the tokens that {exp_dir} began with ({own})")
    return tokenizer


def build_model(config: ExperimentConfig, tokenizer: Tokenizer) -> Transducer:
    """A random model for this tokenizer, with the feature statistics of the data.

    Raises:
        UserError: a model that is not trained here, no statistics or damaged ones, or an impossible size.
    """
    if config.model.geometry.features != KALDI:
        name, heard = config.model.encoder.type, config.model.geometry.features
        raise UserError(
            f"model.encoder.type {name}: hears {heard} features; it teaches, but is not trained here"
        )
    size = _vocab_size(config.model.vocab_size, tokenizer)
    model = build_transducer(replace(config.model, vocab_size=size))
    path = Path(config.data.dir) / "feature_stats.json"
    if not path.is_file():
        raise UserError(f"{path}: no feature statistics: run `kdasr prepare`")
    stats = read_object(path)
    try:
        values = np.asarray([stats["mean"], stats["std"]], dtype=np.float64)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: damaged: expected 'mean' and 'std' of each bin: prepare again") from None
    if not np.isfinite(values).all():
        raise UserError(
            f"{path}: holds numbers that are not finite: run `kdasr prepare` again, into a new folder"
        )
    model.set_feature_stats(*torch.tensor(values, dtype=torch.float32))
    return model


def _vocab_size(configured: int, tokenizer: Tokenizer) -> int:
    if configured not in (0, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {configured}, the tokenizer has {tokenizer.vocab_size} pieces; leave it out"
        )
    return tokenizer.vocab_size


def _load_teachers(config: ExperimentConfig, exp_dir: Path, tokenizer: Tokenizer) -> list[Bundle]:
    """The teachers, when a stage needs one. A resumed run keeps those it began with."""
    if not needs_teacher(config.stages, config.unpaired) or config.objective.teacher is None:
        return []
    bundles = []
    for number, reference in enumerate([config.objective.teacher, *config.objective.more_teachers]):
        bundle = load_bundle(teacher_checkpoint(reference, exp_dir, number), as_trained=True)
        if bundle.tokenizer.fingerprint != tokenizer.fingerprint:
            raise UserError(
                f"objective.{'more_teachers' if number else 'teacher'}: {bundle.path} was trained with other "
                f"tokens than {config.data.dir}/tokens; teacher and student need the same"
            )
        logger.info("teacher: %s (%s), context %s", bundle.name, bundle.path, bundle.context)
        bundles.append(bundle)
    return bundles


def _hours(cuts: FolderTable | TableView) -> float:
    return float(cuts.columns.samples_N.sum(dtype=np.int64)) / SAMPLE_RATE / 3600


def _log_start(system: System, data: dict[str, str], fabric: Fabric) -> None:
    """What runs, on what, where."""
    parameters = sum(parameter.numel() for parameter in system.model.parameters())
    logger.info("system '%s' in %s: %.2f M parameters", system.name, system.exp_dir, parameters / 1e6)
    if system.context_choice:
        logger.info("contexts in training: %s", system.context_choice)
    logger.info("contexts: %s", "; ".join(str(context) for context in system.contexts))
    logger.info("stages: %s", ", ".join(f"{stage.name} ({stage.steps})" for stage in system.stages))
    for name, described in data.items():
        logger.info("%s: %s", name, described)
    device = f"{fabric.device}, {fabric.world_size} process(es), {system.config.precision}"
    logger.info("device: %s, %d CPU threads", device, torch.get_num_threads())


def average(exp_dir: Path, count: int | None = None) -> list[Path]:
    """Average kept checkpoints of the final stage into `checkpoints/averaged.pt`.

    Args:
        exp_dir: of the system.
        count: the last so many; None: those that would be the start of a next stage.

    Returns:
        The checkpoints that went in.

    Raises:
        UserError: no experiment there, or its final stage has left no checkpoint.
    """
    config = load_saved_experiment(exp_dir)
    paths = checkpoints_to_average(exp_dir, config.stages[-1].name, config.training, count)
    save_checkpoint(exp_dir / FOLDER / "averaged.pt", average_checkpoints(paths))
    return paths
