"""`kdasr text`: text for a language model without what is said in the audio."""

from collections.abc import Callable
from pathlib import Path

import click

from kdasr.cli.paths import InputPath
from kdasr.common.logging import setup_logging


@click.command(name="text")
@click.argument("sources", nargs=-1, required=True, type=InputPath("text file"))
@click.option(
    "--data",
    "data_dir",
    type=InputPath("data folder"),
    required=True,
    help="Data folder from `kdasr prepare`.",
)
@click.option(
    "--parts",
    required=True,
    help="Parts whose transcripts are to be unknown, separated by spaces or commas.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The file to write.  [default: DATA/lm-text.txt]"
)
@click.option(
    "--run",
    "length",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="A line is left out when so many of its words in a row are in a transcript.",
)
def command(sources: tuple[Path, ...], data_dir: Path, parts: str, out: Path | None, length: int) -> None:
    """Copy text for a language model, without the lines that occur in transcripts of some parts.

    SOURCES have one sentence per line, spelled as transcripts are; gzipped if they end in .gz. Where writing
    has no spaces between words, characters stand for them. A line that is shorter than the run is left out
    when it is a whole transcript. The transcripts of training parts that stay paired need not be named.
    """
    from kdasr.data.folder import load_record, recorded_normalization
    from kdasr.data.text_normalization import TextNormalizer
    from kdasr.data.tokenizer import MODEL_NAME, Tokenizer
    from kdasr.language_model.normalized_text import write_unknown_lines
    from kdasr.language_model.text import transcript_sources

    setup_logging()
    names = parts.replace(",", " ").split()
    transcripts = (line for source in transcript_sources(data_dir, names) for line in source.lines)
    target = out or data_dir / "lm-text.txt"
    tokens = data_dir / "tokens"
    if (tokens / MODEL_NAME).is_file():
        normalize: Callable[[str], str] = Tokenizer.load(tokens).normalize
    else:
        normalize = TextNormalizer(written=recorded_normalization(load_record(data_dir)))
    counts = write_unknown_lines(sources, transcripts, target, length, normalize)
    click.echo(f"{target}: {counts.kept} lines; {counts.dropped} left out that occur in transcripts")
