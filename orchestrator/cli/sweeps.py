"""The commands of a sweep: before the night, through it, and after."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator import session
from orchestrator.cli import common, options
from orchestrator.errors import NotReady, errors_of

if TYPE_CHECKING:
    from orchestrator.plan.forecast import Forecast
    from orchestrator.plan.plan import Plan

_LOOK_S, _RENEW_S = 1.0, 10.0
"""Between two looks at a sweep that is watched, and between two of its reports."""


@click.command()
@options.settings
@options.grid
@options.name
@options.only
@click.option("--retry", type=click.Choice(["failed"]), help="Give failed runs another attempt.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first run that fails.")
@click.option("--cluster", metavar="ADDRESS", help="Run on the machines of this Ray cluster (docs/cluster.md).")
def run(
    settings_file: Path, grid_file: Path, name: str, only: str, retry: str | None, fail_fast: bool, cluster: str | None
) -> None:
    """Train, generate, score and report what the grid asks for; what is done already is not done again."""
    from orchestrator.plan import plan
    from orchestrator.report import status as view
    from orchestrator.run import sweep

    console = common.console()
    asked = plan.read(settings_file, grid_file, name)
    console.problems(asked.warnings)
    runs = asked.runs(only)
    cards = session.ready(asked, console, cluster)
    with asked.sweep.lock(), session.hold(asked.sweep, cards, asked.settings) as held:
        ctx = session.context(asked, held, console)
        session.on_signals(ctx.stop)
        with console.live(lambda: view.read_status(asked.sweep)), session.told(ctx, asked.sweep, console) as telling:
            try:
                with session.team(asked, runs, telling, held, cluster) as team:
                    session.on_signals(ctx.stop)
                    sweep.run_sweep_on(team, runs, telling, retry=retry is not None, fail_fast=fail_fast)
            finally:
                session.name_report(asked, console)
    if ctx.stop:
        sys.exit(common.INTERRUPTED)
    sys.exit(session.failed(asked, only))


@click.command()
@options.settings
@options.grid
@options.name
@options.only
@options.json
def plan(settings_file: Path, grid_file: Path, name: str, only: str, as_json: bool) -> None:
    """Show every run, why it would run, and what it costs; with --only also the first one's TOML. Starts nothing."""
    from orchestrator.cli import tables
    from orchestrator.plan import forecast
    from orchestrator.plan import plan as planning

    console = common.console()
    asked = planning.read(settings_file, grid_file, name)
    told = _forecast(asked, only)
    warnings = [*asked.warnings, *forecast.shortage(told)]
    toml = planning.example(asked, only) if only != "*" else ""
    if as_json:
        console.result(tables.as_json(told, warnings, toml))
        return
    console.problems(warnings)
    console.page(tables.page(told, asked.questions))
    if toml:
        console.result("\n" + toml)


@click.command()
@options.settings
@click.option("--grid", "grid_file", type=click.Path(path_type=Path, dir_okay=False), help="What this grid needs.")
@options.json
def check(settings_file: Path, grid_file: Path | None, as_json: bool) -> None:
    """Is this machine ready: what is missing, and how to get it. Tries the trainer's libraries and the face pack."""
    from orchestrator import gpu
    from orchestrator.cli import tables
    from orchestrator.config import settings
    from orchestrator.plan import check as inspection
    from orchestrator.plan import plan

    console = common.console()
    asked = plan.read(settings_file, grid_file) if grid_file else None
    used = asked.settings if asked else settings.load(settings_file)
    found = inspection.inspect(used, gpu.Nvml(), asked)
    ready = not errors_of(found.problems)
    if as_json:
        console.result(tables.inspection_json(found, ready=ready))
    else:
        console.problems(found.problems)
        console.page(tables.facts(found))
        console.result("ready" if ready else "not ready")
    sys.exit(0 if ready else NotReady.exit_code)


@click.command()
@options.settings
@options.grid
@options.only
@click.option("--retry", type=click.Choice(["failed"]), help="Give failed probes another attempt.")
def probe(settings_file: Path, grid_file: Path, only: str, retry: str | None) -> None:
    """Train 20 steps of every memory profile in the grid: peak VRAM and seconds per step, for `plan`."""
    from orchestrator.cli import tables
    from orchestrator.plan import plan
    from orchestrator.run import probe as probing
    from orchestrator.store import layout

    console = common.console()
    asked = plan.read(settings_file, grid_file)
    console.problems(asked.warnings)
    probes = probing.wanted(asked, only)
    for profile in _forecast(asked, only).profiles:
        console.say(f"{profile.key}: {tables.label(profile.settings) or 'all'}")
    cards = session.ready(asked, console)
    kept = layout.probe_sweep(asked.settings.runs)
    with kept.lock(), session.hold(kept, cards, asked.settings) as held:
        ctx = session.context(asked, held, console, frozen=False)
        session.on_signals(ctx.stop)
        probing.run_probe(probes, ctx, retry=retry is not None)
    console.page(tables.profiles(_forecast(asked, only)))
    if ctx.stop:
        sys.exit(common.INTERRUPTED)
    sys.exit(1 if probing.failed(probes) else 0)


@click.command()
@options.settings
@click.argument("sweep")
@options.json
@click.option("--watch", is_flag=True, help="Go on showing it until nobody drives it any more.")
def status(settings_file: Path, sweep: str, as_json: bool, watch: bool) -> None:
    """How far a sweep is."""
    from orchestrator.report import status as view

    console, named = common.console(), common.sweep_named(settings_file, sweep)
    if watch:
        with console.live(lambda: view.read_status(named)):
            while named.is_locked():
                time.sleep(_LOOK_S)
    seen = view.read_status(named)
    if as_json:
        console.result(view.as_json(seen))
    else:
        console.table(seen)


@click.command()
@options.settings
@click.argument("sweep")
@click.option("--watch", is_flag=True, help="Go on renewing it until nobody drives the sweep any more.")
def report(settings_file: Path, sweep: str, watch: bool) -> None:
    """Write the report of a sweep anew, finished or not: report.html, results.csv and images.csv."""
    from orchestrator.config import settings

    console, named, used = common.console(), common.sweep_named(settings_file, sweep), settings.load(settings_file)
    session.write_report(named, used, console)
    while watch and named.is_locked():
        time.sleep(_RENEW_S)
        session.write_report(named, used, console)


@click.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False), default="orchestrate.toml")
def init(path: Path) -> None:
    """Write a commented settings file to start from."""
    from orchestrator.config import settings

    settings.init(path)
    common.console().result(str(path))


def _forecast(asked: Plan, only: str) -> Forecast:
    """On this machine's cards, if there are any."""
    from orchestrator import gpu
    from orchestrator.plan import forecast, preflight

    cards = preflight.choose_cards(gpu.Nvml().cards(), asked.settings.vram.card)
    sizes = [card.total_mib / 1024 for card in cards]
    return forecast.forecast(asked.sweep, asked.runs(only), asked.settings, prompts=len(asked.prompts), cards_gib=sizes)
