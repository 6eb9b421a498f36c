"""`orchestrate adopt`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import common, options

if TYPE_CHECKING:
    from orchestrator.cli.console import Console
    from orchestrator.evidence.summary import SweepSummary
    from orchestrator.report.adoption import Decision


@click.command()
@options.settings
@options.sweep
@click.option("--at-a-cost", is_flag=True, help='Also adopt the answers "yes, at a cost".')
@click.option("--yes", is_flag=True, help="Change the file without asking.")
def adopt(settings_file: Path, sweep: str, at_a_cost: bool, yes: bool) -> None:
    """Put the answers of a sweep into the settings.

    Shows the change for each decided answer and asks before it changes the file. "Yes" selects the second value of a
    question, "no" the first one. Arguments that the grid changed with it follow. Without a terminal and without --yes
    it only shows the changes.

    \b
    Example:
      orchestrate adopt demo
      orchestrate adopt demo --yes

    \b
    Writes:
      orchestrate.toml, and the previous file as orchestrate.toml.bak
    """
    import sys

    from orchestrator import files
    from orchestrator.config import settings, settings_edit
    from orchestrator.errors import InputError, Problem
    from orchestrator.evidence import summary
    from orchestrator.report import adoption, answers

    console, found = common.console(), common.find_sweep(settings_file, sweep)
    settings_file = common.settings_of(found, settings_file)
    used = settings.load(settings_file)
    read = summary.read(found, used.comparison)
    if name := adoption.foreign(read, used):
        what, remedy = (
            f"the sweep {found.name} uses {name}, which is not in these settings",
            "use --settings FILE of that sweep",
        )
        raise InputError(Problem(what=what, where=str(settings_file), remedy=remedy))
    console.problems(read.problems)
    if not read.questions:
        console.message(f"the grid of {found.name} asks no question, so there is nothing to adopt")
        return
    before = text = files.read_bytes(settings_file).decode("utf-8")
    asks = not yes and sys.stdin.isatty()
    for one in adoption.decide(read.questions, answers.answer_questions([read])[0], at_a_cost=at_a_cost):
        edited = _show(console, one, read, settings_file, text)
        if edited != text and (not asks or click.confirm(f"Adopt {one.ids}?", err=True)):
            text = edited
        console.result("")
    if text == before:
        console.message("nothing to change")
    elif yes or asks:
        backup = settings_edit.save(settings_file, before, text)
        console.message(f"changed {settings_file}; the previous file is {backup.name}")
    else:
        console.message("nothing is changed yet: repeat with --yes")


def _show(console: Console, one: Decision, read: SweepSummary, path: Path, text: str) -> str:
    """Print the answers of a decision and the change of the settings. Returns the changed text of the settings file."""
    import difflib

    from rich.markup import escape

    from orchestrator.errors import InputError
    from orchestrator.report import adoption

    for answer in one.answers:
        console.page(escape(f"{answer.id}: {answer.verdict}. {answer.sentence}"))
    if one.reason:
        console.page(escape(f"unchanged: {one.reason}"))
        return text
    try:
        edit = adoption.apply(one, read, path, text)
    except InputError as error:
        console.result("unchanged: with this change the settings would have errors")
        console.problems(error.problems)
        return text
    if edit.text == text:
        console.result(f"unchanged: the settings have {one.dim} = {adoption.shown(one.value)}")
    else:
        names = (path.name, f"{path.name} with {one.ids}")
        old, new = text.splitlines(), edit.text.splitlines()
        console.result("\n".join(difflib.unified_diff(old, new, *names, n=2, lineterm="")))
    for note in edit.notes:
        console.page(escape(note))
    return edit.text
