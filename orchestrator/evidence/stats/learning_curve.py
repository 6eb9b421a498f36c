"""The expected gain from a larger training set, estimated from runs on subsets of the present one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from orchestrator.evidence.stats.estimates import Interval
from orchestrator.model import Value

FloatArray = npt.NDArray[np.float64]

EXPONENTS = np.geomspace(0.1, 3.0, 60)
"""Exponents k of similarity = ceiling - a * images ** -k; published learning curves lie in this range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One run: number of training images, training seed, mean image value."""

    images: int
    replicate: Value
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningCurve:
    """A saturating curve, evaluated for `target` images instead of the `present` number.

    worth: expected change of similarity. interval: its 95 % profile-likelihood interval, including the uncertainty of
    the exponent. extrapolated: `target` exceeds all measured sizes, so the result also assumes that the curve continues
    and that new images resemble the present ones. fitted: (size, value) of the best curve at the measured sizes and the
    target. Seeds that share a subset share its effect, which the interval does not contain.
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
    """Worth of `target` images over the largest measured set; None below three sizes or without residual freedom.

    For each exponent k of a grid, value = level of the replicate + worth * g_k(images) is fitted by least squares;
    g_k is 0 at the present size and 1 at the target. The interval is the union of the worths that an F test on the
    residual sum of squares does not reject. Raises ValueError if `target` is not positive or equals the present size.
    """
    sizes = sorted({p.images for p in points})
    replicates = len({p.replicate for p in points})
    freedom = len(points) - replicates - 2
    if len(sizes) < 3 or freedom < 1:
        return None
    if target < 1 or target == sizes[-1]:
        raise ValueError(f"target is {target}: it must be positive and differ from the present {sizes[-1]} images")
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


def _shape(images: Sequence[int], present: int, target: int) -> FloatArray:
    """(exponents, sizes): 0 at the present size, 1 at the target."""
    k = EXPONENTS[:, None]
    start = float(present) ** -k
    shape: FloatArray = (start - np.array(images, dtype=float) ** -k) / (start - float(target) ** -k)
    return shape


def _fits(points: Sequence[CurvePoint], present: int, target: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """For each exponent: the worth, the residual sum of squares, and the information (sum of squares of the shape).

    The mean of its replicate is subtracted from each run, so seed variance does not favour a size.
    """
    same = np.array([[float(a.replicate == b.replicate) for b in points] for a in points])
    inside = np.eye(len(points)) - same / same.sum(axis=1, keepdims=True)
    values = inside @ np.array([p.value for p in points])
    shapes = _shape([p.images for p in points], present, target) @ inside
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
    """(size, value) of the best curve at the measured sizes and the target (last), through the mean of all runs."""
    present, target = ends[-2], ends[-1]
    measured = _shape([p.images for p in points], present, target)[best]
    level = np.mean([p.value for p in points]) - worth * measured.mean()
    heights = level + worth * _shape(ends, present, target)[best]
    return tuple((size, float(height)) for size, height in zip(ends, heights, strict=True))
