"""What `kdasr decode` wants: an experiment folder, and a prepared data folder."""

from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result
from streaming_helpers import make_recognizer

from kdasr.checkpoint import save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
from kdasr.nn.context import Context
from kdasr.testing import tiny_tokenizer


def write_experiment(folder: Path) -> Path:
    """A random streaming model that emits pieces of a real tokenizer."""
    tokenizer = tiny_tokenizer(folder / "tokens")
    model = make_recognizer(Context(left=8, chunk=4), vocab_size=tokenizer.vocab_size).model
    save_checkpoint(
        folder / "checkpoints" / "last.pt",
        {
            "model_config": config_to_dict(model.config),
            "model": model.state_dict(),
            "context": {"left": 8, "chunk": 4, "right": 0},
            "tokenizer_fingerprint": tokenizer.fingerprint,
            "system": "student",
            "train_steps": 7,
        },
    )
    return folder


def invoke(command: Any, *arguments: object) -> Result:
    """Run a command; errors are raised, but for those of its usage. Torch's threads stay as they are."""
    threads = torch.get_num_threads()
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    torch.set_num_threads(threads)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(command: Any, *arguments: object) -> Result:
    """Run a command that must end well."""
    result = invoke(command, *arguments)
    assert result.exit_code == 0, result.output
    return result


def prepare_part(corpus: Path, data: Path, part: str, alignments: Path | None = None) -> Path:
    """Prepare one part for decoding."""
    prepare_corpus(PrepareOptions(corpus_dir=corpus, alignments_dir=alignments, out_dir=data, parts=[part]))
    return data
