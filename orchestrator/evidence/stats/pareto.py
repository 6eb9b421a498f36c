"""The Pareto set of runs: those that no other run beats on all criteria at once."""

from collections.abc import Mapping

CRITERIA = {"similarity": 1, "no_face_rate": -1, "nearest_training": -1}
"""Criterion -> 1 if higher is better, -1 if lower is better."""


def pareto_set(runs: Mapping[str, Mapping[str, float | None]]) -> tuple[str, ...]:
    """The runs for which no other run is at least as good on every criterion and better on one, in the given order.

    runs: name -> criterion -> value. Runs without a similarity are ignored; a criterion that is unknown (None) for one
    of the others is not compared.
    """
    known = {run: values for run, values in runs.items() if values["similarity"] is not None}
    compared = [name for name in CRITERIA if all(values[name] is not None for values in known.values())]
    points = {run: [CRITERIA[name] * (values[name] or 0.0) for name in compared] for run, values in known.items()}
    return tuple(run for run, point in points.items() if not any(_dominates(o, point) for o in points.values()))


def _dominates(a: list[float], b: list[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
