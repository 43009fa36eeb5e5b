"""`kdasr tokens`: train the SentencePiece model on the training transcripts of a data folder."""

from pathlib import Path

import click

from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging


@click.command(name="tokens")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Data folder from `kdasr prepare`.",
)
@click.option("--vocab-size", type=int, help="Pieces, the three special ones included.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Recipe file whose data.vocab_size is the most to make when --vocab-size is not given.",
)
def command(data_dir: Path, vocab_size: int | None, config_path: Path | None) -> None:
    """Train the SentencePiece unigram model on the transcripts of the training parts.

    Writes tokens/bpe.model and tokens/tokens.txt; does nothing when they are there with the same settings.
    """
    from kdasr.data.prepare import prepare_tokens
    from kdasr.experiment.config import load_data_config

    setup_logging()
    # A recipe's size is meant for its usual corpus; a smaller one may not fill it.
    from_recipe = vocab_size is None
    if vocab_size is None:
        if config_path is None:
            raise UserError("how many pieces? Give --vocab-size, or --config with data.vocab_size")
        vocab_size = load_data_config(config_path).vocab_size
    prepare_tokens(data_dir, vocab_size, at_most=from_recipe)
