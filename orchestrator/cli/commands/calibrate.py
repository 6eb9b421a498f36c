"""`orchestrate calibrate`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common, options


@click.command()
@options.settings
@click.option("--pairs", type=click.Path(path_type=Path, dir_okay=False), help="Known good pairs: TOML or CSV.")
@click.option(
    "--impostors", type=click.Path(path_type=Path, file_okay=False), multiple=True, help="Photos of other people."
)
@click.option("--against", metavar="SWEEP", multiple=True, help="Use its baseline images as photos of other people.")
@click.option(
    "--allow-training-references",
    is_flag=True,
    help="Accept references that are training images, and mark all results.",
)
def calibrate(
    settings_file: Path,
    pairs: Path | None,
    impostors: tuple[Path, ...],
    against: tuple[str, ...],
    allow_training_references: bool,
) -> None:
    """Compute the pass threshold from the reference photos.

    \b
    Example:
      orchestrate calibrate
      orchestrate calibrate --impostors other-people/

    \b
    Writes:
      runs/calibration.json  read by every report
      runs/calibration.svg   the distributions as a figure
    """
    from orchestrator.config import settings
    from orchestrator.evidence.calibration import inputs, measure, plot, record, text
    from orchestrator.store import layout

    loaded, console = settings.load(settings_file), common.console()
    request = measure.CalibrationRequest(
        pairs=inputs.read_pairs(pairs) if pairs else (),
        impostors=inputs.impostor_images(impostors),
        baselines=inputs.baseline_images(common.find_sweep(settings_file, name) for name in against),
        allow_training_references=allow_training_references,
    )
    calibration, path = measure.measure(loaded, request), layout.calibration(loaded.runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write(path, calibration)
    plot.draw(calibration, path.with_suffix(".svg"))
    for line in text.format_lines(calibration):
        console.sentence(line)
    console.result(str(path))
