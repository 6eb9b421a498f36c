"""`orchestrate status`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from orchestrator.cli import common, options

_INTERVAL_S = 1.0


@click.command()
@options.settings
@options.sweep
@options.json
@click.option("--watch", is_flag=True, help="Keep showing it until the sweep ends.")
def status(settings_file: Path, sweep: str, as_json: bool, watch: bool) -> None:
    """Show the state and progress of the runs of a sweep.

    \b
    Example:
      orchestrate status demo
      orchestrate status demo --watch

    Writes nothing.
    """
    from orchestrator.model import RUNNABLE
    from orchestrator.report import json_output
    from orchestrator.report import status as view

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    if watch:
        from orchestrator.config import settings
        from orchestrator.run import followup
        from orchestrator.session import Session

        used = settings.load(common.settings_of(found, settings_file))
        plan = followup.plan(used, found, [run.point for run in found.runs()])
        with console.live(found, Session(plan=plan).forecast):
            while found.is_locked():
                time.sleep(_INTERVAL_S)
    now = view.read_status(found)
    if as_json:
        console.result(json_output.status(now))
    else:
        console.table(now)
        if not found.is_locked() and any(row.status.state in RUNNABLE for row in now.rows):
            console.sentence(f"\n{view.resume_hint(found.name, found.grid_file())}")
