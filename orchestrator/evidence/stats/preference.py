"""Shares of votes with intervals that hold for correlated votes, and the test of a preference for one side."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.estimates import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The mean of votes between 0 and 1. interval: None with fewer than two clusters."""

    mean: float
    votes: int
    clusters: int
    interval: Interval | None


def share(cast: Sequence[tuple[float, Hashable]], confidence: float = 0.95) -> Share | None:
    """The mean of votes in [0, 1] with the interval of Korn and Graubard; None without votes.

    cast: votes with their clusters; votes in one cluster (a prompt) may be correlated. The interval is Clopper and
    Pearson's for the effective number of votes: the number of independent votes with the variance that the clusters
    show. If all votes agree there is no variance, and each cluster counts as one vote.
    """
    if not cast:
        return None
    votes, index = np.array([value for value, _ in cast]), {name: at for at, name in enumerate({c for _, c in cast})}
    mean, n, groups = float(votes.mean()), len(votes), len(index)
    if groups < 2:
        return Share(mean=mean, votes=n, clusters=groups, interval=None)
    residuals = np.bincount([index[name] for _, name in cast], weights=votes - mean)
    variance = groups / (groups - 1) * float((residuals**2).sum()) / n**2
    effective = min(n, mean * (1 - mean) / variance) if variance > 0 and 0 < mean < 1 else groups
    tails = stats.t.ppf((1 + confidence) / 2, [n - 1, groups - 1])
    size = effective * float(tails[0] / tails[1]) ** 2 if 0 < mean < 1 else effective
    hits, alpha = mean * size, (1 - confidence) / 2
    low = float(stats.beta.ppf(alpha, hits, size - hits + 1)) if mean > 0 else 0.0
    high = float(stats.beta.ppf(1 - alpha, hits + 1, size - hits)) if mean < 1 else 1.0
    return Share(mean=mean, votes=n, clusters=groups, interval=Interval(low=low, high=high))


def side_p(left: int, right: int) -> float:
    """Two-sided p-value of no preference for a side. The sides are random, so a preference for an image has no effect
    on it."""
    return float(stats.binomtest(left, left + right).pvalue) if left + right else 1.0
