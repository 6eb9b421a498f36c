"""The command line: parse, call, map errors to exit codes. Each command imports its own rooms when it is run."""

import click

import orchestrator
from orchestrator.cli import common, files, findings, sweeps


@click.group(cls=common.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(orchestrator.__version__)
def main() -> None:
    """Sweeps over kohya sd-scripts: one grid file in, trained LoRAs, face similarity and one CSV report out."""


for command in (
    *(sweeps.run, sweeps.plan, sweeps.check, sweeps.probe, sweeps.status, sweeps.report, sweeps.init),
    *(findings.calibrate, findings.answer, findings.confirm, findings.transfer),
    *(files.dataset, files.export, files.prune),
):
    main.add_command(command)
