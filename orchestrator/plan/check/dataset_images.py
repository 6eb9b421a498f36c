"""Checks of a dataset's images: duplicates, also mirrored ones, small images, and images used as references."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator import errors, images
from orchestrator.config.schema import Dataset
from orchestrator.errors import Problem
from orchestrator.kohya import step_count
from orchestrator.model import Params
from orchestrator.plan.unused_images import readable_images
from orchestrator.scoring import copies
from orchestrator.text import first_names

_ENOUGH = 0.95
"""Share of the resolution's area from which an image is large enough: a smaller gap is not visible."""


def problems(dataset: Dataset, params: Params) -> Iterator[Problem]:
    """Warnings about the images of a dataset for a training with these arguments."""
    readable, key, where = readable_images(dataset), f"datasets.{dataset.name}", str(dataset.image_dir)
    for one, other, mirrored in _twins([path for path, _ in readable]):
        what = f"{one.name} and {other.name} are the same image" + (", one mirrored" if mirrored else "")
        yield errors.warning(key, what, "remove one: a repeated image has twice the weight", where=where)
    needed = _ENOUGH * step_count.area(params)
    small = [f"{path.name} ({wide} x {high})" for path, (wide, high) in readable if wide * high < needed]
    if small:
        what = f"{len(small)} of {len(readable)} images have fewer pixels than the resolution: {first_names(small)}"
        remedy = "use larger ones or lower `resolution`: training on enlarged images blurs the result"
        yield errors.warning(key, what, remedy, where=where)


def trained_on(dataset: Dataset, references: Path, cache: Path | None = None) -> Iterator[Problem]:
    """A warning for each reference that is a copy of an image of the dataset, or a crop of one. cache: see `copies`."""
    trained = images.list_images(dataset.image_dir).paths
    for path, original in copies.copies_of(trained, images.list_images(references).paths, cache=cache).items():
        what = f"is also in the dataset {dataset.name}, as {original.name}: this inflates the score"
        yield errors.warning("score.references", what, "remove it from one of the two", where=str(path))


def _twins(paths: Sequence[Path]) -> Iterator[tuple[Path, Path, bool]]:
    """Pairs of copies, and whether one is mirrored."""
    hashes = [(path, hashed) for path in paths if (hashed := _hashes(path))]
    for (one, sides), (other, others) in itertools.combinations(hashes, 2):
        if images.hash_distance(sides, others) <= images.SAME_HASH:
            yield one, other, images.hash_distance(sides, others[:1]) > images.SAME_HASH


def _hashes(path: Path) -> tuple[images.PerceptualHash, ...]:
    try:
        return images.perceptual_hashes(images.load(path))
    except images.Unreadable:
        return ()
