"""`kdasr prepare`: check a corpus of any kind, then write manifests and features."""

from pathlib import Path

import click

from kdasr.cli.bad_audio import max_bad_option
from kdasr.cli.data_options import data_sections, override_option
from kdasr.cli.paths import InputPath, OutputFolder
from kdasr.common.errors import UserError
from kdasr.common.logging import setup_logging
from kdasr.common.ranks import Ranks


@click.command(name="prepare")
@click.option("--corpus", help="Kind of corpus.  [default: cuts with --cuts, else librispeech]")
@click.option(
    "--corpus-dir",
    type=click.Path(path_type=Path),
    help="Folder of the corpus; librispeech: with the parts, <part>/<speaker>/<chapter>/<id>.flac.",
)
@click.option(
    "--alignments-dir",
    type=click.Path(path_type=Path),
    help="librispeech: LibriSpeech-Alignments folder with word times; optional, also part by part.",
)
@click.option(
    "--cuts",
    multiple=True,
    metavar="PART=PLACE",
    help="Lhotse cuts of a part: a manifest (.jsonl, .jsonl.gz) or a Shar folder. Several: repeat it.",
)
@click.option(
    "--parts",
    default="",
    help="Parts to prepare, separated by spaces or commas.  [default: with --cuts, all]",
)
@click.option("--train-parts", help="Parts to train on.  [default: the parts whose name starts with 'train']")
@click.option("--out", "out_dir", type=OutputFolder(), required=True, help="Data folder to write.")
@click.option(
    "--speed", help="Speed factors of the copies in training parts.  [default: the recipe's, or 0.9,1.0,1.1]"
)
@click.option(
    "--config",
    "config_path",
    type=InputPath("configuration file"),
    help="Recipe file whose data section says speed factors and whether features are stored.",
)
@override_option
@click.option(
    "--normalize",
    help="How all text is written: none, upper, lower, words, upper-words. [default: the recipe's, or as is]",
)
@click.option("--on-the-fly", is_flag=True, help="Store no features: training computes them from the audio.")
@max_bad_option
@click.option(
    "--empty-transcripts",
    type=click.Choice(["leave-out", "keep"]),
    default="leave-out",
    show_default=True,
    help="What becomes of utterances in which nothing is said.",
)
@click.option("--jobs", default=1, show_default=True, help="Worker processes.")
def command(
    corpus: str | None,
    corpus_dir: Path | None,
    alignments_dir: Path | None,
    cuts: tuple[str, ...],
    parts: str,
    train_parts: str | None,
    out_dir: Path,
    speed: str | None,
    config_path: Path | None,
    overrides: tuple[str, ...],
    normalize: str | None,
    on_the_fly: bool,
    max_bad: str,
    empty_transcripts: str,
    jobs: int,
) -> None:
    """Check a corpus and write manifests and features.

    A corpus is a folder in LibriSpeech's layout (--corpus-dir), or Lhotse cuts of any recipe (--cuts).

    What is missing is said before anything is computed. Parts that are already prepared with the same
    settings from the same files are skipped; an interrupted part goes on where it was. Audio that cannot be
    decoded, or holds samples that are not finite, costs its utterance: OUT/bad-<part>.tsv lists them.

    Several processes share the utterances: torchrun --standalone --nproc-per-node N --no-python kdasr prepare
    ... On one machine, --jobs does the same.
    """
    from kdasr.corpora.prepare import PrepareOptions, prepare_corpus
    from kdasr.data.bad import MaxBad

    ranks = Ranks.of_environment()
    setup_logging(is_first=ranks.is_first)
    if corpus is None and corpus_dir is None and not cuts:
        raise UserError("what is to be prepared? Give --corpus-dir, or --cuts PART=FILE_OR_FOLDER")
    if corpus_dir is not None and cuts:
        raise UserError("--corpus-dir and --cuts: give one of them")
    recipe = data_sections(config_path, overrides)
    if normalize is None:
        normalize = recipe.text.normalize
    prepare_corpus(
        PrepareOptions(
            corpus_dir=corpus_dir,
            alignments_dir=alignments_dir,
            parts=_words(parts),
            train_parts=None if train_parts is None else _words(train_parts),
            out_dir=out_dir,
            speeds=recipe.data.speed_perturbation if speed is None else _speeds(speed),
            on_the_fly=on_the_fly or recipe.data.on_the_fly,
            jobs=jobs,
            max_bad=MaxBad.parse(max_bad),
            keep_empty=empty_transcripts == "keep",
            corpus=corpus,
            cuts=parse_places(cuts),
            normalize=normalize,
            ranks=ranks,
        )
    )


def parse_places(cuts: tuple[str, ...]) -> dict[str, list[Path]]:
    """The places of `part=place ...`, by part; several options may name one part.

    Raises:
        UserError: another form, or nothing there.
    """
    places: dict[str, list[Path]] = {}
    for item in cuts:
        part, equals, place = item.partition("=")
        if not (part.strip() and equals and place.strip()):
            raise UserError(f"--cuts {item}: expected PART=FILE_OR_FOLDER, such as train=cuts.jsonl.gz")
        path = Path(place.strip())
        if not path.exists():
            raise UserError(f"--cuts {part.strip()}={path}: no such file or folder")
        places.setdefault(part.strip(), []).append(path)
    return places


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _speeds(text: str) -> list[float]:
    try:
        return [float(word) for word in _words(text)]
    except ValueError:
        raise UserError(f"--speed: expected factors such as 0.9,1.0,1.1, found '{text}'") from None
