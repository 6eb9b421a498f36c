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
    """Sort out, build and show datasets, generate class images.

    \b
    Example:
      orchestrate dataset triage persona
      orchestrate dataset build face-crop
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
      runs/.datasets/  images, captions, dataset.json and a contact sheet
    """
    from orchestrator.config import settings
    from orchestrator.datasets import prepare, validate, with_ancestors
    from orchestrator.store.hashes import HashCache

    loaded = settings.load(settings_file)
    chosen = _dataset(loaded, name, seed)
    problems = list(validate.validate_captions(chosen, loaded.datasets))
    for one in with_ancestors([name], loaded.datasets):
        problems += validate.validate_dataset(one, str(settings_file))
    if errors_of(problems):
        raise NotReady(*problems)
    common.console().problems(problems)
    for folder in prepare.build(chosen, loaded, HashCache(loaded.runs)).folders:
        _show(folder.parent)


@dataset.command()
@options.settings
@options.seed
@click.argument("name")
def show(settings_file: Path, seed: int, name: str) -> None:
    """Show the images of a built dataset.

    Prints a table of the images, what was dropped and why, and the path of the contact sheet.

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
    hashes = HashCache(loaded.runs)
    folders = [prepare.folder_of(part, loaded, hashes) for part in _dataset(loaded, name, seed).parts]
    for folder in folders:
        if not (folder / "dataset.json").exists():
            what = f'dataset "{name}" is not built with its present recipe and images'
            remedy = f"`orchestrate dataset build {name} --seed {seed}`"
            raise InputError(Problem(what=what, where=str(folder), remedy=remedy))
    for folder in folders:
        _show(folder)


@dataset.command()
@options.settings
@click.option("--prompt", "prompts", multiple=True, required=True, help="A class prompt, without the trigger.")
@click.option("--count", type=click.IntRange(1), default=36, show_default=True, help="Images of each prompt.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="The seed of the first image.")
@click.option("--base", metavar="BASE", default="", help="Base model. Default: that of [defaults].")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def generate(settings_file: Path, prompts: tuple[str, ...], count: int, seed: int, base: str, folder: Path) -> None:
    """Generate class images with the base model, for regularisation.

    Each has the prompt as its caption. An interrupted command continues when it is run again, a larger --count adds
    images, and existing files are never overwritten.

    \b
    Example:
      orchestrate dataset generate persona/class --prompt "photo of a woman"

    \b
    Writes:
      FOLDER               images and captions
      runs/.class-images/  logs, and the images while they are made
    """
    from orchestrator.config import settings
    from orchestrator.run import class_images
    from orchestrator.session import Session

    console, loaded = common.console(), settings.load(settings_file)
    seeds, base = tuple(range(seed, seed + count)), base or loaded.base_model
    asked = class_images.ClassImages(folder=folder.absolute(), texts=prompts, seeds=seeds, base=base)
    class_images.check(asked, loaded)
    plan, run = class_images.plan(asked, loaded)
    session = Session(plan=plan, listener=console)
    finished = not plan.settings.generation.seeds or session.generate_class_images(asked, run)
    if finished:
        console.result(str(asked.folder))
    common.leave(session.stop, finished)


@dataset.command()
@options.settings
@click.option(
    "--similarity",
    type=click.FloatRange(-1, 1),
    default=0.4,
    show_default=True,
    help="Least similarity of the persona to the references.",
)
@click.argument("name")
def triage(settings_file: Path, similarity: float, name: str) -> None:
    """Recommend which images of a dataset to keep; deletes nothing.

    Finds images that are blurred, too small, near-duplicates, or do not show the persona, and counts images of the
    face, the bust and the full body.

    \b
    Example:
      orchestrate dataset triage persona

    \b
    Writes:
      runs/.datasets/NAME-triage/  the contact sheet
    """
    from orchestrator import images, scoring
    from orchestrator.cli import dataset_table
    from orchestrator.config import settings
    from orchestrator.datasets import triage as triaging
    from orchestrator.datasets.face_finder import FaceFinder
    from orchestrator.kohya import step_count

    console, loaded = common.console(), settings.load(settings_file)
    parts = [part for part in _dataset(loaded, name, 1).parts if not part.is_prior]
    listings = [images.list_images(folder) for folder in dict.fromkeys(part.image_dir for part in parts)]
    console.problems([problem for listing in listings for problem in listing.problems])
    paths = [path for listing in listings for path in listing.paths]
    folder = loaded.runs / ".datasets" / f"{name}-triage"
    if not paths:
        raise InputError(Problem(what="has no images", where=str(parts[0].image_dir), remedy="put images there"))
    folder.mkdir(parents=True, exist_ok=True)
    in_progress = scoring.in_progress_path(folder)
    finder = FaceFinder(loaded.scoring, cache=loaded.runs / scoring.FACE_CACHE, in_progress=in_progress)
    found = triaging.triage(paths, finder, area=step_count.area(loaded.arguments), similarity=similarity)
    in_progress.unlink(missing_ok=True)
    console.page(dataset_table.triage(found, triaging.balance(found)))
    if sheet := triaging.write_sheet(folder, found):
        console.result(str(sheet))


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
