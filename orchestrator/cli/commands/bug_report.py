"""`orchestrate bug-report`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command("bug-report")
@options.settings
@options.sweep
@options.output("archive")
def bug_report(settings_file: Path, sweep: str, out: Path | None) -> None:
    """Write one redacted archive of a sweep for an issue tracker.

    It contains versions, the GPU, settings, records, and the last log lines of failed attempts. It contains no images,
    triggers, captions, prompts, secrets or home directories. Read it before you publish it.

    \b
    Example:
      orchestrate bug-report demo

    \b
    Writes:
      bug-report-SWEEP.tar.gz in the current folder
    """
    import os

    from orchestrator.config import settings
    from orchestrator.gpu import Nvml
    from orchestrator.report import bug_report as archive

    found = common.find_sweep(settings_file, sweep)
    settings_file = common.settings_of(found, settings_file)
    path = out or Path(f"bug-report-{found.name}.tar.gz")
    archive.write(path, found, settings_file, settings.load(settings_file), Nvml(), os.environ)
    common.console().result(str(path))
