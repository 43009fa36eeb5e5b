"""What `kdasr decode` wants: an experiment folder, and a prepared data folder."""

from pathlib import Path

from streaming_helpers import make_recognizer

from kdasr.checkpoint import save_checkpoint
from kdasr.common.configio import config_to_dict
from kdasr.data.prepare import PrepareOptions, prepare_corpus
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


def prepare_part(corpus: Path, data: Path, part: str, alignments: Path | None = None) -> Path:
    """Prepare one part for decoding."""
    prepare_corpus(PrepareOptions(corpus_dir=corpus, alignments_dir=alignments, out_dir=data, parts=[part]))
    return data
