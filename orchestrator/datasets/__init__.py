"""Recipes: make a dataset from another one, image by image, with a reason for every image left out.

Each step takes a SampleSet and returns one; nothing is cropped or written before all steps are done.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.config.schema import Dataset
from orchestrator.model import Params


def dataset_for_point(params: Params, datasets: Mapping[str, Dataset]) -> Dataset:
    """The dataset that a point trains on; with several subsets, the one that its seed selects.

    Replicates then differ in their images too, and two points with the same seed have the same subset.
    """
    dataset = datasets[str(params["dataset"])]
    seed = params.get("seed", 1)
    choose = dataset.recipe.choose if dataset.recipe else None
    if not dataset.recipe or not choose or choose.num_subsets == 1 or not isinstance(seed, int):
        return dataset
    draw = (seed - 1) % choose.num_subsets + 1
    recipe = replace(dataset.recipe, choose=replace(choose, draw=draw))
    return replace(dataset, name=f"{dataset.name}-draw{draw}", recipe=recipe)


def with_ancestors(names: Iterable[str], known: Mapping[str, Dataset]) -> list[str]:
    """The datasets of these names and those that their recipes use."""
    found: dict[str, None] = {}
    left = list(names)
    while left:
        name = left.pop(0)
        recipe = known[name].recipe
        found[name] = None
        left += [recipe.source] if recipe else []
    return list(found)
