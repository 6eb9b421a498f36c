"""The pictures of a dataset: twins of each other, turned around too, too small, or also among the references."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import imagehash

from orchestrator import images
from orchestrator.config.schema import Dataset
from orchestrator.datasets import dedupe
from orchestrator.errors import Problem, Severity
from orchestrator.kohya import step_count
from orchestrator.model import Params
from orchestrator.store.hashes import sha256

_TWINS = 4
"""Bits of 64 in which two pictures' perceptual hashes may differ: re-encoded or resized, not another expression."""

_ENOUGH = 0.95
"""Of the resolution's area: so little is not seen."""

_NAMED = 5


def problems(dataset: Dataset, params: Params) -> Iterator[Problem]:
    """What is doubtful about the pictures of a dataset for a training with these arguments."""
    readable = _readable(dataset)
    for one, other, turned in _twins([path for path, _ in readable]):
        what = f"{one.name} and {other.name} are the same picture" + (", one turned around" if turned else "")
        yield _doubt(dataset, what, str(dataset.image_dir), "take one out: what is shown twice is learned twice")
    needed = _ENOUGH * step_count.area(params)
    small = [f"{path.name} ({wide} x {high})" for path, (wide, high) in readable if wide * high < needed]
    if small:
        what = f"{len(small)} of {len(readable)} pictures have fewer pixels than the resolution: {first_names(small)}"
        remedy = "find larger ones, or lower resolution: enlarged pictures teach blur"
        yield _doubt(dataset, what, str(dataset.image_dir), remedy)


def trained_on(dataset: Dataset, references: Path) -> Iterator[Problem]:
    """References that are also trained on, byte by byte: they would praise a LoRA for copying."""
    trained = {sha256(path): path.name for path, _ in _readable(dataset)}
    for path in images.pictures(references).pictures:
        with contextlib.suppress(OSError):  # reported by preflight
            if twin := trained.get(sha256(path)):
                yield _known(path, twin, dataset)


def _known(reference: Path, twin: str, dataset: Dataset) -> Problem:
    """A reference that is also trained on is no yardstick."""
    return Problem(
        what=f"is also in the dataset {dataset.name}, as {twin}: a LoRA would be praised for copying it",
        where=str(reference),
        key="score.references",
        remedy="take it out of one of the two",
        severity=Severity.WARNING,
    )


def _readable(dataset: Dataset) -> list[tuple[Path, step_count.Size]]:
    found = []
    for path in images.pictures(dataset.image_dir).pictures:
        try:
            found.append((path, images.size(path)))
        except images.Unreadable:
            continue  # told by readiness
    return found


def _twins(paths: Sequence[Path]) -> Iterator[tuple[Path, Path, bool]]:
    hashes = [(path, hashed) for path in paths if (hashed := _hashes(path))]
    for (one, sides), (other, others) in itertools.combinations(hashes, 2):
        if dedupe.distance(sides, others) <= _TWINS:
            yield one, other, dedupe.distance(sides, others[:1]) > _TWINS


def _hashes(path: Path) -> tuple[imagehash.ImageHash, ...]:
    try:
        return dedupe.perceptual_hash(images.load(path), mirror=True)
    except images.Unreadable:
        return ()


def first_names(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _doubt(dataset: Dataset, what: str, where: str, remedy: str) -> Problem:
    key = f"datasets.{dataset.name}"
    return Problem(what=what, where=where, key=key, remedy=remedy, severity=Severity.WARNING)
