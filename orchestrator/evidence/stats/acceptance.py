"""The similarity from which people accept an image: a logistic regression of yes and no on the similarity."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from orchestrator.evidence.stats.estimates import FloatArray, Interval

MIN_VOTES = 20
_STEEPEST = 1000.0
"""Bound of the slope: separated answers have no finite slope. This one rises from 10 % to 90 % within 0.0044."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptedAt:
    """The similarity at which the share `level` is accepted. interval: None if the votes do not bound it."""

    level: float
    similarity: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """levels: empty if undecided; `reason` then says why. p: of no effect of the similarity on the answers."""

    votes: int
    accepted: int
    levels: tuple[AcceptedAt, ...] = ()
    reason: str = ""
    p: float | None = None


def fit(
    cast: Sequence[tuple[float, bool, Hashable]], levels: Sequence[float] = (0.5, 0.9), confidence: float = 0.95
) -> Acceptance:
    """The similarities of these levels with profile-likelihood intervals.

    cast: similarity, whether the image is accepted, and cluster of each vote. Votes in one cluster (a prompt) may be
    correlated: likelihood ratios are divided by the design effect (Rao and Scott), the variance with clusters over that
    without, and compared with an F distribution. Undecided if the answers do not rise with the similarity, at the level
    1 - confidence.
    """
    x, y = (np.array([one[at] for one in cast], dtype=float) for at in (0, 1))
    names = {name: at for at, name in enumerate({one[2] for one in cast})}
    n, yes = len(y), int(y.sum())
    if n < MIN_VOTES or len(names) < 2:
        return Acceptance(votes=n, accepted=yes, reason=f"fewer than {MIN_VOTES} votes, or a single prompt")
    if yes in (0, n):
        return Acceptance(votes=n, accepted=yes, reason=f"all votes {'accept' if yes else 'reject'} the image")
    offset, slope = _maximum(x, y)
    best = _likelihood(x, y, slope, offset)
    covariances = _covariances(x, y, offset, slope, np.array([names[one[2]] for one in cast]))
    null = _likelihood(x, y, 0.0, float(special.logit(yes / n)))
    df = len(names) - 1
    p = float(stats.f.sf(2 * max(best - null, 0.0) / _design_effect(covariances, (0.0, 1.0)), 1, df))
    if slope <= 0 or p >= 1 - confidence:
        return Acceptance(votes=n, accepted=yes, p=p, reason="the answers do not rise with the similarity")
    found = []
    for level, logit in zip(levels, special.logit(levels), strict=True):
        at = (logit - offset) / slope
        margin = float(stats.f.ppf(confidence, 1, df)) * _design_effect(covariances, (1.0, at)) / 2
        interval = _profile(x, y, float(logit), at, best - margin)
        found.append(AcceptedAt(level=level, similarity=float(at), interval=interval))
    return Acceptance(votes=n, accepted=yes, levels=tuple(found), p=p)


def _likelihood(x: FloatArray, y: FloatArray, slope: float, offset: float) -> float:
    """Log-likelihood of logit(p) = slope * x + offset."""
    return -float(np.logaddexp(0.0, np.where(y > 0, -1.0, 1.0) * (slope * x + offset)).sum())


def _maximum(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Offset and slope with the highest likelihood."""
    middle, scale = x.mean(), x.std() or 1.0
    design = np.stack([np.ones_like(x), (x - middle) / scale])

    def loss(found: FloatArray) -> tuple[float, FloatArray]:
        return -_likelihood(design[1], y, found[1], found[0]), design @ (special.expit(found @ design) - y)

    steepest = _STEEPEST * scale
    bounds = [(None, None), (-steepest, steepest)]
    found = optimize.minimize(loss, (0.0, 0.0), jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-12}).x
    slope = float(found[1] / scale)
    return float(found[0] - slope * middle), slope


def _covariances(
    x: FloatArray, y: FloatArray, offset: float, slope: float, clusters: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Of (offset, slope): for independent votes, and with clusters (sandwich)."""
    design = np.stack([np.ones_like(x), x])
    p = special.expit(slope * x + offset)
    naive = np.linalg.pinv(design * (p * (1 - p)) @ design.T)
    scores = np.stack([np.bincount(clusters, weights=row * (y - p)) for row in design])
    count = scores.shape[1]
    return naive, count / (count - 1) * naive @ scores @ scores.T @ naive


def _design_effect(covariances: tuple[FloatArray, FloatArray], direction: tuple[float, float]) -> float:
    """At least 1."""
    naive, clustered = (float(np.array(direction) @ one @ np.array(direction)) for one in covariances)
    return max(1.0, clustered / naive) if naive > 0 else 1.0


def _profile(x: FloatArray, y: FloatArray, logit: float, at: float, lowest: float) -> Interval | None:
    """The similarities whose best curve through this level has at least the log-likelihood `lowest`."""

    def excess(similarity: float) -> float:
        curve = optimize.minimize_scalar(
            lambda slope: -_likelihood(x - similarity, y, slope, logit), bounds=(0.0, _STEEPEST), method="bounded"
        )
        return -float(curve.fun) - lowest

    if not -1 < at < 1 or excess(-1.0) > 0 or excess(1.0) > 0:
        return None
    if excess(at) <= 0:  # numerical noise at a corner of separated answers
        return None
    low, high = (float(optimize.brentq(excess, end, at, xtol=1e-4)) for end in (-1.0, 1.0))
    return Interval(low=low, high=high)
