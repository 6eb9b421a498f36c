"""`orchestrate next`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command("next")
@options.settings
@click.argument("grids", nargs=-1, metavar="[GRID...]", type=click.Path(path_type=Path, dir_okay=False))
def next_steps(settings_file: Path, grids: tuple[Path, ...]) -> None:
    """List the open questions with their cost, and what to run next.

    Reads grids/*.toml beside the settings except demo*.toml, or the named grids. A question that has
    `after = ["Q1"]` waits until Q1 is decided. Questions with answers are adopted first.

    \b
    Example:
      orchestrate next

    Writes nothing.
    """
    from rich.markup import escape

    from orchestrator.cli import tables
    from orchestrator.report import open_questions
    from orchestrator.session import Session

    console = common.console()
    own = common.own_grids(settings_file)
    found = open_questions.agenda(settings_file, grids or own, lambda plan: Session(plan=plan).forecast())
    if found.grids:
        console.page(tables.open_questions(found.grids))
    for path, problems in found.invalid:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        console.page(escape(f"{path} cannot be planned: {problems[0].what}{more}"))
    for line in tables.next_commands(found, common.settings_option()):
        console.result(line)
