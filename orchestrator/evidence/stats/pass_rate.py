"""The verdict of a threshold question: does a run of the sweep pass the threshold in most of its images?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.contrast import Verdict, holm

MAJORITY = 0.5
"""A run reaches the threshold if more than this share of its images pass."""
MIN_IMAGES = 8
"""Fewer images of a run decide nothing."""
_ALPHA = 0.025
"""One-sided: the level of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassCount:
    """Passing images of a run. candidates: number of checkpoints and strengths among which the same images chose."""

    passed: int
    images: int
    candidates: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PassVerdict:
    """reaching: indices of the runs that pass, Holm-corrected over the runs."""

    verdict: Verdict
    reason: str
    reaching: tuple[int, ...]


def judge(counts: Sequence[PassCount]) -> PassVerdict:
    """Exact binomial tests of the scored runs against MAJORITY, one-sided at _ALPHA.

    yes        the pass rate of at least one run is above MAJORITY, corrected for the best of many;
    no         the pass rates of all runs are below MAJORITY, each by its own test;
    undecided  otherwise: no scored run, fewer than MIN_IMAGES images, or rates that both sides explain.
    """
    above = [_tail(one, "greater") for one in counts]
    p_values = holm(np.minimum(np.array(above) * [one.candidates for one in counts], 1).tolist())
    reaching = tuple(number for number, p in enumerate(p_values) if p < _ALPHA)
    below = [_tail(one, "less") < _ALPHA for one in counts]
    if reaching:
        verdict, reason = Verdict.YES, f"{len(reaching)} of {len(counts)} pass in most of their images"
    elif counts and all(below):
        verdict, reason = Verdict.NO, "all fail in most of their images"
    elif not counts:
        verdict, reason = Verdict.UNDECIDED, "no run is scored"
    elif max(one.images for one in counts) < MIN_IMAGES:
        verdict, reason = Verdict.UNDECIDED, f"no run has {MIN_IMAGES} images or more"
    else:
        verdict, reason = Verdict.UNDECIDED, "no run passes or fails often enough to exclude chance"
    return PassVerdict(verdict=verdict, reason=reason, reaching=reaching)


def _tail(one: PassCount, side: str) -> float:
    if one.images < MIN_IMAGES:
        return 1.0
    return float(stats.binomtest(one.passed, one.images, MAJORITY, alternative=side).pvalue)
