"""`orchestrate open`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command("open")
@options.settings
@options.sweep
def open_report(settings_file: Path, sweep: str) -> None:
    """Open the report of a sweep in the browser.

    Prints the path of the page; without a display that is all.

    \b
    Example:
      orchestrate open demo

    Writes nothing.
    """
    from orchestrator.errors import NothingSelected, Problem
    from orchestrator.report import html

    found = common.find_sweep(settings_file, sweep)
    page = found.report / html.PAGE
    if not page.exists():
        remedy = f"`orchestrate report {found.name}` writes it"
        raise NothingSelected(Problem(what="there is no report yet", where=str(page), remedy=remedy))
    common.console().result(str(page))
    _show(page)


def _show(page: Path) -> None:
    """In the browser of Windows under WSL, else in that of the display or of $BROWSER; without one do nothing."""
    import os
    import platform
    import shutil
    import subprocess
    import webbrowser

    explorer = shutil.which("explorer.exe") if "microsoft" in platform.release().lower() else None
    if explorer:
        converted = subprocess.run(["wslpath", "-w", str(page)], capture_output=True, text=True, check=True)
        subprocess.run([explorer, converted.stdout.strip()], check=False)  # it exits with 1 whatever happens
    elif any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")):
        webbrowser.open(page.as_uri())
