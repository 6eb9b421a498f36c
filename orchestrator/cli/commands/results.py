"""`orchestrate results`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.sweep
@click.option(
    "--by", type=click.Choice(["config", "run"]), default="config", show_default=True, help="One row for each."
)
@click.option("--sort", metavar="COLUMN", default="", help="Highest first; -COLUMN: lowest first. Default: best first.")
@click.option(
    "--columns", metavar="A,B,...", default="", help="These columns of results.csv, or headings of the table."
)
@options.json
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def results(settings_file: Path, sweep: str, by: str, sort: str, columns: str, as_json: bool, as_csv: bool) -> None:
    """Show the results of a sweep, best first.

    A configuration is a setting with all its seeds; its row has the means over them. Without options, the summary that
    `orchestrate run` ends with.

    \b
    Example:
      orchestrate results demo
      orchestrate results demo --by run --columns run,gain,train_s --sort train_s
      orchestrate results demo --csv

    Writes nothing.
    """
    from orchestrator.cli import results_table
    from orchestrator.config import settings
    from orchestrator.evidence import summary
    from orchestrator.report import answers, json_output, results_csv, results_view
    from orchestrator.report import labels as report_labels

    if as_json and as_csv:
        raise click.UsageError("Choose one of --json and --csv.")
    console, found = common.console(), common.find_sweep(settings_file, sweep)
    read = summary.read(found, settings.load(common.settings_of(found, settings_file)).comparison)
    console.problems(read.problems)
    named = [results_table.column(name.strip()) for name in columns.split(",") if name.strip()]
    key = results_table.column(sort.strip())
    frame = results_view.select(results_view.table(read, by), named, key, results_table.HEADINGS.values())
    if as_json:
        console.result(json_output.results(read.sweep.name, by, frame))
    elif as_csv:
        console.result(results_csv.text(frame).rstrip())
    elif by == "config" and not named and not sort:
        console.page(results_table.summary(read, answers.answer_questions([read])[0], running=found.is_locked()))
    else:
        labels = None if named else report_labels.labels([run.run.point for run in read.runs])
        console.page(results_table.table(frame, named or results_table.default_columns(read, by), labels))
