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
    for one, copied in _copies([path for path, _ in readable]).items():
        for mirrored in (False, True):
            if names := [path.name for path, turned in copied if turned is mirrored]:
                what = f"{one.name} and {first_names(names)} are the same image" + ", one mirrored" * mirrored
                remedy = "keep one: an image in n copies has n times the weight"
                yield errors.warning(key, what, remedy, where=where)
    needed = _ENOUGH * step_count.area(params)
    small = [f"{path.name} ({wide} x {high})" for path, (wide, high) in readable if wide * high < needed]
    if small:
        what = f"{len(small)} of {len(readable)} images have fewer pixels than the resolution: {first_names(small)}"
        remedy = "use larger ones or lower `resolution`: training on enlarged images blurs the result"
        yield errors.warning(key, what, remedy, where=where)


def trained_on(dataset: Dataset, references: Path, cache: Path | None = None) -> Iterator[Problem]:
    """A warning if references are copies of images of the dataset, or crops of them. cache: see `copies`."""
    trained = images.list_images(dataset.image_dir).paths
    if found := copies.copies_of(trained, images.list_images(references).paths, cache=cache):
        names = first_names([f"{path.name} as {original.name}" for path, original in found.items()])
        what = f"has images of the dataset {dataset.name}, which inflates the score: {names}"
        yield errors.warning("score.references", what, "remove each from one of the two", where=str(references))


def _copies(paths: Sequence[Path]) -> dict[Path, list[tuple[Path, bool]]]:
    """The copies of each image, and whether they are mirrored; a copy is listed once, for the first image."""
    hashes = [(path, hashed) for path in paths if (hashed := _hashes(path))]
    found: dict[Path, list[tuple[Path, bool]]] = {}
    listed: set[Path] = set()
    for (one, sides), (other, others) in itertools.combinations(hashes, 2):
        if not {one, other} & listed and images.hash_distance(sides, others) <= images.SAME_HASH:
            found.setdefault(one, []).append((other, images.hash_distance(sides, others[:1]) > images.SAME_HASH))
            listed.add(other)
    return found


def _hashes(path: Path) -> tuple[images.PerceptualHash, ...]:
    try:
        return images.perceptual_hashes(images.load(path))
    except images.Unreadable:
        return ()
