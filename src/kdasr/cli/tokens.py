"""`kdasr tokens`: train the SentencePiece model on the training transcripts of a data folder."""

from pathlib import Path

import click

from kdasr.common.logging import setup_logging


@click.command(name="tokens")
@click.option(
    "--data",
    "data_dir",
    type=click.Path(path_type=Path),
    required=True,
    help="Data folder from `kdasr prepare`.",
)
@click.option("--vocab-size", type=int, required=True, help="Pieces, the three special ones included.")
def command(data_dir: Path, vocab_size: int) -> None:
    """Train the SentencePiece unigram model on the transcripts of the training parts.

    Writes tokens/bpe.model and tokens/tokens.txt; does nothing when they are there with the same settings.
    """
    from kdasr.data.prepare import prepare_tokens

    setup_logging()
    prepare_tokens(data_dir, vocab_size)
