"""`orchestrate confirm`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.sweep
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="How many of the best runs.")
def confirm(settings_file: Path, sweep: str, top: int) -> None:
    """Score the best runs on new prompts or seeds.

    The score of the best of many runs is biased upwards. Quote its score on new images instead.

    \b
    Example:
      orchestrate confirm demo --top 1

    \b
    Writes:
      runs/SWEEP/RUN/confirm/  the new images
      runs/SWEEP/report/       confirm.csv, and the report again
    """
    from orchestrator.report import overview
    from orchestrator.report.followup import report_confirmations
    from orchestrator.run import followup
    from orchestrator.session import Session

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    best, used = followup.best_runs(found, top), common.load_settings(found, settings_file)
    plan = followup.plan(used, found, [one.run.point for one in best])
    session = Session(plan=plan, listener=console)
    finished = session.run_followup(lambda ctx: followup.prepare_confirmation(best, ctx))
    for line in report_confirmations(found):
        console.sentence(line)
    report = session.report()
    console.sentence(overview.next_step(report.summary))
    console.paths(report)
    common.leave(session.stop, finished)
