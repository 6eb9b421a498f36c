"""Lengths of trainings: counted from a dataset's images, or estimated where they are not on this machine."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config.recipe import Recipe
from orchestrator.config.schema import Dataset
from orchestrator.datasets import prepare
from orchestrator.kohya import step_count
from orchestrator.kohya.outputs.files import TrainingLength
from orchestrator.kohya.step_count import Size
from orchestrator.model import Params, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSize:
    """Sizes of a dataset's images. `counted`: False where the number comes from the settings.

    subsets: the parts of a dataset with several; `sizes` are then those of an epoch.
    """

    sizes: tuple[Size, ...]
    repeats: int
    counted: bool
    subsets: tuple[step_count.Subset, ...] = ()


class LengthEstimator:
    """Lengths of trainings. Each dataset is listed once, each different length is counted once."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = datasets
        self._sizes: dict[str, DatasetSize | None] = {}
        self._lengths: dict[tuple[object, ...], TrainingLength | None] = {}

    def dataset_size(self, name: str) -> DatasetSize | None:
        """A dataset's images; None where there are none and the settings give no number."""
        if name not in self._sizes:
            dataset = self._datasets[name]
            self._sizes[name] = self._together(dataset.subsets) if dataset.subsets else self._of(dataset)
        return self._sizes[name]

    def _together(self, subsets: Sequence[Dataset]) -> DatasetSize | None:
        """The images of one epoch; None where those of a subset are unknown."""
        found = [size for part in subsets if (size := self._of(part))]
        if len(found) < len(subsets):
            return None
        used = [
            (size.sizes, size.repeats, bool(part.subset.get("is_reg")))
            for size, part in zip(found, subsets, strict=True)
        ]
        sizes = tuple(step_count.one_epoch({}, used))
        return DatasetSize(sizes=sizes, repeats=1, counted=all(one.counted for one in found), subsets=tuple(used))

    def _of(self, dataset: Dataset) -> DatasetSize | None:
        return self._after_recipe(dataset, dataset.recipe) if dataset.recipe else _listed(dataset)

    def _after_recipe(self, dataset: Dataset, recipe: Recipe) -> DatasetSize | None:
        """An estimate of what a recipe produces from its source."""
        source = self.dataset_size(recipe.source)
        if source is None:
            return None
        count = len(source.sizes) if recipe.equal_steps else dataset.pictures or _count(recipe, len(source.sizes))
        sizes = tuple(source.sizes[index * len(source.sizes) // count] for index in range(count))  # spread evenly
        return DatasetSize(sizes=sizes, repeats=dataset.num_repeats, counted=False)

    def length(self, params: Params) -> TrainingLength | None:
        """The length of a point's training; None where its images are unknown, or all of them are skipped."""
        name = str(params["dataset"])
        if (found := self.dataset_size(name)) is None:
            return None
        key = (name, *(params.get(key) for key in step_count.DECIDING))
        if key not in self._lengths:
            resolutions = self._datasets[name].resolutions
            subsets = found.subsets or ((found.sizes, found.repeats, False),)
            self._lengths[key] = step_count.length(params, subsets, resolutions)
        return self._lengths[key]

    def steps(self, points: Iterable[Point]) -> dict[str, int]:
        """Optimizer steps by point id, where they are known."""
        found = ((point.id, self.length(point.params)) for point in points if point.is_trained)
        return {identity: length.steps for identity, length in found if length}


def _listed(dataset: Dataset) -> DatasetSize | None:
    sizes = tuple(prepare.sizes(dataset))
    if sizes:
        return DatasetSize(sizes=sizes, repeats=dataset.num_repeats, counted=True)
    if dataset.pictures:
        return DatasetSize(sizes=((1024, 1024),) * dataset.pictures, repeats=dataset.num_repeats, counted=False)
    return None


def _count(recipe: Recipe, images: int) -> int:
    """The largest number of images that a recipe produces."""
    if recipe.frames:
        images = math.floor(images / (1 - recipe.frames.share))
    if recipe.choose:
        images = min(images, recipe.choose.n)
    if recipe.crop and recipe.crop.keep_original:
        images += round(images * recipe.crop.share)
    return max(1, images)
