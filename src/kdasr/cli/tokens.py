"""`kdasr tokens`: the pieces of a data folder, trained on its transcripts or taken from elsewhere."""

from pathlib import Path

import click

from kdasr.cli.data_options import data_sections, override_option
from kdasr.cli.paths import InputPath
from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging

MODEL_TYPES = ("unigram", "bpe", "char")


@click.command(name="tokens")
@click.option(
    "--data",
    "data_dir",
    type=InputPath("data folder"),
    required=True,
    help="Data folder from `kdasr prepare`.",
)
@click.option("--vocab-size", type=click.IntRange(min=4), help="Pieces, the three special ones included.")
@click.option(
    "--model-type",
    type=click.Choice(MODEL_TYPES),
    help="Kind of pieces; char: all characters, however many.  [default: the recipe's, or unigram]",
)
@click.option(
    "--config",
    "config_path",
    type=InputPath("configuration file"),
    help="Recipe file whose data.vocab_size is the most to make when --vocab-size is not given.",
)
@override_option
@click.option(
    "--from",
    "source",
    type=InputPath(),
    help="Take the pieces of this SentencePiece model, or of this tokens.txt of characters, and train none.",
)
def command(
    data_dir: Path,
    vocab_size: int | None,
    model_type: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    source: Path | None,
) -> None:
    """Train a SentencePiece model on the transcripts of the training parts.

    Text is normalized as the data folder was prepared for (`kdasr prepare --normalize`). Writes
    tokens/bpe.model and tokens/tokens.txt; does nothing when they are there with the same settings.
    """
    from kdasr.data.tokens import Pieces, adopt_pieces, check_tokens, train_pieces

    setup_logging()
    recipe = data_sections(config_path, overrides)
    text = recipe.text
    if source is not None:
        if vocab_size is not None or model_type is not None:
            raise UserError("--from: the pieces are there; leave out --vocab-size and --model-type")
        check_tokens(data_dir, adopt_pieces(data_dir, source), text.normalize)
        return
    kind = model_type or text.model_type
    # A recipe's size is meant for its usual corpus; a smaller one may not fill it.
    from_recipe = vocab_size is None
    if vocab_size is None and config_path is not None:
        vocab_size = recipe.data.vocab_size
    if vocab_size is None and kind != "char":
        raise UserError("how many pieces? Give --vocab-size, or --config with data.vocab_size")
    pieces = Pieces(vocab_size or 0, at_most=from_recipe, model_type=kind)
    check_tokens(data_dir, train_pieces(data_dir, pieces), text.normalize)
