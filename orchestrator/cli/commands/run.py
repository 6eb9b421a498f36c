"""`orchestrate run`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.grid()
@options.name
@options.only
@options.retry
@click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failed run.")
@click.option("--cluster", metavar="ADDRESS", default="", help="Run on the machines of this Ray cluster.")
def run(
    settings_file: Path, grid_file: Path, name: str, only: str, retry: str | None, fail_fast: bool, cluster: str
) -> None:
    """Train, generate, score and report the runs of a grid.

    Run the same command again to resume an interrupted sweep. Finished runs are not repeated.

    \b
    Example:
      orchestrate run grids/demo.toml

    \b
    Writes:
      runs/NAME/RUN/     configuration, logs, checkpoints and images of each run
      runs/NAME/report/  report.html, results.csv and images.csv
    """
    from orchestrator.model import State
    from orchestrator.session import Session

    session = Session.open(settings_file, grid_file, name, listener=common.console())
    ended = session.run(only, retry=retry is not None, fail_fast=fail_fast, cluster=cluster)
    common.leave(session.stop, all(status.state in (State.FINISHED, State.STOPPED) for status in ended.values()))
