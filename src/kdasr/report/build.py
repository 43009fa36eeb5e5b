"""From experiment folders to a report folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdasr.common.logging import get_logger
from kdasr.report.contexts import context_rows, contexts_plot, write_contexts_json
from kdasr.report.curves import training_plot
from kdasr.report.examples import choose_examples, load_spectrograms
from kdasr.report.experiment import read_experiments
from kdasr.report.headline import Headline, headline, origin
from kdasr.report.latency_parts import first_token_parts_plot
from kdasr.report.long_form import LongFormRow, long_form_rows
from kdasr.report.long_form_plot import gap_plot, minutes_plot
from kdasr.report.notes import Note
from kdasr.report.page import PageContent, write_page
from kdasr.report.plots import Plot, latency_plot, trade_off_plot, wer_plot
from kdasr.report.records import SystemRecord
from kdasr.report.reliability_plot import reliability_plot
from kdasr.report.results import PairedGain, ResultRow, comparisons, part_names, result_rows
from kdasr.report.roles import Roles, roles_of
from kdasr.report.status import collect_notes, require_decoded
from kdasr.report.style import Styles, save_png, system_styles
from kdasr.report.tables import write_comparisons_json, write_results_csv, write_results_json
from kdasr.report.timeline import MAX_SYSTEMS, timeline_plot

log = get_logger(__name__)


@dataclass(frozen=True)
class Results:
    """What experiment folders say, before anything is drawn."""

    folders: list[Path]
    systems: list[SystemRecord]
    roles: Roles
    rows: list[ResultRow]
    comparisons: list[PairedGain]
    notes: list[Note]
    contexts: list[ResultRow]
    """Systems that were decoded under several contexts, a row for each and part."""
    long_form: list[LongFormRow]
    """Utterances joined into streams, a row per system, part and condition."""

    @property
    def headline(self) -> Headline:
        """The main finding."""
        origins = {system.name: origin(system) for system in self.systems}
        return headline(self.comparisons, part_names(self.rows), self.roles.method, origins)


def collect_results(folders: Sequence[Path]) -> Results:
    """Read experiment folders (of system folders) or folders of single systems, and compare the systems.

    Raises:
        UserError: a folder is missing, nothing has been decoded, or a file cannot be read.
    """
    folders = [Path(folder) for folder in folders]
    systems = read_experiments(folders)
    roles = roles_of(systems)
    by_name = {system.name: system for system in systems}
    systems = [by_name[name] for name in roles.order(list(by_name))]
    require_decoded(systems, folders)
    rows, long_form = result_rows(systems), long_form_rows(systems)
    return Results(
        folders,
        systems,
        roles,
        rows,
        comparisons(systems, roles),
        collect_notes(systems, roles, rows, long_form, folders),
        context_rows(systems),
        long_form,
    )


def write_report(results: Results, data_dir: Path | None = None, out_dir: Path | None = None) -> Path:
    """Write `results.json`, `comparisons.json`, `results.csv`, `index.html` and a PNG of every plot.

    Args:
        results: what to report.
        data_dir: the prepared data, for spectrograms; None: the folder that the systems were trained on.
        out_dir: None: `report` in the first experiment folder.

    Returns:
        The folder that was written.
    """
    out_dir = out_dir or results.folders[0] / "report"
    write_results_json(results.rows, results.long_form, out_dir / "results.json", results.contexts)
    write_comparisons_json(results.comparisons, out_dir / "comparisons.json")
    write_results_csv(results.rows, out_dir / "results.csv")
    if results.contexts:
        write_contexts_json(results.contexts, out_dir / "contexts.json")
    data_dir = data_dir or _training_data(results.systems)
    styles = system_styles([system.name for system in results.systems], results.roles.named)
    timelines, rule, problems = _draw_examples(results, styles, data_dir)
    plots = _draw_plots(results, styles)
    for plot in (*plots, *timelines):
        save_png(plot.figure, out_dir / f"{plot.name}.png")
    content = PageContent(
        folders=results.folders,
        systems=results.systems,
        styles=styles,
        roles=results.roles,
        rows=results.rows,
        comparisons=results.comparisons,
        contexts=results.contexts,
        long_form=results.long_form,
        headline=results.headline,
        notes=results.notes,
        plots=plots,
        examples=timelines,
        example_rule=rule,
        example_notes=problems,
        data_dir=data_dir,
    )
    write_page(content, out_dir / "index.html")
    return out_dir


def _draw_plots(results: Results, styles: Styles) -> list[Plot]:
    drawn = [
        wer_plot(results.rows, styles),
        latency_plot(results.systems, results.rows, styles),
        first_token_parts_plot(results.systems, results.rows, styles),
        trade_off_plot(results.rows, styles),
        contexts_plot(results.contexts, styles),
        gap_plot(results.long_form, styles),
        minutes_plot(results.long_form, styles),
        reliability_plot(results.rows, styles),
        training_plot(results.systems, styles),
    ]
    return [plot for plot in drawn if plot is not None]


def _draw_examples(
    results: Results, styles: Styles, data_dir: Path | None
) -> tuple[list[Plot], str, list[str]]:
    """Timelines of a few utterances, the rule that chose them, and what is missing from them."""
    examples, rule = choose_examples(results.systems, results.roles.pairs())
    spectrograms, problems = load_spectrograms(data_dir, examples)
    for problem in problems:
        log.warning(problem)
    shown = _shown_systems(results)
    timelines = [
        timeline_plot(
            f"timeline-{index}", example, shown, styles, spectrograms.get((example.part, example.id))
        )
        for index, example in enumerate(examples, start=1)
    ]
    return timelines, rule, problems


def _shown_systems(results: Results) -> list[SystemRecord]:
    """For timelines: those that play a part, or the first few where none does."""
    decoded = [system for system in results.systems if system.parts]
    named = [system for system in decoded if system.name in results.roles.named]
    return (named or decoded)[:MAX_SYSTEMS]


def _training_data(systems: Sequence[SystemRecord]) -> Path | None:
    """The data folder named in the systems' configurations, if it is still there."""
    named = {str((system.config.get("data") or {}).get("dir") or "") for system in systems}
    return next((Path(name) for name in sorted(named) if name and Path(name).is_dir()), None)
