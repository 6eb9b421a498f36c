"""What each run cost: seconds by stage, and those that attempts without a product took."""

from orchestrator.model import Failure
from orchestrator.store.layout import Run

LOST = "lost in failed attempts"


def seconds(run: Run) -> dict[str, float]:
    """Stage -> seconds of the attempts that delivered, or were stopped early; LOST -> of all others.

    Stages not begun are absent.
    """
    spent: dict[str, float] = {}
    for stage in run.stages:
        for attempt in run.attempts(stage):
            if result := attempt.result():
                kind = stage if result.failure in (None, Failure.STOPPED_EARLY) else LOST
                spent[kind] = spent.get(kind, 0.0) + result.seconds
    return spent
