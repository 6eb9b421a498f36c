"""Recipes: how a dataset is made from another one, picture by picture, with a reason for every picture left out.

Each step takes a Batch and gives a Batch; nothing is cut or written before all steps are through.
"""

from collections.abc import Mapping
from dataclasses import replace

from orchestrator.config.schema import Dataset
from orchestrator.model import Params


def dataset_for_point(params: Params, datasets: Mapping[str, Dataset]) -> Dataset:
    """The dataset that a point trains on: where there are several draws, the one that its seed falls to.

    So replicates differ in their pictures too, and two arms with one seed have the same draw, nested.
    """
    dataset = datasets[str(params["dataset"])]
    seed = params.get("seed", 1)
    choose = dataset.recipe.choose if dataset.recipe else None
    if not dataset.recipe or not choose or choose.num_subsets == 1 or not isinstance(seed, int):
        return dataset
    draw = (seed - 1) % choose.num_subsets + 1
    recipe = replace(dataset.recipe, choose=replace(choose, draw=draw))
    return replace(dataset, name=f"{dataset.name}-draw{draw}", recipe=recipe)
