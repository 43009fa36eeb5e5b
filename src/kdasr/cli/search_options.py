"""Options of every command that recognizes: which search, and how the input ends."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from kdasr.cli.paths import InputPath
from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.bundle import Bundle
    from kdasr.decoding.search import SearchOptions
    from kdasr.nn.context import Context
    from kdasr.recognition.recognizer import StreamingRecognizer

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SEARCHES = ("greedy", "beam")
LM_SCALE = 0.3
LM_OPTIONS = ("lm", "lm_scale", "rescore", "word_bonus")
"""Those of `parse_language_model`, in its order."""


@dataclass(frozen=True)
class LanguageModelUse:
    """A language model, and what it does."""

    path: Path
    scale: float
    rescore: bool
    """Rescore the final list of hypotheses; else shallow fusion."""
    word_bonus: float | None = None
    """Nats for each word, in rescoring; None: hypotheses are compared by their score per piece."""
    tuned_on: tuple[str, ...] = ()
    """Parts on which scale and bonus were chosen."""


class _TailSeconds(click.ParamType):
    """`auto` (None) or seconds, 0 or more."""

    name = "auto|SECONDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value == "auto":
            return None
        return click.FloatRange(min=0).convert(value, param, ctx)


_NBEST = click.option(
    "--nbest",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="List so many hypotheses with their scores; beam search only.",
)

_OPTIONS = (
    click.option(
        "--tail-seconds",
        type=_TailSeconds(),
        default="auto",
        show_default=True,
        help="Silence decoded after the end of the input; auto: what front end and right context need.",
    ),
    click.option(
        "--search",
        type=click.Choice(SEARCHES),
        default="greedy",
        show_default=True,
        help="The best piece of every frame, or modified beam search.",
    ),
    click.option(
        "--beam",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="Hypotheses per stream; beam search only.",
    ),
    _NBEST,
    click.option(
        "--blank-penalty",
        type=float,
        default=0.0,
        show_default=True,
        help="Subtracted from the blank's logit, against deletions; besides what `kdasr calibrate` found.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        default=1.0,
        show_default=True,
        help="Divides the logits; beam search only.",
    ),
    click.option(
        "--biasing",
        type=InputPath("file of phrases"),
        help="Phrases to favor, one per line, optionally with a boost per piece after a tab; "
        "beam search only.",
    ),
    click.option(
        "--lm",
        type=InputPath(),
        help="Folder or checkpoint of a language model over the same pieces, or an n-gram over pieces or "
        "words (.arpa, .klm, .binary), for shallow fusion; with --rescore also text (.txt, .txt.gz), which "
        "stands for a word trigram of it. Beam search only.",
    ),
    click.option(
        "--lm-scale",
        type=float,
        help="Weight of the language model; in fusion, raise --blank-penalty with it.  "
        f"[default: {LM_SCALE}]",
    ),
    click.option(
        "--rescore",
        is_flag=True,
        help="The language model rescores the final hypotheses, instead of shallow fusion.",
    ),
    click.option(
        "--word-bonus",
        type=float,
        help="With --rescore: added for each word; the highest sum wins, not the highest score per piece.",
    ),
)


def search_options(command: CommandT) -> CommandT:
    """Give a command the options; it gets them as keyword arguments, for `build_recognizer`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def live_search_options(command: CommandT) -> CommandT:
    """The same without `--nbest`, which a server has no use for."""
    for option in reversed(_OPTIONS):
        if option is not _NBEST:
            command = option(command)
    return command


def needs(what: str, *names: str) -> None:
    """Refuse options that were given on the command line and would do nothing without `what`.

    Raises:
        UserError: naming the first of them.
    """
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UserError(f"--{name.replace('_', '-')} needs {what}")


def parse_language_model(
    lm: Path | None, lm_scale: float | None, rescore: bool, word_bonus: float | None
) -> LanguageModelUse | None:
    """What the options say of a language model.

    Raises:
        UserError: one of the others without `--lm`, a bonus without `--rescore`, or what is not finite.
    """
    if lm is not None:
        scale = LM_SCALE if lm_scale is None else lm_scale
        for name, value in (("--lm-scale", scale), ("--word-bonus", word_bonus or 0.0)):
            if not isfinite(value):
                raise UserError(f"{name} {value}: expected a finite number")
        if not rescore:
            needs("--rescore", "word_bonus")
        return LanguageModelUse(lm, scale, rescore, word_bonus)
    needs("--lm", "lm_scale", "rescore", "word_bonus")
    return None


def parse_search(
    search: str,
    beam: int,
    blank_penalty: float,
    temperature: float,
    language_model: LanguageModelUse | None,
) -> "SearchOptions":
    """The search that the options describe.

    Raises:
        UserError: an option that greedy search has no use for.
    """
    from kdasr.decoding.search import BeamOptions, GreedyOptions

    if search == "beam":
        scale = language_model.scale if language_model and not language_model.rescore else 0.0
        return BeamOptions(beam=beam, blank_penalty=blank_penalty, temperature=temperature, lm_scale=scale)
    needs("--search beam", "beam", "nbest", "temperature", "biasing", "lm")
    return GreedyOptions(blank_penalty=blank_penalty)


def build_recognizer(
    bundle: "Bundle",
    context: "Context | None",
    tail_seconds: float | None,
    search: "SearchOptions",
    biasing: Path | None,
    language_model: LanguageModelUse | None = None,
) -> "StreamingRecognizer":
    """The recognizer of a bundle with these options.

    Raises:
        UserError: see `read_phrases`, `BiasingGraph.from_phrases` and `load_language_model`.
    """
    from kdasr.decoding.biasing import BiasingGraph, read_phrases
    from kdasr.decoding.rescoring import Rescoring, WordBonus
    from kdasr.language_model.scorer import load_language_model, load_sentence_scorer
    from kdasr.recognition.recognizer import StreamingRecognizer

    graph = BiasingGraph.from_phrases(read_phrases(biasing), bundle.tokenizer) if biasing else None
    parts: dict[str, Any] = {
        "context": context,
        "tail_seconds": tail_seconds,
        "search": search,
        "biasing": graph,
    }
    if language_model is None:
        return StreamingRecognizer(bundle, **parts)
    place = (language_model.path, bundle.tokenizer, str(bundle.path))
    device = next(bundle.model.parameters()).device
    if not language_model.rescore:
        model = load_language_model(*place).to(device)
        return StreamingRecognizer(bundle, language_model=model, **parts)
    scorer = load_sentence_scorer(*place).to(device)
    bonus = None
    if language_model.word_bonus is not None:
        bonus = WordBonus(language_model.word_bonus, word_counter(bundle.tokenizer.decode))
    rescoring = Rescoring(scorer, language_model.scale, bonus)
    return StreamingRecognizer(bundle, language_model=rescoring, **parts)


def word_counter(decode: Callable[[list[int]], str]) -> Callable[[list[int]], int]:
    """How many words pieces spell."""
    from kdasr.data.text_normalization import split_words

    return lambda pieces: len(split_words(decode(pieces)))
