"""`orchestrate score`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@click.option(
    "--images", "folder", type=click.Path(path_type=Path), required=True, help="Images of any generator; only read."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Write the results here instead.")
def score(settings_file: Path, folder: Path, out: Path | None) -> None:
    """Score existing images.

    They are scored as a sweep's images are: with the face pack, references and calibration of the settings.

    \b
    Example:
      orchestrate score --images other-people/

    \b
    Writes:
      runs/.scores/NAME-HASH/images.csv   a row for each image
      runs/.scores/NAME-HASH/scores.html  the images with their similarity
    """
    from orchestrator.config import settings
    from orchestrator.evidence import image_folder
    from orchestrator.report import image_folder as folder_report

    console, loaded = common.console(), settings.load(settings_file)
    target = folder_report.output_folder(loaded, folder, out)
    found = image_folder.score(loaded, folder)
    console.problems(found.problems)
    paths = folder_report.write(found, target)
    for line in [*folder_report.sentences(found), *map(str, paths)]:
        console.result(line)
