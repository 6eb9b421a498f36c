"""The commands of what lies on the disk: datasets to look at, winners to take home, checkpoints to let go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli import common, options
from orchestrator.errors import InputError, NotReady, Problem, errors_of

if TYPE_CHECKING:
    from orchestrator.cli.console import Console
    from orchestrator.config.schema import Dataset, Settings


@click.group(cls=common.Commands)
def dataset() -> None:
    """Make a dataset of the settings, or look at it: every picture, and why others are not there."""


@dataset.command("build")
@options.settings
@options.seed
@click.argument("name")
def build_dataset(settings_file: Path, seed: int, name: str) -> None:
    """Build a dataset, unless it is there, and show it."""
    from orchestrator.config import settings
    from orchestrator.datasets import prepare
    from orchestrator.store.hashes import HashCache

    used, console = settings.load(settings_file), common.console()
    asked = _dataset(used, name, seed)
    names = prepare.with_ancestors([name], used.datasets)
    problems = [
        problem for one in names for problem in prepare.validate_dataset(used.datasets[one], str(settings_file))
    ]
    if errors_of(problems):
        raise NotReady(*problems)
    console.problems(problems)
    _show_dataset(prepare.build(asked, used, HashCache(used.runs)).folder.parent, console)


@dataset.command("show")
@options.settings
@options.seed
@click.argument("name")
def show_dataset(settings_file: Path, seed: int, name: str) -> None:
    """Show a dataset that is built: a table of its pictures, and the path of its contact sheet."""
    from orchestrator.config import settings
    from orchestrator.datasets import prepare
    from orchestrator.store.hashes import HashCache

    used = settings.load(settings_file)
    folder = prepare.folder_of(_dataset(used, name, seed), used, HashCache(used.runs))
    if not (folder / "dataset.json").exists():
        what, remedy = f"{name} is not built as it would be now", f"`orchestrate dataset build {name} --seed {seed}`"
        raise InputError(Problem(what=what, where=str(folder), remedy=remedy))
    _show_dataset(folder, common.console())


@click.command()
@options.settings
@click.argument("sweep")
@click.option("--run", "pattern", default="", help="The run to take, by a glob of its name or id; the best without it.")
def export(settings_file: Path, sweep: str, pattern: str) -> None:
    """Take a LoRA home: its chosen checkpoint under a speaking name, a model card, and what loads it elsewhere."""
    from orchestrator.config import settings
    from orchestrator.evidence import summary
    from orchestrator.report import export as exporting

    console, named = common.console(), common.sweep_named(settings_file, sweep)
    console.problems(summary.calibration(named)[1])
    found = summary.gather(named)
    chosen = exporting.choose(summary.rank_runs(found), pattern, named)
    for path in exporting.export(chosen, named, found, settings.load(settings_file)):
        console.result(str(path))


@click.command()
@options.settings
@click.argument("sweep")
@click.option("--keep-best", required=True, type=click.IntRange(min=0), help="Of so many of the best, all is kept.")
@click.option("--yes", is_flag=True, help="Delete; without it, it is only shown what would go.")
def prune(settings_file: Path, sweep: str, keep_best: int, yes: bool) -> None:
    """Free disk: training states and checkpoints that were not chosen, of finished runs. Reports stay as they are."""
    from orchestrator.evidence import summary
    from orchestrator.report import prune as pruning

    console, named = common.console(), common.sweep_named(settings_file, sweep)
    with named.lock():
        spares = pruning.spare(summary.rank_runs(summary.gather(named)), keep_best)
        for one in spares:
            console.result(f"{one.size / 1e6:10.1f} MB  {one.path.relative_to(named.path)}")
        if yes:
            pruning.remove(spares)
    total = f"{len(spares)} files and folders, {sum(one.size for one in spares) / 1e9:.2f} GB"
    console.say(f"deleted: {total}" if yes else f"would go: {total}; --yes deletes them")


def _dataset(used: Settings, name: str, seed: int) -> Dataset:
    from orchestrator import datasets

    if name not in used.datasets:
        known = ", ".join(used.datasets) or "none yet"
        raise InputError(Problem(what=f'there is no dataset "{name}"', where=str(used.path), remedy=f"known: {known}"))
    return datasets.dataset_for_point({"dataset": name, "seed": seed}, used.datasets)


def _show_dataset(folder: Path, console: Console) -> None:
    """The sheet's path is the last line on stdout."""
    from orchestrator.cli import dataset_table
    from orchestrator.datasets import contact_sheet
    from orchestrator.store import records

    record = records.read(folder / "dataset.json")
    console.page(dataset_table.page(record))
    console.result(str(contact_sheet.write(folder, record)))
