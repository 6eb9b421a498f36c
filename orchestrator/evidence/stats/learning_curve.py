"""What a larger training set would be worth, from runs on subsets of the one there is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from orchestrator.evidence.stats.estimates import Interval
from orchestrator.model import Value

FloatArray = npt.NDArray[np.float64]

EXPONENTS = np.geomspace(0.1, 3.0, 60)
"""How fast a curve may saturate: similarity = ceiling - a * pictures ** -k. Published learning curves lie within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One run: the number of training pictures, the training seed, and the run's mean picture value."""

    pictures: int
    replicate: Value
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """A saturating curve and what it says about `target` pictures instead of the `present` number.

    worth: expected change of similarity; interval: its 95 % profile-likelihood interval, which includes not knowing how
    fast the curve saturates. extrapolated: `target` is larger than any measured size, so the interval also trusts that
    the curve goes on as it began and that the new pictures are like the old. fitted: (size, value) of the best curve at
    the measured sizes and the target. It knows nothing of which pictures a subset holds: seeds that share a subset
    share that luck.
    """

    present: int
    target: int
    sizes: tuple[int, ...]
    runs: int
    replicates: int
    exponent: float
    worth: float
    interval: Interval
    fitted: tuple[tuple[int, float], ...]
    extrapolated: bool


def learning_curve(points: Sequence[CurvePoint], *, target: int, confidence: float = 0.95) -> LearningCurve | None:
    """Worth of `target` pictures over the largest measured set. None below three sizes or without spare runs.

    The model is linear but for the exponent: value = a level of the replicate + worth * g_k(pictures), where g_k is 0
    at the present size and 1 at the target. So it is fitted by least squares for each exponent of a grid, and the
    interval is the union of those worths that no exponent refutes (F test on the residual sum of squares).
    Raises ValueError when `target` is not positive, or is the present size itself.
    """
    sizes = sorted({p.pictures for p in points})
    replicates = len({p.replicate for p in points})
    freedom = len(points) - replicates - 2
    if len(sizes) < 3 or freedom < 1:
        return None
    if target < 1 or target == sizes[-1]:
        raise ValueError(f"target is {target}: it must be positive and differ from the present {sizes[-1]} pictures")
    worth, squares, information = _fits(points, sizes[-1], target)
    best = int(squares.argmin())
    margin = squares[best] * special.fdtri(1, freedom, confidence) / freedom
    return LearningCurve(
        present=sizes[-1],
        target=target,
        sizes=tuple(sizes),
        runs=len(points),
        replicates=replicates,
        exponent=float(EXPONENTS[best]),
        worth=float(worth[best]),
        interval=_profile(worth, squares, information, float(squares[best] + margin)),
        fitted=_heights(points, [*sizes, target], best, float(worth[best])),
        extrapolated=target > sizes[-1],
    )


def _shape(pictures: Sequence[int], present: int, target: int) -> FloatArray:
    """(exponents, pictures): 0 at the present size, 1 at the target."""
    k = EXPONENTS[:, None]
    start = float(present) ** -k
    shape: FloatArray = (start - np.array(pictures, dtype=float) ** -k) / (start - float(target) ** -k)
    return shape


def _fits(points: Sequence[CurvePoint], present: int, target: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each exponent: the worth, its residual sum of squares, and the information (sum of squares of the shape).

    The mean of its replicate is subtracted from each run, so that a lucky seed lifts no size above another.
    """
    same = np.array([[float(a.replicate == b.replicate) for b in points] for a in points])
    inside = np.eye(len(points)) - same / same.sum(axis=1, keepdims=True)
    values = inside @ np.array([p.value for p in points])
    shapes = _shape([p.pictures for p in points], present, target) @ inside
    information = (shapes**2).sum(axis=1)
    worth = shapes @ values / information
    return worth, (values**2).sum() - worth**2 * information, information


def _profile(worth: FloatArray, squares: FloatArray, information: FloatArray, limit: float) -> Interval:
    half = np.sqrt(np.maximum(limit - squares, 0) / information)
    kept = squares <= limit
    return Interval(low=float((worth - half)[kept].min()), high=float((worth + half)[kept].max()))


def _heights(
    points: Sequence[CurvePoint], ends: Sequence[int], best: int, worth: float
) -> tuple[tuple[int, float], ...]:
    """The best curve at the measured sizes and the target (last), through the mean of all runs."""
    present, target = ends[-2], ends[-1]
    measured = _shape([p.pictures for p in points], present, target)[best]
    level = np.mean([p.value for p in points]) - worth * measured.mean()
    heights = level + worth * _shape(ends, present, target)[best]
    return tuple((size, float(height)) for size, height in zip(ends, heights, strict=True))
