"""`orchestrate run`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.final
@options.grid(required=False)
@options.name
@options.only
@options.retry
@click.option("--fail-fast", is_flag=True, help="Start nothing more after the first failed run.")
@click.option("--cluster", metavar="ADDRESS", default="", help="Run on the machines of this Ray cluster.")
def run(
    settings_file: Path,
    grid_file: Path | None,
    name: str,
    only: str,
    retry: str | None,
    fail_fast: bool,
    cluster: str,
    final_seeds: int,
) -> None:
    """Train, generate, score and report the runs of a grid.

    Run the same command again to resume an interrupted sweep. Finished runs are not repeated.

    With --final it trains the settings alone with several seeds, selects a seed and a checkpoint, confirms them on new
    images, exports the LoRA and prints the similarity to quote.

    \b
    Example:
      orchestrate run grids/sweep-v3.toml
      orchestrate run --final

    \b
    Writes:
      runs/NAME/RUN/     configuration, logs, checkpoints and images of each run
      runs/NAME/report/  report.html, results.csv and images.csv
      runs/NAME/export/  with --final: the LoRA, as `orchestrate export`
    """
    from orchestrator.model import State
    from orchestrator.session import Session

    if final_seeds and only != "*":
        raise click.UsageError("--final selects among all seeds: leave out --only.")
    console = common.console(final=final_seeds > 0)
    session = Session.open(settings_file, grid_file, name, final_seeds=final_seeds, listener=console)
    ended = session.run(only, retry=retry is not None, fail_fast=fail_fast, cluster=cluster)
    finished = all(status.state in (State.FINISHED, State.STOPPED) for status in ended.values())
    if final_seeds and finished:
        made = session.finalize()
        finished = made is not None
        if made:
            console.paths(session.report())
            for path in made.files:
                console.result(str(path))
            console.sentence(made.sentence)
    common.leave(session.stop, finished)
