"""Images of a dataset that a training skips or stops at by their size, or that its validation split leaves out."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from orchestrator import errors, images
from orchestrator.config.schema import Dataset
from orchestrator.errors import Problem
from orchestrator.kohya import step_count
from orchestrator.model import Params
from orchestrator.text import first_names


def readable_images(dataset: Dataset) -> list[tuple[Path, step_count.Size]]:
    """Images with their sizes."""
    found = []
    for path in images.list_images(dataset.image_dir).paths:
        try:
            found.append((path, images.size(path)))
        except images.Unreadable:
            continue  # reported by preflight
    return found


def unused(dataset: Dataset, points: Iterable[Params]) -> Iterator[Problem]:
    """Images that these trainings skip or stop at, and validation splits that leave no image or share one."""
    readable, key, where = readable_images(dataset), f"datasets.{dataset.name}", str(dataset.image_dir)
    for params in points:
        skipped = [(path, size) for path, size in readable if step_count.is_skipped(params, size)]
        limit, left = params.get("skip_image_resolution"), len(readable) - len(skipped)
        if skipped:
            names = first_names([f"{path.name} ({wide} x {high})" for path, (wide, high) in skipped], len(skipped))
            what = f'skip_image_resolution = "{limit}" leaves out {len(skipped)} of {len(readable)} images: {names}'
            remedy = "ignore this if it is intended, or lower skip_image_resolution"
            report = errors.warning if left else errors.error
            yield report(key, what, remedy if left else "lower skip_image_resolution", where=where)
        if not dataset.subset.get("is_reg"):
            yield from _split(params, left, where)
        own, used = {**params, **dataset.subset}, [one for one in readable if one not in skipped]
        if stopped := [path.name for path, size in used if step_count.is_misfit(own, size)]:
            what = (
                f"without buckets and cached latents, sd-scripts stops at images of other sizes: {first_names(stopped)}"
            )
            yield errors.error(key, what, "set cache_latents = true, or set enable_bucket = true", where=where)


def _split(params: Params, count: int, where: str) -> Iterator[Problem]:
    """A validation split that leaves no image, or puts some into both parts because of sd-scripts' rounding."""
    training, validation = step_count.split(params, count)
    share, both = params.get("validation_split"), set(training) & set(validation)
    if isinstance(share, float) and share and count and (both or not validation):
        what = f"puts {len(both)} of them into both parts" if both else "leaves none for validation"
        part = max(1, round(count * share)) / count
        remedy = f"write {(math.floor(part * 1e4) + 1) / 1e4}" if part < 1 else "remove validation_split"
        yield errors.error(
            "validation_split", f"validation_split = {share} of {count} images {what}", remedy, where=where
        )
