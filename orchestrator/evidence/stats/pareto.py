"""The Pareto set of runs: those that no other run beats on all criteria at once."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A run and its criteria; None means unknown.

    similarity: higher is better (similarity, or gain over the baseline). no_face_rate, copying
    (RunMetrics.nearest_training): lower is better.
    """

    run: str
    similarity: float | None
    no_face_rate: float | None
    copying: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """front: runs that no other run dominates, in the given order. dominated: run -> the runs that dominate it.

    axes: the compared fields; a field that is unknown for one run is not compared. left_out: runs without similarity.
    """

    front: tuple[str, ...]
    dominated: dict[str, tuple[str, ...]]
    axes: tuple[str, ...]
    left_out: tuple[str, ...]


def pareto_front(points: Sequence[ParetoPoint]) -> ParetoFront:
    """The runs for which no other run is at least as good on every axis and better on one."""
    known = [point for point in points if point.similarity is not None]
    signs = {"similarity": 1.0, "no_face_rate": -1.0, "copying": -1.0}
    axes = tuple(axis for axis in signs if all(getattr(point, axis) is not None for point in known))
    values = {point.run: tuple(signs[axis] * getattr(point, axis) for axis in axes) for point in known}
    dominators = {run: tuple(o for o in values if _dominates(values[o], own)) for run, own in values.items()}
    return ParetoFront(
        front=tuple(run for run, others in dominators.items() if not others),
        dominated={run: others for run, others in dominators.items() if others},
        axes=axes,
        left_out=tuple(point.run for point in points if point.similarity is None),
    )


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
