"""From the configuration of a transducer to its trainer: model, teachers, objective, data."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric

from kdasr.bundle import Bundle, load_bundle
from kdasr.common.errors import UserError
from kdasr.common.feature_frames import KALDI
from kdasr.common.files import read_object, sha256
from kdasr.common.logging import get_logger
from kdasr.data.batch import MASKED, REMASKED
from kdasr.data.cut_index import FolderTable
from kdasr.data.cut_table import WORDS
from kdasr.data.features import SAMPLE_RATE
from kdasr.data.index_folder import open_parts
from kdasr.data.loader import TrainLoader, valid_batches
from kdasr.data.same_data import check_same_data, describe_data
from kdasr.data.table_view import TableView
from kdasr.data.tokenizer import Tokenizer
from kdasr.distillation.objective import Objective
from kdasr.distillation.objective_config import RnntConfig
from kdasr.distillation.teacher import TransducerTeacher
from kdasr.distillation.terms.base import Need, needing
from kdasr.distillation.unpaired_terms import learns_unpaired, needs_teacher
from kdasr.experiment.config import ExperimentConfig
from kdasr.experiment.semi_supervised import with_unpaired
from kdasr.experiment.teacher_comparison import compare_with_teacher
from kdasr.experiment.trainer_start import agreed_vocab_size, fill_in_steps, make_trainer, own_tokenizer
from kdasr.losses.lattice.kernel_check import check_kernels
from kdasr.models.transducer.build import build_transducer
from kdasr.models.transducer.model import Transducer
from kdasr.training.resume import TeacherFile, seed_everything, share_out
from kdasr.training.stage import teacher_checkpoint
from kdasr.training.system import System
from kdasr.training.trainer import Trainer
from kdasr.training.transducer import validate_transducer

logger = get_logger(__name__)


def build_trainer(config: ExperimentConfig, exp_dir: Path, fabric: Fabric) -> Trainer:
    """Build every part of a system from its configuration.

    Raises:
        UserError: missing data, tokens that do not match, no such teacher, an impossible size.
    """
    tokenizer = own_tokenizer(config, exp_dir, fabric)
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
    fill_in_steps(system, config.objective.rnnt, fabric)
    if fabric.is_global_zero:
        check_same_data(
            exp_dir, describe_data(config.data, data, config.unpaired.parts), f"data.dir: {config.data.dir}"
        )
    described = {name: f"{len(cuts)} utterances, {_hours(cuts):.2f} h" for name, cuts in data.items()}
    return make_trainer(system, backend, described, fabric)


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
    size = agreed_vocab_size(config.model.vocab_size, tokenizer)
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


def _hours(cuts: FolderTable | TableView) -> float:
    return float(cuts.columns.samples_N.sum(dtype=np.int64)) / SAMPLE_RATE / 3600
