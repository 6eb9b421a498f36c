"""`orchestrate transfer`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.sweep
@click.option("--to", "base", metavar="BASE", required=True, help="The base model to generate the images with.")
@options.only
def transfer(settings_file: Path, sweep: str, base: str, only: str) -> None:
    """Score the LoRAs of a sweep on another base model.

    \b
    Example:
      orchestrate transfer sweep-v3 --to juggernautxl-v9

    \b
    Writes:
      runs/SWEEP/RUN/on/  the new images
      runs/SWEEP/report/  transfer.csv
    """
    from orchestrator.report.followup import TRANSFER, report_transfers
    from orchestrator.run import followup
    from orchestrator.session import Session

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    loaded = common.load_settings(found, settings_file)
    chosen = followup.transferable_runs(found, base, only, loaded)
    gpus = Session(
        plan=followup.plan(loaded, found, followup.transfer_points(chosen, base)), listener=console
    ).preflight()
    session = Session(plan=followup.plan(loaded, found, [one.run.point for one in chosen]), listener=console)
    finished = session.run_followup(lambda ctx: followup.prepare_transfer(chosen, base, found, ctx), gpus)
    for line in report_transfers(found, loaded.comparison):
        console.sentence(line)
    console.result(str(found.report / TRANSFER))
    common.leave(session.stop, finished)
