"""`orchestrate check`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.grid(required=False)
@click.option("--deep", is_flag=True, help="sd-scripts reads each configuration and its dataset. Needs a grid.")
@options.json
def check(settings_file: Path, grid_file: Path | None, deep: bool, as_json: bool) -> None:
    """Check this machine, the settings and the images.

    Loads the trainer's libraries and the face pack. With a grid, also checks what its runs need.

    \b
    Example:
      orchestrate check
      orchestrate check grids/sweep-v3.toml
      orchestrate check --deep grids/sweep-v3.toml

    Writes nothing except cached faces and, with --deep, datasets below runs/. Exit code 4: not ready.
    """
    from orchestrator import gpu
    from orchestrator.cli import tables
    from orchestrator.config import settings
    from orchestrator.errors import NotReady, errors_of
    from orchestrator.plan import check as checks
    from orchestrator.report import json_output
    from orchestrator.session import Session

    console = common.console()
    if deep and not grid_file:
        raise click.UsageError("--deep needs a grid: `orchestrate check --deep grids/sweep-v3.toml`.")
    if grid_file:
        found = Session.open(settings_file, grid_file).check(deep=deep)
    else:
        found = checks.inspect(settings.load(settings_file), gpu.Nvml())
    ready = not errors_of(found.problems)
    if as_json:
        console.result(json_output.check(found, ready=ready))
    else:
        console.problems(found.problems)
        console.page(tables.facts(found))
        console.result("ready" if ready else "not ready")
    sys.exit(0 if ready else NotReady.exit_code)
