"""`orchestrate probe`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.grid()
@options.only
@options.retry
def probe(settings_file: Path, grid_file: Path, only: str, retry: str | None) -> None:
    """Measure VRAM and speed with 20 training steps per memory profile.

    `orchestrate plan` then uses the measured values instead of estimates.

    \b
    Example:
      orchestrate probe grids/demo.toml

    \b
    Writes:
      runs/.probe/  logs and measurements, kept for later plans
    """
    from orchestrator.cli import tables
    from orchestrator.session import Session

    console = common.console()
    session = Session.open(settings_file, grid_file, listener=console)
    for profile in session.forecast(only).profiles:
        console.message(f"{profile.key}: {tables.label(profile.settings) or 'all'}")
    failed = session.probe(only, retry=retry is not None)
    console.page(tables.profiles(session.forecast(only, probes_first=True)))
    common.leave(session.stop, not failed)
