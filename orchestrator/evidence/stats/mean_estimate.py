"""The mean of a quantity over training seeds and prompts, its interval, and how many more seeds a decision needs.

The training seed is the unit. Two runs of one seed share their luck (noise, order of the pictures, often the
initial weights), so the differences of several pairs under one seed are one observation, not several.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.evidence.stats.interval import Interval

FloatArray = npt.NDArray[np.float64]

MOST_REPLICATES = 1000
"""Beyond so many seeds the answer is that nobody will run them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over replicates and prompts, and where its uncertainty comes from.

    replicate_variance: variance of one replicate's mean over the prompts.
    prompt_variance: what the choice of prompts adds to the variance of the mean; more seeds do not lower it.
    """

    mean: float
    replicates: int
    prompts: int
    replicate_variance: float
    prompt_variance: float

    def interval(self, confidence: float = 0.95) -> Interval:
        """The wider of two t intervals: for these very prompts (replicates are the only chance), and for prompts like
        these (two-way random effects). The second alone is too narrow with two or three replicates, the first alone
        where prompts answer differently."""
        half = max(error * float(stats.t.ppf((1 + confidence) / 2, df)) for error, df in _standard_errors(self))
        return Interval(low=self.mean - half, high=self.mean + half)

    def p_value(self, null: float) -> float:
        """Two-sided p of the truth being `null`; below 1 - confidence exactly when the interval excludes `null`."""
        return max(2 * float(stats.t.sf(abs(self.mean - null) / error, df)) for error, df in _standard_errors(self))


def estimate(table: FloatArray) -> Estimate | None:
    """Mean of a (replicates, prompts) table; None when there is no spread to judge it by.

    That is: a single replicate, or replicates equal to the last bit (then the seed did not reach the training).
    """
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


def replicates_needed(
    found: Estimate, *, distance: float, slack: float = np.inf, confidence: float = 0.95, power: float = 0.8
) -> int | None:
    """Replicates in all with which, at `power`, the interval of a mean `distance` from a null excludes that null.

    slack: how far the mean may fall before the decision is lost for another reason. The spread is itself an estimate,
    so normal quantiles would promise too much; these are the quantiles of Julious and Owen (Pharm. Stat. 2006;5:29),
    a non-central t with the degrees of freedom of the data at hand. None: not even MOST_REPLICATES are enough, be it
    that the distance is too small or the prompts too few.
    """
    df = found.replicates - 1

    def enough(total: int) -> bool:
        error = float(np.sqrt(found.replicate_variance / total + found.prompt_variance))
        return (
            _power_quantile(df, total, confidence, power) * error <= distance
            and float(stats.t.ppf(power, df)) * error <= slack
        )

    low, high = 1, MOST_REPLICATES
    if not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(found: Estimate, confidence: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that data like these would have told from zero, at `power`."""
    error = max(error for error, _ in _standard_errors(found))
    return error * _power_quantile(found.replicates - 1, found.replicates, confidence, power)


def sign_flip_p(replicate_means: FloatArray) -> float:
    """Two-sided sign-flip permutation test that the mean is zero: no normal distribution assumed.

    With R replicates it cannot fall below 2 / 2**R, so it says something from six replicates on.
    """
    if len(replicate_means) < 2:
        return 1.0
    result = stats.permutation_test((replicate_means,), np.mean, permutation_type="samples", vectorized=True, rng=0)
    return float(result.pvalue)


def _power_quantile(df: int, total: int, confidence: float, power: float) -> float:
    """How many standard errors the truth must lie away for `total` replicates to show it, the error known with `df`."""
    return float(stats.nct.ppf(power, df, stats.t.ppf((1 + confidence) / 2, total - 1)))


def _prompt_variance(table: FloatArray) -> float:
    """Method of moments in the two-way layout: (MS prompts - MS rest) / (replicates * prompts), not below zero."""
    replicates, prompts = table.shape
    if prompts < 2:
        return 0.0
    by_prompt = table.mean(axis=0)
    rest = table - by_prompt - table.mean(axis=1, keepdims=True) + table.mean()
    rest_square = float((rest**2).sum()) / ((replicates - 1) * (prompts - 1))
    excess = replicates * float(by_prompt.var(ddof=1)) - rest_square
    return float(max(excess, 0.0) / (replicates * prompts))


def _standard_errors(found: Estimate) -> Iterator[tuple[float, float]]:
    """(standard error, degrees of freedom) for these prompts, then for prompts like these (Satterthwaite)."""
    own, df = found.replicate_variance / found.replicates, found.replicates - 1
    yield float(np.sqrt(own)), df
    if found.prompt_variance > 0:
        both = own + found.prompt_variance
        share = own / both
        yield float(np.sqrt(both)), 1 / (share**2 / df + (1 - share) ** 2 / (found.prompts - 1))
