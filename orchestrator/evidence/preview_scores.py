"""Scores of the previews that early stopping compares: `<run>/looks/<step>/<attempt>/scored.json`."""

from pathlib import Path

from orchestrator import scoring
from orchestrator.model import Score
from orchestrator.store.layout import Attempt, Run

FOLDER = "looks"


def stage(step: int) -> str:
    """Name of the stage whose attempts score the previews of a step."""
    return f"{FOLDER}/{step}"


def output(attempt: Attempt) -> Path:
    """The file with the scores of an attempt."""
    return attempt.path / "scored.json"


def of_run(run: Run) -> dict[int, tuple[Score, ...]]:
    """Step -> scores of its previews, for all scored steps of a run."""
    folder = run.path / FOLDER
    steps = sorted(int(path.name) for path in folder.iterdir()) if folder.is_dir() else []
    found = {step: at_step(run, step) for step in steps}
    return {step: scores for step, scores in found.items() if scores}


def at_step(run: Run, step: int, training: int | None = None) -> tuple[Score, ...]:
    """Scores of the previews of a step, from the last training attempt or from the given one; empty without them."""
    for attempt in reversed(run.attempts(stage(step))):
        if output(attempt).exists() and training in (None, attempt.request()["training"]):
            return scoring.read_scores(output(attempt))
    return ()
