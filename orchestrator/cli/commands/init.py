"""`orchestrate init`."""

from pathlib import Path

import click

from orchestrator.cli import common


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--yes", is_flag=True, help="Use the defaults and ask nothing.")
def init(folder: Path, yes: bool) -> None:
    """Create a project: settings, grids, templates and folders.

    Asks for the trigger and paths on a terminal. Existing files are kept.

    \b
    Example:
      orchestrate init my-persona

    \b
    Writes:
      FOLDER/, by default the current one: orchestrate.toml, .gitignore,
      grids/, templates/, persona/
    """
    import shlex
    import sys

    from orchestrator.config import project

    project.require_new(folder)
    values = project.defaults()
    if not yes and sys.stdin.isatty():
        values = {key: click.prompt(question, values[key]) for key, question in project.QUESTIONS.items()}
    for path in project.create(folder, values):
        common.console().result(str(path))
    where = "" if folder == Path() else f"cd {shlex.quote(str(folder))}; "
    click.echo(f"Next: {where}orchestrate plan grids/sweep-v3.toml", err=True)
