"""Means over training seeds and prompts with intervals, shares of images, and the number of seeds a decision needs.

The training seed is the unit of observation. Runs with the same seed are correlated (same noise, image order and often
initial weights), so several pairs with one seed count as one observation.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.model import Value

FloatArray = npt.NDArray[np.float64]

MAX_REPLICATES = 1000
"""Sample-size search stops here: no one trains more seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A closed interval; the function that creates it documents the confidence level."""

    low: float
    high: float

    def __format__(self, number: str) -> str:
        """Its ends in a format of numbers: "+0.010 to +0.030"."""
        return f"{self.low:{number}} to {self.high:{number}}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over replicates and prompts with its two sources of variance.

    replicate_variance: variance of one replicate's mean over the prompts.
    prompt_variance: contribution of the choice of prompts to the variance of the mean; more seeds do not reduce it.
    """

    mean: float
    replicates: int
    prompts: int
    replicate_variance: float
    prompt_variance: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """The wider of two t intervals: for these prompts (only replicates are random) and for prompts like these
        (two-way random effects). The second alone is too narrow with two or three replicates; the first alone is too
        narrow when the effect differs between prompts."""
        half = max(error * float(stats.t.ppf((1 + confidence) / 2, df)) for error, df in _standard_errors(self))
        return Interval(low=self.mean - half, high=self.mean + half)

    def p_value(self, null: float) -> float:
        """Two-sided p-value of the mean `null`; below 1 - confidence exactly when the interval excludes `null`."""
        return max(2 * float(stats.t.sf(abs(self.mean - null) / error, df)) for error, df in _standard_errors(self))


def estimate(table: FloatArray) -> Estimate | None:
    """Mean of a (replicates, prompts) table; None with a single replicate or without variance between replicates."""
    replicates, prompts = table.shape
    if replicates < 2 or not np.ptp(table.mean(axis=1)) > 0:
        return None
    return Estimate(
        mean=float(table.mean()),
        replicates=replicates,
        prompts=prompts,
        replicate_variance=float(table.mean(axis=1).var(ddof=1)),
        prompt_variance=_prompt_variance(table),
    )


def over_seeds(runs: Iterable[tuple[Value | None, Mapping[int, float]]]) -> Estimate | None:
    """Mean of one setting from (training seed, mean image value by prompt) of each run.

    None with a single seed or without a common prompt.
    """
    seeds: dict[Value | None, list[Mapping[int, float]]] = defaultdict(list)
    for seed, by_prompt in runs:
        seeds[seed].append(by_prompt)
    all_runs = [values for group in seeds.values() for values in group]
    prompts = sorted(set.intersection(*(set(values) for values in all_runs))) if all_runs else []
    if not prompts:
        return None
    rows = [np.mean([[values[prompt] for prompt in prompts] for values in group], axis=0) for group in seeds.values()]
    return estimate(np.array(rows))


def replicates_needed(
    found: Estimate, *, distance: float, slack: float = np.inf, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Total replicates with which the interval excludes a null that lies `distance` from the mean, at `power`.

    slack: how far the mean may fall before another condition of the decision fails. The variance is an estimate, so
    normal quantiles are too optimistic; the quantiles are those of Julious and Owen (Pharm. Stat. 2006;5:29), a
    non-central t with the degrees of freedom of the data. None: MAX_REPLICATES are not enough, because the distance is
    too small or there are too few prompts.
    """
    df = found.replicates - 1

    def enough(total: int) -> bool:
        error = float(np.sqrt(found.replicate_variance / total + found.prompt_variance))
        return (
            _power_quantile(df, total, confidence, power) * error <= distance
            and float(stats.t.ppf(power, df)) * error <= slack
        )

    low, high = 1, MAX_REPLICATES
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(found: Estimate, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that such data distinguish from zero with probability `power`."""
    error = max(error for error, _ in _standard_errors(found))
    return error * _power_quantile(found.replicates - 1, found.replicates, confidence, power)


def sign_flip_p(replicate_means: FloatArray) -> float:
    """Two-sided p-value of a zero mean by a sign-flip permutation test, without assuming a normal distribution.

    With R replicates it cannot fall below 2 / 2**R, so it needs six replicates to reach 0.05.
    """
    if len(replicate_means) < 2:
        return 1.0
    result = stats.permutation_test((replicate_means,), np.mean, permutation_type="samples", vectorized=True, rng=0)
    return float(result.pvalue)


def wilson(hits: int, n: int) -> Interval | None:
    """Wilson's 95 % score interval of a share; None for n = 0."""
    if n == 0:
        return None
    found = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return Interval(low=float(found.low), high=float(found.high))


def clopper_pearson_upper(hits: int, n: int) -> float | None:
    """Exact one-sided 95 % upper bound of a share (about 3/n for 0 of n); None for n = 0."""
    if n == 0:
        return None
    return float(stats.binomtest(hits, n, alternative="less").proportion_ci(0.95, method="exact").high)


def _power_quantile(df: int, total: int, confidence: float, power: float) -> float:
    """Distance in standard errors (known with `df` degrees of freedom) that `total` replicates detect."""
    return float(stats.nct.ppf(power, df, stats.t.ppf((1 + confidence) / 2, total - 1)))


def _prompt_variance(table: FloatArray) -> float:
    """Method of moments in the two-way layout: (MS prompts - MS residual) / (replicates * prompts), at least zero."""
    replicates, prompts = table.shape
    if prompts < 2:
        return 0.0
    by_prompt = table.mean(axis=0)
    residual = table - by_prompt - table.mean(axis=1, keepdims=True) + table.mean()
    residual_square = float((residual**2).sum()) / ((replicates - 1) * (prompts - 1))
    excess = replicates * float(by_prompt.var(ddof=1)) - residual_square
    return float(max(excess, 0.0) / (replicates * prompts))


def _standard_errors(found: Estimate) -> Iterator[tuple[float, float]]:
    """(standard error, degrees of freedom) for these prompts, then for prompts like these (Satterthwaite)."""
    own, df = found.replicate_variance / found.replicates, found.replicates - 1
    yield float(np.sqrt(own)), df
    if found.prompt_variance > 0:
        both = own + found.prompt_variance
        share = own / both
        yield float(np.sqrt(both)), 1 / (share**2 / df + (1 - share) ** 2 / (found.prompts - 1))
