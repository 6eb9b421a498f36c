"""`orchestrate import`."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli import common


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
def import_preset(file: Path, folder: Path) -> None:
    """Convert a kohya_ss preset, a config file or a training script.

    Reads the GUI's .json, sd-scripts' .toml, and scripts that start sdxl_train_network.py.

    \b
    Example:
      orchestrate import preset.json

    \b
    Writes:
      NAME.settings.toml and NAME.toml in FOLDER, and a project if there is none
    """
    import shlex
    import tomllib

    from orchestrator.kohya import presets
    from orchestrator.kohya.arguments import schema
    from orchestrator.plan import import_project

    preset = presets.read(file, schema.read_snapshot())
    settings, grid = import_project.write(preset, file.stem, folder)
    console = common.console()
    for heading, changes in (("mapped", preset.mapped), ("dropped", preset.dropped)):
        console.message(f"{heading}:" if changes else f"nothing {heading}")
        for key, text in changes.items():
            console.message(f"  {key}: {text}")
    for path in (settings, grid):
        console.result(str(path))
    written = tomllib.loads(settings.read_text(encoding="utf-8"))["datasets"]
    for name, dataset in written.items():
        trigger = dataset["trigger"]
        console.message(f'Check datasets.{name}.trigger = "{trigger}": the captions and the prompts must contain it')
    console.message(f"Next: orchestrate plan {shlex.join(['--settings', str(settings), str(grid)])}")
