"""`orchestrate dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import common, options
from orchestrator.errors import InputError, NotReady, Problem, errors_of

if TYPE_CHECKING:
    from orchestrator.config.schema import Dataset, Settings


@click.group(cls=common.Commands)
def dataset() -> None:
    """Build a dataset from its recipe, or show a built one.

    \b
    Example:
      orchestrate dataset build face-crop
      orchestrate dataset show face-crop
    """


@dataset.command()
@options.settings
@options.seed
@click.argument("name")
def build(settings_file: Path, seed: int, name: str) -> None:
    """Build a dataset, unless it exists, and show it.

    \b
    Example:
      orchestrate dataset build face-crop

    \b
    Writes:
      runs/.datasets/  pictures, captions, dataset.json and a contact sheet
    """
    from orchestrator.config import settings
    from orchestrator.datasets import prepare, validate, with_ancestors
    from orchestrator.store.hashes import HashCache

    loaded = settings.load(settings_file)
    chosen, problems = _dataset(loaded, name, seed), []
    for one in with_ancestors([name], loaded.datasets):
        problems += validate.validate_dataset(loaded.datasets[one], str(settings_file))
    if errors_of(problems):
        raise NotReady(*problems)
    common.console().problems(problems)
    _show(prepare.build(chosen, loaded, HashCache(loaded.runs)).folder.parent)


@dataset.command()
@options.settings
@options.seed
@click.argument("name")
def show(settings_file: Path, seed: int, name: str) -> None:
    """Show the pictures of a built dataset.

    Prints a table of the pictures, what was dropped and why, and the path of the contact sheet.

    \b
    Example:
      orchestrate dataset show face-crop

    \b
    Writes:
      runs/.datasets/  the contact sheet
    """
    from orchestrator.config import settings
    from orchestrator.datasets import prepare
    from orchestrator.store.hashes import HashCache

    loaded = settings.load(settings_file)
    folder = prepare.folder_of(_dataset(loaded, name, seed), loaded, HashCache(loaded.runs))
    if not (folder / "dataset.json").exists():
        what = f'dataset "{name}" is not built with its present recipe and pictures'
        raise InputError(
            Problem(what=what, where=str(folder), remedy=f"`orchestrate dataset build {name} --seed {seed}`")
        )
    _show(folder)


def _dataset(settings: Settings, name: str, seed: int) -> Dataset:
    from orchestrator import datasets

    if name not in settings.datasets:
        known = ", ".join(settings.datasets) or "none yet"
        what = f'there is no dataset "{name}"'
        raise InputError(Problem(what=what, where=str(settings.path), remedy=f"known datasets: {known}"))
    return datasets.dataset_for_point({"dataset": name, "seed": seed}, settings.datasets)


def _show(folder: Path) -> None:
    """Print the table of a dataset's folder; the last line is the path of the contact sheet."""
    from orchestrator.cli import dataset_table
    from orchestrator.datasets import contact_sheet
    from orchestrator.store import records

    console, record = common.console(), records.read(folder / "dataset.json")
    console.page(dataset_table.page(record))
    console.result(str(contact_sheet.write(folder, record)))
