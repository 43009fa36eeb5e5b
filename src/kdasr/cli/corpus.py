"""`kdasr corpus`: a corpus in LibriSpeech's layout, synthesized or downloaded."""

import importlib.util
import os
import tarfile
import time
import zipfile
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdasr.cli.paths import OutputFolder
from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.corpora.synthetic.corpus import Summary

SIZE_NAMES = ("tiny", "demo", "results", "lpm", "base", "large")


@click.group()
def command() -> None:
    """Synthesize or download a corpus in LibriSpeech's layout."""


@command.command()
@click.option(
    "--size",
    type=click.Choice(SIZE_NAMES),
    default="demo",
    show_default=True,
    help="Hours of speech: tiny 0.1, demo 1.5, results and lpm 5, base 20, large 100.",
)
@click.option("--out", type=OutputFolder(), required=True, help="Folder to write the corpus into.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Another seed, another corpus."
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=os.cpu_count() or 1,
    show_default="all cores",
    help="Processes.",
)
@click.option("--parts", default="", help="Only these parts, separated by spaces or commas.")
@click.option("--speakers", type=click.IntRange(min=1), help="Speakers of each of these parts.")
def synthetic(size: str, out: Path, seed: int, jobs: int, parts: str, speakers: int | None) -> None:
    """Synthesize speech with espeak-ng.

    OUT gets LibriSpeech/PART/SPEAKER/CHAPTER/*.flac with transcripts, LibriSpeech-Alignments/ with word
    times, and librispeech-lm-norm.txt with text for language models. The same size and seed give the same
    bytes, whatever the number of jobs. An interrupted run goes on where it stopped.

    More speech to test on, by speakers that no model has heard: --parts "test-clean test-other" --speakers 40
    with another --seed.
    """
    from kdasr.corpora.synthetic.corpus import Summary, generate_corpus
    from kdasr.corpora.synthetic.sizes import SIZES

    chosen = SIZES[size]
    if parts or speakers:
        chosen = chosen.only(parts.replace(",", " ").split() or list(chosen.parts), speakers)
    started = time.perf_counter()
    summary = None
    with click.progressbar(length=1, label=f"Synthesizing '{size}'", show_pos=True) as bar:
        for event in generate_corpus(chosen, out, seed, jobs):
            if isinstance(event, Summary):
                summary = event
            else:
                bar.length = event[1]
                bar.update(event[0] - bar.pos)
    assert summary is not None
    _print_summary(summary, out, time.perf_counter() - started, jobs)


@command.command()
@click.option(
    "--size", type=click.Choice(SIZE_NAMES), default="demo", show_default=True, help="Size of the corpus."
)
@click.option("--sentences", type=click.IntRange(min=1), required=True, help="Number of them.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The file; gzipped if it ends in .gz."
)
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True, help="Seed of the corpus.")
def text(size: str, sentences: int, out: Path, seed: int) -> None:
    """Write sentences for language models, more of them than a synthetic corpus brings.

    They are drawn as those of the corpus of this size and seed are, and none is a transcript of any of its
    parts. The file begins with the corpus's own librispeech-lm-norm.txt.
    """
    import gzip

    from kdasr.common.files import atomic_path
    from kdasr.corpora.synthetic.plan import lm_sentences, make_plan
    from kdasr.corpora.synthetic.sizes import SIZES

    lines = (f"{sentence}\n" for sentence in lm_sentences(make_plan(SIZES[size], seed), sentences))
    with atomic_path(out) as temporary:
        if out.suffix == ".gz":
            with gzip.open(temporary, "wt", encoding="utf-8") as packed:
                packed.writelines(lines)
        else:
            with temporary.open("w", encoding="utf-8") as file:
                file.writelines(lines)
    click.echo(f"{out}: {sentences} sentences")


def _print_summary(summary: "Summary", out: Path, elapsed: float, jobs: int) -> None:
    for part, counts in summary.parts.items():
        click.echo(
            f"{part:<16} {counts['speakers']:>4.0f} speakers {counts['utterances']:>6.0f} utterances"
            f" {counts['hours'] * 60:>8.1f} min"
        )
    if summary.new_seconds:
        speed = summary.new_seconds / elapsed
        click.echo(
            f"{out}: {summary.seconds:.0f} s of audio; {summary.new_seconds:.0f} s made in {elapsed:.1f} s,"
            f" {speed:.0f} times faster than real time with {jobs} jobs"
        )
    else:
        click.echo(f"{out}: {summary.seconds:.0f} s of audio, there already")


@command.command()
@click.option("--out", type=OutputFolder(), required=True, help="Folder to download and unpack into.")
@click.option(
    "--parts",
    default="train-clean-100 dev-clean dev-other test-clean test-other",
    show_default=True,
    help="LibriSpeech's part names, separated by spaces or commas.",
)
@click.option(
    "--alignments/--no-alignments",
    default=True,
    show_default=True,
    help="Word alignments too; they come through gdown: pip install gdown.",
)
def librispeech(out: Path, parts: str, alignments: bool) -> None:
    """Download LibriSpeech and its word alignments through Lhotse.

    Parts that are there already are skipped. (Panayotov et al., ICASSP 2015)
    """
    from lhotse.recipes.librispeech import LIBRISPEECH, MINI_LIBRISPEECH, download_librispeech

    names = parts.replace(",", " ").split()
    for name in names:
        if name not in (*LIBRISPEECH, *MINI_LIBRISPEECH):
            raise UserError(f"no part of LibriSpeech is called '{name}'; parts: {' '.join(LIBRISPEECH)}")
    if alignments and importlib.util.find_spec("gdown") is None:
        raise UserError("word alignments come through gdown: pip install gdown, or pass --no-alignments")
    try:
        folder = download_librispeech(out, dataset_parts=names, alignments=alignments)
    except (OSError, HTTPException, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UserError(f"{out}: the download of LibriSpeech failed, run it again: {error}") from None
    click.echo(f"{folder}: {' '.join(names)}")
