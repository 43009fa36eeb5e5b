"""From the configuration of a language model to its trainer: model and text."""

from copy import deepcopy
from dataclasses import replace
from itertools import islice
from pathlib import Path

from lightning_fabric import Fabric

from kdasr.common.errors import UserError
from kdasr.data.same_data import check_same_data
from kdasr.experiment.config import LanguageModelExperiment
from kdasr.experiment.trainer_start import agreed_vocab_size, fill_in_steps, make_trainer, own_tokenizer
from kdasr.language_model.loader import TextLoader, valid_text_batches
from kdasr.language_model.model import TransformerLanguageModel
from kdasr.language_model.module import LanguageModelObjective, validate_language_model
from kdasr.language_model.text import EncodedText, text_sources, transcript_sources
from kdasr.language_model.text_store import stored_text
from kdasr.nn.context import Context
from kdasr.training.resume import seed_everything, share_out
from kdasr.training.system import System
from kdasr.training.trainer import Trainer


def build_language_model_trainer(config: LanguageModelExperiment, exp_dir: Path, fabric: Fabric) -> Trainer:
    """Build a language model's trainer from its configuration.

    Raises:
        UserError: no tokenizer, no text, or an impossible size.
    """
    if not config.data.train_text:
        raise UserError("data.train_text: name at least one text file to train on")
    config = deepcopy(replace(config, training=share_out(config.training, exp_dir, fabric)))
    tokenizer = own_tokenizer(config, exp_dir, fabric)
    seed_everything(config.seed, rank=0)
    size = agreed_vocab_size(config.model.vocab_size, tokenizer)
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
    fill_in_steps(system, None, fabric)
    texts = {"training": train_text, "dev": dev_text}
    if fabric.is_global_zero:
        found = {name: text.description() for name, text in texts.items()}
        check_same_data(exp_dir, found, f"data.dir: {config.data.dir}")
    described = {name: f"{len(text)} sentences, {text.num_pieces} pieces" for name, text in texts.items()}
    return make_trainer(system, "none", described, fabric)
