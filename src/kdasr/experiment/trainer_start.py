"""What training begins with, of a transducer and of a language model alike."""

from pathlib import Path

import torch
from lightning_fabric import Fabric

from kdasr.common.errors import UserError
from kdasr.common.files import write_json
from kdasr.common.logging import get_logger
from kdasr.data.pace import Pace
from kdasr.data.tokenizer import Tokenizer, copy_tokenizer
from kdasr.data.tokens import check_tokens
from kdasr.distillation.objective_config import RnntConfig
from kdasr.experiment.config import AnyExperiment, ExperimentConfig
from kdasr.training.clock import Timed, count_steps
from kdasr.training.environment import describe_environment
from kdasr.training.resume import seed_everything
from kdasr.training.system import System
from kdasr.training.trainer import Trainer

logger = get_logger(__name__)


def own_tokenizer(config: AnyExperiment, exp_dir: Path, fabric: Fabric) -> Tokenizer:
    """The tokenizer of the data, copied into the experiment folder at the first start.

    Raises:
        UserError: the data have no tokens, or others than those that the folder began with.
    """
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


def agreed_vocab_size(configured: int, tokenizer: Tokenizer) -> int:
    """The number of pieces, which the configuration may leave out (0).

    Raises:
        UserError: it states another number.
    """
    if configured not in (0, tokenizer.vocab_size):
        raise UserError(
            f"model.vocab_size is {configured}, the tokenizer has {tokenizer.vocab_size} pieces; leave it out"
        )
    return tokenizer.vocab_size


def fill_in_steps(system: System, rnnt: RnntConfig | None, fabric: Fabric) -> None:
    """Fill in the steps of what the recipe gives in epochs or hours."""

    def measure() -> Pace:
        per_step = system.config.optim.accumulate * system.batches_at_once * fabric.world_size
        return system.train_batches.pace().of_steps(per_step)

    timed = Timed(system.stages, system.config, rnnt)
    count_steps(timed, system.exp_dir, measure, save=fabric.is_global_zero)


def make_trainer(system: System, backend: str, data: dict[str, str], fabric: Fabric) -> Trainer:
    """Record the environment, say what runs on what data, and make the trainer."""
    if fabric.is_global_zero:
        environment = describe_environment(backend=backend, seed=system.seed)
        write_json(system.exp_dir / "environment.json", environment)
    _log_start(system, data, fabric)
    # From here on the processes differ: dropout is their own.
    seed_everything(system.seed, rank=fabric.global_rank)
    return Trainer(system, fabric)


def _log_start(system: System, data: dict[str, str], fabric: Fabric) -> None:
    """What runs, on what, where."""
    parameters = sum(parameter.numel() for parameter in system.model.parameters())
    logger.info("system '%s' in %s: %.2f M parameters", system.name, system.exp_dir, parameters / 1e6)
    contexts = "; ".join(str(context) for context in system.contexts)
    logger.info("contexts in training: %s", system.context_choice or contexts)
    logger.info("contexts in validation: %s", contexts if system.context_choice else system.contexts[0])
    logger.info("stages: %s", ", ".join(f"{stage.name} ({stage.steps})" for stage in system.stages))
    for name, described in data.items():
        logger.info("%s: %s", name, described)
    device = f"{fabric.device}, {fabric.world_size} process(es), {system.config.precision}"
    logger.info("device: %s, %d CPU threads", device, torch.get_num_threads())
