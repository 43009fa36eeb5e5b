"""`kdasr options`: what a recipe can say."""

from typing import TYPE_CHECKING

import click

from kdasr.common.errors import UserError

if TYPE_CHECKING:
    from kdasr.experiment.options import RecipeOption

HEAD = """# Every option of a recipe

Written by `kdasr options --markdown > docs/options.md`.

A dotted name is a path in the YAML file, and the key of `--override KEY=VALUE` (`kdasr train`; `kdasr prepare` and
`kdasr tokens` for the sections `data` and `text`). `0` stands for the number of an item in a list; `encoder[NAME]` has
the options of the encoder of that name. No shipped recipe sets an experimental option, and no measurement supports it;
it may be removed without a replacement.

Not listed: the section `results` of a study (`kdasr.study.results_config`), and recipes of language models
(`kdasr.language_model`: `TextConfig`, `LanguageModelConfig`)."""  # noqa: E501


@click.command()
@click.argument("words", nargs=-1)
@click.option("--markdown", is_flag=True, help="Tables, one per section, as in docs/options.md.")
def command(words: tuple[str, ...], markdown: bool) -> None:
    """List every option of a recipe with its range, default and meaning.

    With WORDS only those whose name or meaning holds one of them.
    """
    # Imported here, so that --help does not wait for torch.
    from kdasr.experiment.options import recipe_options

    options = recipe_options()
    found = [option for option in options if not words or any(_matches(option, word) for word in words)]
    if not found:
        raise UserError(f"no option has '{' or '.join(words)}' in its name or meaning")
    if markdown:
        click.echo(as_markdown(found))
        return
    for option in found:
        click.echo(f"{option.key} = {option.default}    ({option.kind})")
        if meaning := _meaning(option):
            click.echo(f"    {meaning}")


def as_markdown(options: "list[RecipeOption]") -> str:
    """The document with a table per section, one option per row."""
    lines, section = [HEAD], None
    for option in options:
        if (name := _section(option.key)) != section:
            section = name
            lines += ["", f"## {name}", "", "| option | may be | default | meaning |", "|---|---|---|---|"]
        cells = f"`{option.key}`", option.kind, f"`{option.default}`", _meaning(option)
        lines.append(f"| {' | '.join(cell.replace('|', ',') for cell in cells)} |".replace("  |", " |"))
    return "\n".join(lines)


def _section(key: str) -> str:
    names = key.split(".")
    return names[0].partition("[")[0] if len(names) > 1 else "experiment"


def _meaning(option: "RecipeOption") -> str:
    return f"Experimental. {option.meaning}" if option.experimental else option.meaning


def _matches(option: "RecipeOption", word: str) -> bool:
    return word.lower() in f"{option.key} {option.meaning}".lower()
