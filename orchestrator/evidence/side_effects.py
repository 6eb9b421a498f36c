"""What a LoRA changes besides the similarity: adherence to prompts, diversity of faces, drift of other images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.evidence.choice import Cell, cell
from orchestrator.model import Score

BETTER = {"adherence": 1, "diversity": 1, "drift": -1}
"""Side effect -> 1 if higher is better, -1 if lower is better."""

Vectors: TypeAlias = Mapping[Cell, NDArray[np.float32]]
"""CLIP embeddings, of length 1, of images of prompts without a trigger."""


def by_prompt(scores: Sequence[Score], own: Vectors, baseline: Vectors) -> dict[str, dict[int, float]]:
    """Side effect -> prompt -> mean over the image seeds; prompts without a value are absent.

    scores: the reported ones. own, baseline: of the same checkpoint and of the base model without a LoRA; drift is one
    minus the cosine of the two at the same prompt and seed.
    """
    drifts = [(at, 1 - float(row @ baseline[at])) for at, row in own.items() if at in baseline]
    return {name: _means(values, 0) for name, values in _with_drift(scores, drifts).items()}


def seed_deviations(scores: Sequence[Score], vectors: Vectors) -> dict[str, float]:
    """Side effect -> standard deviation over the image seeds of a baseline's means over the prompts: default margins.

    The baseline has no drift from itself. In its place counts one minus the mean cosine of an image to the images of
    the same prompt with other seeds. Side effects with too few seeds are absent: adherence needs two; diversity and
    drift are distances between seeds, which are equal for two seeds, and need three.
    """
    found = {name: _means(values, 1) for name, values in _with_drift(scores, _seed_distances(vectors)).items()}
    enough = {name: seeds for name, seeds in found.items() if len(seeds) >= (2 if name == "adherence" else 3)}
    return {name: float(np.std(list(seeds.values()), ddof=1)) for name, seeds in enough.items()}


def _with_drift(
    scores: Sequence[Score], drifts: Iterable[tuple[Cell, float]]
) -> dict[str, Iterable[tuple[Cell, float]]]:
    return {
        "adherence": [(cell(one), one.adherence) for one in scores if one.adherence is not None],
        "diversity": [(cell(one), one.seed_distance) for one in scores if one.seed_distance is not None],
        "drift": drifts,
    }


def _means(values: Iterable[tuple[Cell, float]], axis: int) -> dict[int, float]:
    """Mean by prompt (axis 0) or by seed (axis 1)."""
    found: dict[int, list[float]] = defaultdict(list)
    for at, value in values:
        found[at[axis]].append(value)
    return {key: float(np.mean(group)) for key, group in sorted(found.items())}


def _seed_distances(vectors: Vectors) -> list[tuple[Cell, float]]:
    found = []
    for at, row in vectors.items():
        cosines = [float(row @ other) for place, other in vectors.items() if place[0] == at[0] and place != at]
        found += [(at, 1 - float(np.mean(cosines)))] if cosines else []
    return found
