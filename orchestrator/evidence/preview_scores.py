"""Previews of early stopping: which steps, images and runs are compared, and their scores on disk.

The scores of a step are in `<run>/preview_checks/<step>/<attempt>/scored.json`.
"""

from pathlib import Path

from orchestrator import scoring
from orchestrator.config.schema import EarlyStop, Settings
from orchestrator.evidence.stats import early_stop_rule
from orchestrator.kohya import step_count
from orchestrator.model import Params, Score, Value
from orchestrator.store.layout import Attempt, Run

FOLDER = "preview_checks"


def check_steps(params: Params, rule: EarlyStop | None) -> range:
    """The steps at which a training is compared with others; empty without early stopping."""
    return early_stop_rule.preview_steps(total_steps(params), rule.after) if rule else range(0)


def total_steps(params: Params) -> int:
    """The length of a training that is given in steps."""
    return step_count.whole(params, "max_train_steps", step_count.DEFAULT_STEPS)


def cells(prompts: int, settings: Settings) -> list[tuple[int, int]]:
    """(prompt, seed) of each preview of a step: every prompt with the first seed, then with the second, and so on."""
    count = settings.early_stop.pictures if settings.early_stop else 0
    return [(prompt, seed) for seed in settings.generation.seeds for prompt in range(prompts)][:count]


def comparison_group(params: Params) -> tuple[Value | None, int]:
    """Runs are compared if they have the same training seed and length in steps."""
    return params.get("seed"), total_steps(params)


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
