"""An interval, and the standard ones for a share of pictures."""

from dataclasses import dataclass

from scipy import stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """From `low` to `high`; which confidence is said where it is made."""

    low: float
    high: float


def wilson(hits: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Interval of a share by Wilson's score method; None when there is nothing to share."""
    if n == 0:
        return None
    found = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
    return Interval(low=float(found.low), high=float(found.high))


def clopper_pearson_upper(hits: int, n: int, confidence: float = 0.95) -> float | None:
    """One-sided upper bound of a share, exact: with 0 of n about 3/n at 95 %."""
    if n == 0:
        return None
    found = stats.binomtest(hits, n, alternative="less").proportion_ci(confidence, method="exact")
    return float(found.high)
