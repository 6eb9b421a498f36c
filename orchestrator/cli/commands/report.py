"""`orchestrate report`."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import click

from orchestrator.cli import common, options

_INTERVAL_S = 10.0


@click.command()
@options.settings
@options.sweep
@click.option("--watch", is_flag=True, help="Keep rewriting it until the sweep ends.")
def report(settings_file: Path, sweep: str, watch: bool) -> None:
    """Write the report of a sweep again.

    The sweep need not be finished. The last line printed is the path of results.csv.

    \b
    Example:
      orchestrate report demo

    \b
    Writes:
      runs/SWEEP/report/  report.html, results.csv and images.csv
    """
    from orchestrator.config import settings
    from orchestrator.report import files

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    used = settings.load(common.settings_of(found, settings_file))
    write = partial(files.write, found, {**os.environ, **used.trainer.env}, comparison=used.comparison)
    console.paths(write())
    while watch and found.is_locked():
        time.sleep(_INTERVAL_S)
        console.paths(write())
