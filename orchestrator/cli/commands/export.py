"""`orchestrate export`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.sweep
@click.option("--run", "pattern", metavar="GLOB", default="", help="The run's name or id. Default: the best run.")
def export(settings_file: Path, sweep: str, pattern: str) -> None:
    """Copy the best LoRA, a model card and a workflow into a folder.

    \b
    Example:
      orchestrate export demo

    \b
    Writes:
      runs/SWEEP/export/NAME/  LoRA, model card, workflow, prompt, samples
    """
    from orchestrator.evidence import summary
    from orchestrator.model import RUNNABLE
    from orchestrator.report import export as exporting
    from orchestrator.text import pluralize

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    read = summary.read(found)
    console.problems(read.problems)
    chosen = exporting.choose(summary.rank_runs(read.runs), pattern, found)
    paths = exporting.export(chosen, read, common.load_settings(found, settings_file))
    for path in paths:
        console.result(str(path))
    for sentence in exporting.loading(paths[0], chosen):
        console.message(f"note: {sentence}")
    waiting = sum(one.status.state in RUNNABLE for one in read.runs)
    if waiting and not pattern:
        console.message(
            f"note: {waiting} of {pluralize(len(read.runs), 'run')} have no result yet, and one may be better"
        )
