"""`orchestrate demo`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="runs")
@click.pass_context
def demo(context: click.Context, folder: Path) -> None:
    """Run a whole sweep on a miniature of SDXL, without a GPU.

    Draws a persona, calibrates the pass threshold on its photos, trains two ranks with four seeds each, and reports.
    Run it again to resume.

    \b
    Example:
      orchestrate demo

    \b
    Writes:
      FOLDER/.miniature/  the persona, base model and settings
      FOLDER/demo/        the sweep and its report
    """
    from dataclasses import replace

    from orchestrator.cli.commands import calibrate, run
    from orchestrator.config import project
    from orchestrator.errors import Conflict, NotReady, Problem
    from orchestrator.store import layout

    try:
        from orchestrator.miniature import world
    except ImportError as error:
        remedy = "install it: `pip install 'lora-orchestrator[miniature]'`"
        raise NotReady(Problem(what=f"the miniature needs {error.name}", remedy=remedy)) from None
    settings, console = folder / ".miniature" / "orchestrate.toml", common.console()
    if not settings.exists():
        console.message(f"drawing photos of a persona into {settings.parent}")
    world.write(settings.parent, runs=folder)
    if not layout.calibration(folder).exists():
        console.message("calibrating the pass threshold on the reference photos")
        context.invoke(calibrate.calibrate, settings_file=settings)
    grid = str(project.shipped("grids/demo.toml"))
    try:
        run.run.main(["--settings", str(settings), grid], standalone_mode=False)
    except Conflict as error:
        if not any("--name" in one.remedy for one in error.problems):
            raise
        remedy = f"delete {folder / 'demo'}, or name another folder: `orchestrate demo FOLDER`"
        raise Conflict(*(replace(one, remedy=remedy) for one in error.problems)) from None  # orchestrate was updated
