"""The Pareto set of runs: those that no other run beats without a loss."""

from collections.abc import Mapping

CRITERIA = {"similarity": 1, "no_face_rate": -1, "copying": -1, "adherence": 1, "diversity": 1, "drift": -1}
"""Criterion -> 1 if higher is better, -1 if lower is better."""

_LEAST = 1e-9  # a smaller margin only separates equal values from rounding errors


def pareto_set(
    runs: Mapping[str, Mapping[str, float | None]], margins: Mapping[str, float | None] | None = None
) -> tuple[str, ...]:
    """The runs that no other run dominates, in the given order.

    A run dominates another one if it is better by more than the margin on a criterion, worse by more than the margin on
    none, and better in the sum of the differences, each divided by its margin. The sum excludes cycles, so at least one
    run remains. Without margins, this is the usual definition.

    runs: name -> criterion -> value. Runs without a similarity are ignored; a criterion that is unknown (None) for one
    of the others is not compared. margins: criterion -> a difference that is not relevant; 0 where it is unknown.
    """
    known = {run: values for run, values in runs.items() if values.get("similarity") is not None}
    compared = [name for name in CRITERIA if all(values.get(name) is not None for values in known.values())]
    scale = {name: max((margins or {}).get(name) or 0.0, _LEAST) for name in compared}
    points = {
        run: [CRITERIA[name] * float(values[name] or 0.0) / scale[name] for name in compared]
        for run, values in known.items()
    }
    return tuple(run for run, point in points.items() if not any(_dominates(o, point) for o in points.values()))


def _dominates(a: list[float], b: list[float]) -> bool:
    """Both in margins, higher is better."""
    leads = [x - y for x, y in zip(a, b, strict=True)]
    return min(leads) >= -1 and max(leads) > 1 and sum(leads) > 0
