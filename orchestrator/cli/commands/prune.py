"""`orchestrate prune`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@options.sweep
@click.option("--keep-best", type=click.IntRange(min=0), help="Keep everything of this many best runs.")
@click.option("--dropped", is_flag=True, help="Delete the runs that are no longer in the grid.")
@click.option("--yes", is_flag=True, help="Delete the files. Without it they are only listed.")
def prune(settings_file: Path, sweep: str, keep_best: int | None, dropped: bool, yes: bool) -> None:
    """Delete files that no report needs.

    These are unselected checkpoints and training states, or runs that are no longer in the grid.

    With --keep-best, reports, records, images and the selected checkpoint of every run stay. With --dropped, folders
    of runs that are no longer in the grid are deleted completely.

    \b
    Example:
      orchestrate prune demo --keep-best 1
      orchestrate prune demo --keep-best 1 --yes
      orchestrate prune demo --dropped

    Writes nothing. With --yes it deletes the listed files and folders.
    """
    from orchestrator.evidence import summary
    from orchestrator.report import prune as pruning

    if keep_best is None and not dropped:
        raise click.UsageError("name what to delete: --keep-best N, --dropped, or both")
    console, found = common.console(), common.find_sweep(settings_file, sweep)
    with found.lock():
        files = pruning.find_dropped(found) if dropped else []
        if keep_best is not None:
            files += pruning.find_prunable(summary.rank_runs(summary.gather(found)), keep_best)
        for one in files:
            console.result(f"{one.size / 1e6:10.1f} MB  {one.path.relative_to(found.path)}")
        if yes:
            pruning.remove(files)
    total = f"{len(files)} files and folders, {sum(one.size for one in files) / 1e9:.2f} GB"
    if not files:
        console.message("there is nothing to delete")
        return
    console.message(f"deleted {total}" if yes else f"would delete {total}; repeat with --yes to delete them")
