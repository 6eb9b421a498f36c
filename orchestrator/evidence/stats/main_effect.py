"""The effect of a dim from all runs of a grid, also those without a partner: a second look at a contrast."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from scipy import linalg

from orchestrator.evidence.stats.mean_estimate import Estimate, FloatArray, estimate
from orchestrator.evidence.stats.pairs import REPLICATE, RunRow, unusable
from orchestrator.model import Value


def main_effect(
    rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()
) -> Estimate | None:
    """Second level minus first by least squares on additive main effects of all dims, once per training seed.

    The seeds' coefficients are the replicates of the estimate, so that luck shared by the runs of a seed is not taken
    for certainty. Where every run has its partner this equals the mean of the matched pairs. None when fewer than two
    seeds have runs from which the two levels can be told apart.
    """
    used = [row for row in rows if not unusable(row) and dim in row.params]
    prompts = sorted(set.intersection(*(set(row.by_prompt) for row in used))) if used else []
    if not prompts:
        return None
    seeds: dict[Value | None, list[RunRow]] = defaultdict(list)
    for row in used:
        seeds[row.params.get(REPLICATE)].append(row)
    factors = sorted({name for row in used for name in row.dims} - {dim, REPLICATE, *moves_with})
    found = (_coefficient(group, dim, levels, factors, prompts) for group in seeds.values())
    table = [row for row in found if row is not None]
    return estimate(np.stack(table)) if table else None


def _coefficient(
    rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], factors: Sequence[str], prompts: Sequence[int]
) -> FloatArray | None:
    """The difference between the two levels for each prompt; None when these runs do not identify it."""
    values = np.array([[row.by_prompt[prompt] for prompt in prompts] for row in rows])
    columns = [_is(rows, dim, level) for level in _levels(rows, dim)]
    weights = [float(level == levels[1]) - float(level == levels[0]) for level in _levels(rows, dim)]
    if sum(map(abs, weights)) != 2:
        return None
    for factor in factors:
        columns += [_is(rows, factor, level) for level in _levels(rows, factor)[1:]]
    design = np.stack(columns, axis=1)
    contrast = np.pad(weights, (0, design.shape[1] - len(weights)))
    combined = linalg.lstsq(design.T, contrast)[0]  # of the runs: what estimates the contrast, if anything does
    return combined @ values if np.allclose(combined @ design, contrast) else None


def _levels(rows: Sequence[RunRow], name: str) -> list[Value | None]:
    return list(dict.fromkeys(row.params.get(name) for row in rows))


def _is(rows: Sequence[RunRow], name: str, level: Value | None) -> FloatArray:
    return np.array([float(row.params.get(name) == level) for row in rows])
