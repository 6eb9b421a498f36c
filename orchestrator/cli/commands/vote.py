"""`orchestrate vote`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from orchestrator.cli import common, options

_COUNT = click.IntRange(0, 1000)


@click.command()
@options.settings
@options.sweep
@click.option("--best", type=click.IntRange(2, 20), default=3, show_default=True, help="Configurations to compare.")
@click.option("--pairs", type=_COUNT, default=60, show_default=True, help="Pairs of images; some are shown twice.")
@click.option("--singles", type=_COUNT, default=40, show_default=True, help="Single images: would you publish this?")
@click.option("--import", "files", metavar="FILE", type=Path, multiple=True, help="Import votes that a page saved.")
def vote(settings_file: Path, sweep: str, best: int, pairs: int, singles: int, files: tuple[Path, ...]) -> None:
    """Compare configurations by blind votes of people.

    The page shows images of the best configurations without names, and works offline. Send it to voters, then import
    the files that it saves. Votes never change a score; `results` and the report show them as separate evidence.

    \b
    Example:
      orchestrate vote demo
      orchestrate vote demo --import votes-1a2b3c4d-5e6f7a8b.json

    \b
    Writes:
      runs/SWEEP/votes/BALLOT/  vote.html to send; ballot.json, its key, to keep
      runs/SWEEP/report/        with --import: the report and votes.csv
    """
    from orchestrator.config import settings
    from orchestrator.evidence import ballot, summary, vote_design, votes
    from orchestrator.report import files as report_files
    from orchestrator.report import vote_page
    from orchestrator.report import votes as report

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    used = settings.load(common.settings_of(found, settings_file))
    if not files:
        read = summary.read(found)
        design, is_new = vote_design.design(read, best=best, pairs=pairs, singles=singles)
        if is_new:
            ballot.write(found, design)
        console.result(str(vote_page.write(read, design)))
        return
    for path in files:
        sheet, is_new = ballot.import_sheet(found, path)
        state = "imported" if is_new else "already imported"
        console.sentence(f"{path}: {state}, {len(sheet.answers)} answered by {sheet.voter}")
    written = report_files.write(found, {**os.environ, **used.trainer.env}, comparison=used.comparison)
    for line in report.sentences(votes.evaluate(written.summary)):
        console.sentence(line)
    console.paths(written)
