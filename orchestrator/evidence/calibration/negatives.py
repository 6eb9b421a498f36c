"""Pictures of faces that are not the persona: what a threshold must not let pass."""

from collections.abc import Iterable
from pathlib import Path

from orchestrator import images
from orchestrator.errors import InputError, NothingSelected, Problem
from orchestrator.store.layout import Sweep


def gather(folders: Iterable[Path], sweeps: Iterable[Sweep]) -> dict[str, tuple[Path, ...]]:
    """A name for each set -> its pictures: folders as they are, of sweeps what the base models made without a LoRA.

    Raises InputError for a folder without pictures, NothingSelected for a sweep whose floors are not generated yet.
    """
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders:
        name = str(folder) if folder.name in found else folder.name
        found[name] = images.pictures(folder).pictures
        if not found[name]:
            remedy = "name a folder of pictures with a face each"
            raise InputError(Problem(what="holds no pictures", where=str(folder), key="--impostors", remedy=remedy))
    for sweep in sweeps:
        found |= _floors(sweep)
    return found


def _floors(sweep: Sweep) -> dict[str, tuple[Path, ...]]:
    floors = [run for run in sweep.runs() if run.point.is_baseline and run.done("generate")]
    if not floors:
        what = f"sweep {sweep.name} has no pictures of a base model without a LoRA yet"
        raise NothingSelected(Problem(what=what, key="--against", remedy="run its baseline-... first"))
    return {
        f"{run.point.params['base_model']} without a LoRA, {sweep.name}": tuple(
            run.path / image.file for image in run.pictures()
        )
        for run in floors
    }
