"""Which runs are beaten by no other run in everything at once: several numbers, never folded into one."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoPoint:
    """A run and what counts for it. similarity: higher is better (or the gain over the floor, for all alike);
    no_face_rate and copying (RunNumbers.nearest_training): lower is better. None is "not known"."""

    run: str
    similarity: float | None
    no_face_rate: float | None
    copying: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParetoFront:
    """front: runs that none dominates, in the order given; dominated: a run -> the runs that dominate it.

    axes: the fields compared; one that some contender lacks is not, because a missing number is neither good nor bad.
    left_out: runs without a similarity.
    """

    front: tuple[str, ...]
    dominated: dict[str, tuple[str, ...]]
    axes: tuple[str, ...]
    left_out: tuple[str, ...]


def pareto_front(contenders: Sequence[ParetoPoint]) -> ParetoFront:
    """The runs for which no other run is at least as good on every axis and better on one."""
    known = [c for c in contenders if c.similarity is not None]
    signs = {"similarity": 1.0, "no_face_rate": -1.0, "copying": -1.0}
    axes = tuple(axis for axis in signs if all(getattr(c, axis) is not None for c in known))
    places = {c.run: tuple(signs[axis] * getattr(c, axis) for axis in axes) for c in known}
    beaten_by = {run: tuple(o for o in places if _dominates(places[o], place)) for run, place in places.items()}
    return ParetoFront(
        front=tuple(run for run, others in beaten_by.items() if not others),
        dominated={run: others for run, others in beaten_by.items() if others},
        axes=axes,
        left_out=tuple(c.run for c in contenders if c.similarity is None),
    )


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
