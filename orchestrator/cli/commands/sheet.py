"""`orchestrate sheet`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@click.argument("sweep", shell_complete=options.complete_sweep)
@click.option("--seed", default="", help="Training seed to show, or all; the first by default.")
@click.option("--px", type=click.IntRange(16, 1024), default=192, show_default=True, help="Side of an image in pixels.")
@click.option("--all-checkpoints", is_flag=True, help="Show all scored checkpoints and strengths.")
@options.output("image", ".png", ".jpg", ".jpeg", ".webp")
def sheet(settings_file: Path, sweep: str, seed: str, px: int, all_checkpoints: bool, out: Path | None) -> None:
    """Write a sweep's images as one PNG.

    Rows are configurations, columns are prompts and image seeds.

    \b
    Example:
      orchestrate sheet demo --px 128

    \b
    Writes:
      runs/SWEEP/report/sheet.png
    """
    from orchestrator.evidence import summary
    from orchestrator.report import sheet as sheets

    found = common.find_sweep(settings_file, sweep)
    path = out or found.report / sheets.NAME
    sheets.write(summary.read(found), path, px=px, seed=seed, variants=all_checkpoints)
    common.console().result(str(path))
