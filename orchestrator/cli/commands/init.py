"""`orchestrate init`."""

from pathlib import Path

import click

from orchestrator.cli import common


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="orchestrate.toml")
def init(path: Path) -> None:
    """Write a commented settings file.

    \b
    Example:
      orchestrate init

    \b
    Writes:
      PATH, by default orchestrate.toml; an existing file is not overwritten
    """
    from orchestrator.config import settings

    settings.init(path)
    common.console().result(str(path))
