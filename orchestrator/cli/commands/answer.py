"""`orchestrate answer`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@click.argument("sweeps", nargs=-1, required=True, metavar="SWEEP...", shell_complete=options.complete_sweep)
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Insert the answers into this page.")
@click.option(
    "--smallest",
    type=click.FloatRange(min=0),
    default=0.02,
    show_default=True,
    help="The smallest difference in similarity that matters.",
)
@click.option("--verbose", is_flag=True, help="Print the test statistics too; the files always contain them.")
@options.json
def answer(
    settings_file: Path, sweeps: tuple[str, ...], into: Path | None, smallest: float, verbose: bool, as_json: bool
) -> None:
    """Answer the questions of sweeps.

    The answers of several sweeps are corrected together for multiple comparisons.

    \b
    Example:
      orchestrate answer demo
      orchestrate answer demo --json

    \b
    Writes:
      runs/SWEEP/report/  answers.md and answers.csv
    """
    from orchestrator.config import settings
    from orchestrator.evidence import summary
    from orchestrator.evidence.stats.contrast import TestSettings
    from orchestrator.report import answers, answers_page, json_output
    from orchestrator.report.answers import answer as answer_text

    console, found = common.console(), list(dict.fromkeys(common.find_sweep(settings_file, name) for name in sweeps))
    comparison = settings.load(settings_file).comparison
    read = [summary.read(sweep, comparison) for sweep in found]
    console.problems(dict.fromkeys(problem for one in read for problem in one.problems))
    answered = answers.answer_questions(read, TestSettings(smallest=smallest))
    for sweep, of_sweep in zip(found, answered, strict=True):
        answer_text.write(sweep.report, of_sweep)
        if not as_json:
            console.sentence(answer_text.markdown(of_sweep, details=verbose))
    if as_json:
        console.result(json_output.answers(one for of_sweep in answered for one in of_sweep))
    if into:
        console.problems(answers_page.update(into, answer_text.blocks(answered)))
