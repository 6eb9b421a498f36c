"""The mean of differences over crossed prompts and image seeds, both random, with an interval."""

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.estimates import FloatArray, Interval


def interval(table: FloatArray, confidence: float = 0.95) -> Interval | None:
    """Of the mean of a (prompts, image seeds) table; None with fewer than two prompts or without variance.

    Two-way random effects by the method of moments; the variance is at least that over the prompts. Degrees of freedom
    by Satterthwaite.
    """
    prompts, seeds = table.shape
    if prompts < 2 or not np.ptp(table) > 0:
        return None
    mean = float(table.mean())
    over_prompts, df = float(table.mean(axis=1).var(ddof=1)) / prompts, float(prompts - 1)
    variance = over_prompts
    if seeds > 1:
        over_seeds = float(table.mean(axis=0).var(ddof=1)) / seeds
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + mean
        residual = float((rest**2).sum()) / ((prompts - 1) * (seeds - 1)) / (prompts * seeds)
        if over_seeds > residual:
            variance = over_prompts + over_seeds - residual
            terms = over_prompts**2 / (prompts - 1) + over_seeds**2 / (seeds - 1)
            df = max(1.0, variance**2 / (terms + residual**2 / ((prompts - 1) * (seeds - 1))))
    if variance <= 0:
        return None
    half = float(np.sqrt(variance) * stats.t.ppf((1 + confidence) / 2, df))
    return Interval(low=mean - half, high=mean + half)
