"""`orchestrate list`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command("list")
@options.settings
@options.json
def list_sweeps(settings_file: Path, as_json: bool) -> None:
    """List all sweeps with their state, best configuration and size.

    \b
    Example:
      orchestrate list

    Writes nothing.
    """
    from orchestrator.cli import results_table
    from orchestrator.config import settings
    from orchestrator.report import json_output, sweep_list

    console, runs = common.console(), settings.load(settings_file).runs
    found = sweep_list.sweeps(runs)
    if as_json:
        console.result(json_output.sweeps(found))
    elif found:
        console.page(results_table.sweeps(found))
    else:
        console.message(f"no sweep in {runs} yet; `{common.run_command(common.own_grids(settings_file))}` makes one")
