"""`kdasr report`: tables, plots and one page from experiment folders."""

from pathlib import Path

import click

from kdasr.cli.paths import EXPERIMENT, ExperimentPath, OutputFolder


@click.command()
@click.argument("experiments", metavar="EXP...", nargs=-1, required=True, type=ExperimentPath(EXPERIMENT))
@click.option(
    "--data",
    metavar="DATA",
    type=click.Path(path_type=Path),  # where it is gone, the report lacks spectrograms and says so
    help="Prepared data folder, for the spectrograms; default: the one that the systems were trained on.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=OutputFolder(),
    help="Where to write; default: report/ in the first EXP.",
)
def command(experiments: tuple[Path, ...], data: Path | None, out: Path | None) -> None:
    """Compare decoded systems: a table here, and results.json, results.csv and index.html in a folder.

    EXP is an experiment folder, which holds a folder per system (teacher, streaming, streaming-init,
    two-stage and any other), or the folder of one system. Decode the systems first (kdasr decode); what
    is missing or unfinished is listed in the report, and so are files that an older version of kdasr wrote:
    what they lack is shown as –.
    """
    # The plotting library is only loaded when a report is made, so that --help stays quick.
    from kdasr.common.logging import setup_logging
    from kdasr.report.build import collect_results, write_report
    from kdasr.report.tables import print_tables

    setup_logging()
    results = collect_results(experiments)
    folder = write_report(results, data, out)
    print_tables(results.rows, results.comparisons, results.long_form)
    click.echo(results.headline.lead)
    if results.headline.detail:
        click.echo(results.headline.detail)
    for note in results.notes:
        click.echo(f"Note: {note.subject}: {note.text}" + (f"\n      {note.command}" if note.command else ""))
    click.echo(f"Report: {folder / 'index.html'}")
