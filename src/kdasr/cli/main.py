"""The `kdasr` command: one verb per file, imported only when it is used."""

import importlib
import os
import sys
from keyword import iskeyword
from typing import Any

import click

from kdasr import __version__
from kdasr.common.errors import UserError
from kdasr.common.failures import explain
from kdasr.common.signals import use_signal_stack

VERBS = {
    "corpus": "Synthesize or download a corpus in LibriSpeech's layout.",
    "label": "Labels for speech without transcripts, by Whisper or any other recognizer.",
    "prepare": "Check a corpus and write manifests and features.",
    "align": "Word times by a teacher, for corpora without alignments.",
    "tokens": "Train the SentencePiece model on the training transcripts.",
    "text": "Text for a language model, without the transcripts of some parts.",
    "import": "Take over a trained model of icefall or NeMo.",
    "train": "Train one system of a recipe, stage by stage.",
    "distill": "An offline teacher in, an exported streaming student out.",
    "average": "Average the last checkpoints of an experiment.",
    "calibrate": "Choose the blank penalty and calibrate confidence on dev parts.",
    "decode": "Decode test parts, offline or as simulated streams, with WER and latency.",
    "latency": "Word errors and latency of other toolkits' results, from word times.",
    "results": "Train and compare every row of a recipe, with several seeds.",
    "export": "Export a student for sherpa-onnx, and check the export with it.",
    "stream": "Recognize audio files chunk by chunk, printing partial results.",
    "serve": "Serve live streams to sherpa-onnx's clients and to a web page with a microphone.",
    "options": "Every option of a recipe: its range, default and meaning.",
    "jobs": "Run a list of jobs, several side by side, each with a log.",
    "report": "Tables, plots and one HTML page from experiment folders.",
    "info": "Versions, devices and the loss backend in use.",
}

SHARED = ("label", "prepare", "train", "decode")
"""Verbs whose work several processes share out."""


class LazyGroup(click.Group):
    """A group whose subcommands are modules of `kdasr.cli`, so that `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        return importlib.import_module(f"kdasr.cli.{module}").command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A verb that several processes would do several times is refused below torchrun."""
        found = super().resolve_command(ctx, args)
        count = os.environ.get("WORLD_SIZE", "1")
        if count != "1" and found[0] not in SHARED:
            raise UserError(
                f"kdasr {found[0]}: {count} processes were started (WORLD_SIZE) for what one does: start it "
                f"without torchrun. {', '.join(SHARED[:-1])} and {SHARED[-1]} are shared out"
            )
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. A full disk, missing rights or memory are the user's to mend, in one line."""
        try:
            return super().invoke(ctx)
        except UserError:
            raise
        except (OSError, MemoryError, RuntimeError) as error:
            message = explain(error)
            if message is None:
                raise
            raise UserError(message) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands, in the order of a recipe"):
            formatter.write_dl(list(VERBS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdasr")
def cli() -> None:
    """Distill a full-context transducer recognizer (the teacher) into a streaming one (the student)."""


def main() -> None:
    """Run the command line; a `UserError` is one line on stderr and exit status 1."""
    use_signal_stack()
    try:
        cli()
    except UserError as error:
        click.echo(f"kdasr: error: {error}", err=True)
        sys.exit(1)
