"""The command line: parse options, call the session, map errors to exit codes.

Command modules import the rest of the package inside their functions, so that `--help` stays fast.
"""

import click

import orchestrator
from orchestrator.cli import common
from orchestrator.cli.commands import (
    adopt,
    answer,
    bug_report,
    calibrate,
    check,
    completion,
    confirm,
    dataset,
    demo,
    export,
    import_preset,
    init,
    list,
    next,
    open,
    plan,
    probe,
    prune,
    report,
    results,
    run,
    schema,
    score,
    sheet,
    status,
    transfer,
    vote,
)


@click.group(cls=common.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(orchestrator.__version__)
def main() -> None:
    """Run hyperparameter sweeps over kohya sd-scripts and report face similarity."""


common.add_section(
    main,
    "Prepare",
    init.init,
    import_preset.import_preset,
    demo.demo,
    schema.schema,
    check.check,
    calibrate.calibrate,
    dataset.dataset,
    plan.plan,
    probe.probe,
    completion.completion,
)
common.add_section(main, "Run", run.run, status.status)
common.add_section(
    main,
    "View results",
    list.list_sweeps,
    results.results,
    report.report,
    open.open_report,
    answer.answer,
    sheet.sheet,
    score.score,
    vote.vote,
    bug_report.bug_report,
)
common.add_section(
    main,
    "Use the best LoRA",
    adopt.adopt,
    next.next_steps,
    confirm.confirm,
    transfer.transfer,
    export.export,
    prune.prune,
)
