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
@click.option(
    "--colocate",
    "at_once",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Also train N at once on one GPU, for the forecast of a sweep with `vram.colocate`.",
)
@click.option(
    "--speed",
    is_flag=True,
    help="Compare options that do not change the mathematics, in short trainings of the first run, and recommend some.",
)
def probe(settings_file: Path, grid_file: Path, only: str, retry: str | None, at_once: int, speed: bool) -> None:
    """Measure VRAM and speed with 20 steps per memory profile.

    `orchestrate plan` then uses the measured values instead of estimates.

    \b
    Example:
      orchestrate probe grids/sweep-v3.toml
      orchestrate probe grids/sweep-v3.toml --colocate 3
      orchestrate probe grids/sweep-v3.toml --speed

    \b
    Writes:
      runs/.probe/  logs and measurements, kept for later plans
      runs/.speed/  the same of --speed
    """
    from orchestrator.cli import tables
    from orchestrator.session import Session
    from orchestrator.text import pluralize

    console = common.console()
    session = Session.open(settings_file, grid_file, listener=console)
    if speed:
        if at_once > 1:
            raise click.UsageError("--speed cannot be combined with --colocate: it measures one training at a time")
        found = session.probe_speed(only, retry=retry is not None)
        console.page(tables.speeds(found, session.settings))
        common.leave(session.stop, bool(found.speeds) and not found.best.failure)
    profiles = [tables.label(profile.settings) or "all" for profile in session.forecast(only).profiles]
    console.message(f"{pluralize(len(profiles), 'memory profile')}: {'; '.join(profiles)}")
    failed = session.probe(only, retry=retry is not None, at_once=at_once)
    console.page(tables.profiles(session.forecast(only, probes_first=True)))
    common.leave(session.stop, not failed)
