"""`orchestrate plan`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.final
@options.grid(required=False)
@options.name
@options.only
@options.json
def plan(settings_file: Path, grid_file: Path | None, name: str, only: str, as_json: bool, final_seeds: int) -> None:
    """List the runs of a grid with their time, VRAM and disk.

    With --only, also print the configuration file of the first selected training.

    \b
    Example:
      orchestrate plan grids/sweep-v3.toml
      orchestrate plan grids/sweep-v3.toml --only "network_dim=16*"

    Writes nothing and starts nothing.
    """
    from orchestrator.cli import tables
    from orchestrator.plan import forecast
    from orchestrator.plan import plan as planning
    from orchestrator.report import json_output
    from orchestrator.session import Session

    console = common.console()
    session = Session.open(settings_file, grid_file, name, final_seeds=final_seeds)
    costs = session.forecast(only)
    most = replace(session, plan=session.plan.with_all_seeds()).forecast(only) if session.plan.later else None
    shortage = forecast.shortage(costs)
    source = click.get_current_context().get_parameter_source("only")
    toml = "" if source is click.core.ParameterSource.DEFAULT else planning.example(session.plan, only)
    if as_json:
        console.result(json_output.plan(costs, [*session.plan.warnings, *shortage], toml, session.plan.replaced, most))
        return
    console.problems(session.plan.warnings)
    console.page(tables.plan(costs, session.plan.questions, session.plan.replaced))
    if most and session.plan.design:
        console.sentence(tables.rounds(costs, most, session.plan.design))
    if missing := [*session.missing(), *shortage]:
        console.sentence("\nBefore `orchestrate run` (remedies: `orchestrate check`):")
        for problem in missing:
            place = "" if problem.where == str(session.settings.path) else Path(problem.where).name
            console.sentence(f"  {': '.join(filter(None, (problem.key, place, problem.what)))}")
    if toml:
        console.result("\n" + toml)
