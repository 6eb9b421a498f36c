"""`orchestrate schema`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
def schema(folder: Path) -> None:
    """Write JSON schemas, so that editors complete settings and grids.

    Taplo and the editors that use it read `#:schema orchestrate.schema.json` in the first line of a TOML file.

    \b
    Example:
      orchestrate schema schemas

    \b
    Writes:
      FOLDER/orchestrate.schema.json, FOLDER/grid.schema.json
    """
    from orchestrator import files
    from orchestrator.config import json_schema
    from orchestrator.errors import InputError, Problem
    from orchestrator.kohya.arguments import schema as arguments

    for name, written in json_schema.schemas(arguments.read_snapshot().by_name).items():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.write_json(folder / name, written)
        except OSError as error:
            what, remedy = f"cannot be written: {error.strerror}", "name a folder that you can write to"
            raise InputError(Problem(what=what, where=str(folder / name), remedy=remedy)) from None
        common.console().result(str(folder / name))
