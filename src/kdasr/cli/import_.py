"""`kdasr import icefall`, `kdasr import nemo`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdasr.cli.paths import InputPath, OutputFolder
from kdasr.common.errors import UserError
from kdasr.data.tokenizer import MODEL_NAME

if TYPE_CHECKING:
    from kdasr.interop.icefall import Imported


@click.group(name="import", short_help="Take over a trained model of another toolkit.")
def command() -> None:
    """Take over a trained model of another toolkit as an experiment folder."""


@command.command(name="icefall", short_help="A Zipformer2 transducer of icefall.")
@click.argument("checkpoint", metavar="CHECKPOINT", type=InputPath("checkpoint", dir_okay=False))
@click.option(
    "--tokens",
    required=True,
    type=InputPath(),
    help="Its language folder, with bpe.model; or the SentencePiece model itself.",
)
@click.option("--out", required=True, type=OutputFolder(), help="Experiment folder to write.")
@click.option(
    "--since",
    type=InputPath("checkpoint", dir_okay=False),
    help="An earlier epoch-N.pt: take the mean of the weights from it to CHECKPOINT, as icefall's "
    "--use-averaged-model does.",
)
@click.option("--causal", is_flag=True, help="Make a model for chunks of one that is not causal.")
@click.option("--left", type=click.IntRange(min=0), help="Left context that it runs under, in 40 ms.")
@click.option("--chunk", type=click.IntRange(min=1), help="Chunk that it runs under, in 40 ms.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of icefall's that the file does not hold, such as num_heads=4,4,4,8,4,4.",
)
def icefall(
    checkpoint: Path,
    tokens: Path,
    out: Path,
    since: Path | None,
    causal: bool,
    left: int | None,
    chunk: int | None,
    options: tuple[str, ...],
) -> None:
    """Take over a Zipformer2 transducer of icefall: pretrained.pt, epoch-N.pt or checkpoint-N.pt.

    The folder decodes, teaches and starts trainings like one that was trained here. A causal model runs
    under chunks of 320 ms with 2.56 s of left context, unless --left and --chunk say otherwise.
    """
    if (left is None) != (chunk is None):
        raise UserError("--left and --chunk: give both or neither")
    if tokens.is_dir() and not (tokens / MODEL_NAME).is_file():
        raise UserError(
            f"--tokens {tokens}: no {MODEL_NAME} there; expected the language folder that the model was "
            "trained with, such as data/lang_bpe_500 of icefall's recipe"
        )
    given = dict(_pair(option) for option in options)
    # Imported here, so that --help does not wait for torch.
    from kdasr.interop.icefall import ImportOptions, import_icefall
    from kdasr.nn.context import Context

    context = None if left is None or chunk is None else Context(left=left, chunk=chunk)
    imported = import_icefall(
        ImportOptions(
            checkpoint=checkpoint,
            tokens=tokens,
            out=out,
            since=since,
            options=given,
            causal=causal,
            context=context,
        )
    )
    for line in _summary(imported):
        click.echo(line)


@command.command(name="nemo", short_help="A FastConformer transducer of NeMo.")
@click.argument("checkpoint", metavar="FILE.nemo", type=InputPath("checkpoint", dir_okay=False))
@click.option("--out", required=True, type=OutputFolder(), help="Experiment folder to write.")
def nemo(checkpoint: Path, out: Path) -> None:
    """Take over a FastConformer transducer of NeMo: with an LSTM predictor and a SentencePiece model.

    The folder decodes whole recordings and teaches. It has features of its own; its students have ours.
    """
    # Imported here, so that --help does not wait for torch.
    from kdasr.interop.nemo import NemoOptions, import_nemo

    for line in _summary(import_nemo(NemoOptions(checkpoint=checkpoint, out=out))):
        click.echo(line)


def _pair(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals:
        raise UserError(f"--option {option}: expected NAME=VALUE")
    return name.strip().replace("-", "_"), value.strip()


def _summary(imported: "Imported") -> list[str]:
    encoder = imported.config.encoder
    lines = [
        f"imported {imported.num_parameters / 1e6:.2f} M parameters into {imported.path}",
        f"context: {imported.context}; encoder: {encoder}",
    ]
    if imported.unused:
        lines.append(f"not used: {len(imported.unused)} weights, such as {imported.unused[0]}")
    if imported.missing:
        lines.append(f"not in the checkpoint, set to 0: {', '.join(imported.missing)}")
    if imported.assumed:
        lines.append(f"assumed, as no weight tells: {', '.join(imported.assumed)}")
    return lines
