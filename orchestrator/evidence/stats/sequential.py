"""Group-sequential tests: seeds are added in rounds, and the error level holds over all tests.

A question is tested after `first` seeds and after each further one up to `max`. Each test uses the same nominal level
(Pocock), found by simulating the t statistics of normal data without a difference. It does not depend on the scale.
"""

from functools import lru_cache

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.estimates import Estimate, FloatArray
from orchestrator.model import SequentialDesign

MIN_CHANCE = 0.1
"""A sweep stops for futility if every open question is decided by `max` with a smaller probability."""
_VALUES = 2_400_000
"""Simulated tests; 200,000 sweeps of 12 seeds."""


@lru_cache(maxsize=32)
def _smallest_p(design: SequentialDesign) -> FloatArray:
    """Sorted: the smallest two-sided p-value over all tests of each simulated sweep without a difference."""
    values = np.random.default_rng(0).standard_normal((_VALUES // design.max, design.max))
    seeds = np.arange(1, design.max + 1)
    sums, squares = values.cumsum(axis=1), (values**2).cumsum(axis=1)
    tests = slice(design.first - 1, None)
    n, total = seeds[tests], sums[:, tests]
    variance = (squares[:, tests] - total**2 / n) / (n - 1)
    statistic = np.abs(total) / np.sqrt(n * variance)
    smallest: FloatArray = np.sort(2 * stats.t.sf(statistic, n - 1).min(axis=1))
    return smallest


def nominal_level(design: SequentialDesign, alpha: float) -> float:
    """The two-sided level of each test with which the error over all tests is `alpha`."""
    return float(np.quantile(_smallest_p(design), alpha))


def adjusted_p(p: float, design: SequentialDesign) -> float:
    """The probability, without a difference, that some test has a p-value of at most `p`."""
    smallest = _smallest_p(design)
    if p < smallest[100]:  # too rare for the simulation: the sum over the tests is an upper bound
        return min(p * (design.max - design.first + 1), 1.0)
    return float(np.searchsorted(smallest, p, side="right") / len(smallest))


def chance_to_decide(
    found: Estimate, design: SequentialDesign, *, nominal: float, smallest: float, draws: int = 4000
) -> float:
    """The predictive probability of yes or no at a later test, given the present estimate; 0 after the last test."""
    rng, n = np.random.default_rng(0), found.replicates
    variance = found.replicate_variance * (n - 1) / rng.chisquare(n - 1, draws)
    mean = found.mean + rng.standard_normal(draws) * np.sqrt(variance / n)
    total = np.full(draws, n * found.mean)
    squares = np.full(draws, (n - 1) * found.replicate_variance + n * found.mean**2)
    decided = np.zeros(draws, dtype=bool)
    for seeds in range(n + 1, design.max + 1):
        new = rng.normal(mean, np.sqrt(variance))
        total, squares = total + new, squares + new**2
        center = total / seeds
        own = np.maximum(squares - seeds * center**2, 0) / (seeds - 1) / seeds
        if seeds >= design.first:
            yes = (center >= smallest) & (center > 0) & (_p_values(center, own, seeds, found) < nominal)
            no = (center < smallest) & (_p_values(center - smallest, own, seeds, found) < nominal)
            decided |= yes | no
    return float(decided.mean())


def _p_values(distance: FloatArray, own: FloatArray, seeds: int, found: Estimate) -> FloatArray:
    """As Estimate.p_value, for many means. own: their squared standard errors over seeds."""
    p: FloatArray = 2 * stats.t.sf(np.abs(distance) / np.sqrt(own), seeds - 1)
    if found.prompt_variance == 0:
        return p
    both = own + found.prompt_variance
    share = own / both
    df = 1 / (share**2 / (seeds - 1) + (1 - share) ** 2 / (found.prompts - 1))
    larger: FloatArray = np.maximum(p, 2 * stats.t.sf(np.abs(distance) / np.sqrt(both), df))
    return larger
