"""The effect of a dim estimated from all runs of a grid, including runs without a partner."""

from collections import defaultdict
from collections.abc import Collection, Sequence

import numpy as np
from scipy import linalg

from orchestrator.evidence.stats.estimates import Estimate, FloatArray, estimate
from orchestrator.evidence.stats.pairs import REPLICATE, RunRow, unusable
from orchestrator.model import Value


def main_effect(
    rows: Sequence[RunRow], dim: str, levels: tuple[Value, Value], moves_with: Collection[str] = ()
) -> Estimate | None:
    """Second level minus first by least squares on additive main effects of all dims, once per training seed.

    The coefficients of the seeds are the replicates, because runs with the same seed are correlated. If every run has
    a partner, the result equals the mean of the matched pairs. None if fewer than two seeds identify the difference.
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
    """The difference between the two levels for each prompt; None if these runs do not identify it."""
    values = np.array([[row.by_prompt[prompt] for prompt in prompts] for row in rows])
    columns = _indicators(rows, dim)
    weights = [float(level == levels[1]) - float(level == levels[0]) for level in columns]
    if sum(map(abs, weights)) != 2:
        return None
    others = [column for factor in factors for column in list(_indicators(rows, factor).values())[1:]]
    design = np.stack([*columns.values(), *others], axis=1)
    contrast = np.pad(weights, (0, len(others)))
    run_weights = linalg.lstsq(design.T, contrast)[0]
    return run_weights @ values if np.allclose(run_weights @ design, contrast) else None


def _indicators(rows: Sequence[RunRow], name: str) -> dict[Value | None, FloatArray]:
    """Level of a dim -> (runs,) 1 where a run has it, else 0."""
    values = [row.params.get(name) for row in rows]
    return {level: np.array([float(value == level) for value in values]) for level in dict.fromkeys(values)}
