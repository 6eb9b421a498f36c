"""Is a training worse than another one beyond doubt, and by much, on previews that both have drawn at one step?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.choice import Cell


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopTest:
    """A training less another one. difference: mean picture value; p: one-sided, of not being worse by the margin."""

    difference: float
    p: float
    pictures: int


def compare(own: Mapping[Cell, float], other: Mapping[Cell, float], margin: float) -> EarlyStopTest | None:
    """By Wilcoxon's signed-rank test over the pictures of the same prompt and seed; None when they share none.

    The margin is part of what is tested: a mean that lies beyond it by the luck of the pictures ends no training. Ranks
    are why a single missing face (-1) decides nothing.
    """
    cells = sorted(own.keys() & other.keys())
    if not cells:
        return None
    differences = np.array([own[cell] - other[cell] for cell in cells])
    mean = float(differences.mean())
    worse = mean < -margin
    p = float(stats.wilcoxon(differences + margin, alternative="less").pvalue) if worse else 1.0
    return EarlyStopTest(difference=mean, p=p, pictures=len(cells))
