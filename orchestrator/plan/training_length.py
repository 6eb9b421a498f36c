"""How long trainings will be, counted from the pictures, or estimated where they are not here yet."""

import math
from collections.abc import Iterable, Mapping
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
    """What a dataset trains on. `counted`: False where their number is known from the settings alone."""

    sizes: tuple[Size, ...]
    repeats: int
    counted: bool


class LengthEstimator:
    """The lengths of trainings: each dataset is listed once, each different length counted once."""

    def __init__(self, datasets: Mapping[str, Dataset]) -> None:
        self._datasets = datasets
        self._pictures: dict[str, DatasetSize | None] = {}
        self._lengths: dict[tuple[object, ...], TrainingLength] = {}

    def pictures(self, name: str) -> DatasetSize | None:
        """What a dataset trains on; None where there is neither a picture nor a number of them in the settings."""
        if name not in self._pictures:
            dataset = self._datasets[name]
            self._pictures[name] = self._made(dataset, dataset.recipe) if dataset.recipe else _listed(dataset)
        return self._pictures[name]

    def _made(self, dataset: Dataset, recipe: Recipe) -> DatasetSize | None:
        """What a recipe will make, as far as its own numbers say it."""
        source = self.pictures(recipe.source)
        if source is None:
            return None
        count = len(source.sizes) if recipe.equal_steps else dataset.pictures or _count(recipe, len(source.sizes))
        return DatasetSize(sizes=tuple(_of_each(source.sizes, count)), repeats=dataset.num_repeats, counted=False)

    def length(self, params: Params) -> TrainingLength | None:
        """How long a point is trained; None where its pictures are unknown."""
        name = str(params["dataset"])
        if (found := self.pictures(name)) is None:
            return None
        key = (name, *(params.get(key) for key in step_count.DECIDING))
        if key not in self._lengths:
            self._lengths[key] = step_count.length(params, found.sizes, found.repeats)
        return self._lengths[key]

    def steps(self, points: Iterable[Point]) -> dict[str, int]:
        """Optimizer steps by point id, where they are known."""
        found = ((point.id, self.length(point.params)) for point in points if not point.is_baseline)
        return {identity: length.steps for identity, length in found if length}


def _listed(dataset: Dataset) -> DatasetSize | None:
    sizes = tuple(prepare.sizes(dataset))
    if sizes:
        return DatasetSize(sizes=sizes, repeats=dataset.num_repeats, counted=True)
    if dataset.pictures:
        return DatasetSize(sizes=((1024, 1024),) * dataset.pictures, repeats=dataset.num_repeats, counted=False)
    return None


def _count(recipe: Recipe, pictures: int) -> int:
    """How many pictures a recipe makes at most."""
    if recipe.frames:
        pictures = math.floor(pictures / (1 - recipe.frames.share))
    if recipe.choose:
        pictures = min(pictures, recipe.choose.n)
    if recipe.crop and recipe.crop.keep_original:
        pictures += round(pictures * recipe.crop.share)
    return max(1, pictures)


def _of_each(sizes: tuple[Size, ...], count: int) -> Iterable[Size]:
    """So many sizes, spread evenly over these."""
    return (sizes[index * len(sizes) // count] for index in range(count))
