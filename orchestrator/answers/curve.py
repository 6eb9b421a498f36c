"""What twice the pictures would be worth, from runs that were trained on fewer of them."""

from collections.abc import Sequence

import numpy as np

from orchestrator.answers import rows
from orchestrator.evidence import learning_curve
from orchestrator.evidence.learning_curve import CurvePoint
from orchestrator.evidence.pairs import REPLICATE, unusable
from orchestrator.facts import RunFacts
from orchestrator.model import State


def curve(runs: Sequence[RunFacts]) -> str:
    """In a sentence; empty below three sizes or two seeds. A size is the number of training pictures with a face.

    Where a run was stopped early there is none: the sizes left would be those that did well.
    """
    with_lora = [run for run in runs if not run.run.point.floor]
    if any(run.status.state is State.STOPPED for run in with_lora):
        return ""
    points = [
        CurvePoint(
            pictures=run.trained_faces,
            replicate=row.params.get(REPLICATE, 0),
            value=float(np.mean(list(row.by_prompt.values()))),
        )
        for run, row in zip(with_lora, rows.rows(with_lora), strict=True)
        if run.trained_faces and not unusable(row)
    ]
    if not points:
        return ""
    target = 2 * max(point.pictures for point in points)
    found = learning_curve.learning_curve(points, target=target)
    if found is None:
        return ""
    sizes = ", ".join(map(str, found.sizes))
    return (
        f"{target} instead of {found.present} would be worth {found.worth:+.3f} "
        f"({found.interval.low:+.3f} to {found.interval.high:+.3f}), from runs on {sizes}; an extrapolation, if the "
        "datasets differ in nothing but their number and new pictures are like the old"
    )
