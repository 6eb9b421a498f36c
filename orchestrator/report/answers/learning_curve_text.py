"""What twice the pictures would be worth, from runs that were trained on fewer of them."""

from collections.abc import Sequence

import numpy as np

from orchestrator.evidence.stats import learning_curve
from orchestrator.evidence.stats.learning_curve import CurvePoint, LearningCurve
from orchestrator.evidence.stats.pairs import REPLICATE, unusable
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import State
from orchestrator.report.answers import rows


def curve(runs: Sequence[RunSummary]) -> str:
    """In a sentence; empty below three sizes or two seeds."""
    found = fitted(points(runs))
    return told(found) if found else ""


def points(runs: Sequence[RunSummary]) -> list[CurvePoint]:
    """The scored runs by their size: the number of training pictures with a face.

    Where a run was stopped early there is none: the sizes left would be those that did well.
    """
    with_lora = [run for run in runs if not run.run.point.is_baseline]
    if any(run.status.state is State.STOPPED for run in with_lora):
        return []
    return [
        CurvePoint(
            pictures=run.trained_faces,
            replicate=row.params.get(REPLICATE, 0),
            value=float(np.mean(list(row.by_prompt.values()))),
        )
        for run, row in zip(with_lora, rows.rows(with_lora), strict=True)
        if run.trained_faces and not unusable(row)
    ]


def fitted(measured: Sequence[CurvePoint]) -> LearningCurve | None:
    """A curve through them up to twice the largest size; None below three sizes or two seeds."""
    if not measured:
        return None
    return learning_curve.learning_curve(measured, target=2 * max(point.pictures for point in measured))


def told(found: LearningCurve) -> str:
    """What it says of the size that nobody has measured."""
    sizes = ", ".join(map(str, found.sizes))
    return (
        f"{found.target} instead of {found.present} would be worth {found.worth:+.3f} "
        f"({found.interval.low:+.3f} to {found.interval.high:+.3f}), from runs on {sizes}; an extrapolation, if the "
        "datasets differ in nothing but their number and new pictures are like the old"
    )
