"""Recipes: make a dataset from another one, image by image, with a reason for every image left out.

Each step takes a SampleSet and returns one; nothing is cropped or written before all steps are done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.config.schema import Dataset
from orchestrator.model import Params, Value


def dataset_for_point(params: Params, datasets: Mapping[str, Dataset]) -> Dataset:
    """The dataset that a point trains on; with several subsets, the one that its seed selects.

    Replicates then differ in their images too, and two points with the same seed have the same subset.
    """
    return _drawn(datasets[str(params["dataset"])], params.get("seed", 1))


def _drawn(dataset: Dataset, seed: Value) -> Dataset:
    if dataset.subsets:
        parts = tuple(_drawn(part, seed) for part in dataset.subsets)
        draws = [f"-draw{seed}"] if parts != dataset.subsets else []
        return replace(dataset, name="".join([dataset.name, *draws]), subsets=parts)
    choose = dataset.recipe.choose if dataset.recipe else None
    if not dataset.recipe or not choose or choose.num_subsets == 1 or not isinstance(seed, int):
        return dataset
    draw = (seed - 1) % choose.num_subsets + 1
    recipe = replace(dataset.recipe, choose=replace(choose, draw=draw))
    return replace(dataset, name=f"{dataset.name}-draw{draw}", recipe=recipe)


def with_ancestors(names: Iterable[str], known: Mapping[str, Dataset]) -> list[Dataset]:
    """The datasets of these names, each subset by itself, and those that their recipes use."""
    found: dict[str, Dataset] = {}
    left = [part for name in names for part in known[name].parts]
    while left:
        dataset = left.pop(0)
        found[dataset.name] = dataset
        left += [known[dataset.recipe.source]] if dataset.recipe else []
    return list(found.values())
