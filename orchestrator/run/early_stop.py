"""Early stopping: scores the previews of a running training and compares them with those of other runs.

The scorer runs beside the training. The watcher starts it and reads its scores at a later poll. Missing previews do
not fail a training; the next orchestrator scores what was not scored.
"""

import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

from orchestrator import images, scoring
from orchestrator.config.schema import EarlyStop
from orchestrator.evidence import preview_scores, run_metrics
from orchestrator.evidence.stats import early_stop_rule
from orchestrator.kohya import previews
from orchestrator.model import Failure, Image
from orchestrator.redaction import child_environ
from orchestrator.run.context import Context
from orchestrator.store import process
from orchestrator.store.layout import Attempt, Run, Sweep
from orchestrator.store.outcome import FailureReason

_TRIES = 3
_POLLS_BETWEEN_READS = 10
"""Polls of the watcher between two reads of the other runs' folders."""


class EarlyStopWatcher:
    """Compares one training with the runs of its comparison group at each step with previews."""

    def __init__(self, run: Run, ctx: Context) -> None:
        sweep, rule = Sweep(run.path.parent), ctx.settings.early_stop
        self._run, self._ctx, self._rule = run, ctx, rule or EarlyStop()
        self._steps = preview_scores.check_steps(run.point.params, rule) if sweep.exists() else range(0)
        self._others = _comparison_runs(run, sweep) if self._steps else []
        self._values: dict[tuple[str, int], Mapping[tuple[int, int], float]] = {}
        self._compared: set[tuple[str, int]] = set()
        self._next_read = 0.0

    def check(self, training: Attempt) -> FailureReason | None:
        """Why to stop the training, from the scores that exist now. Does not wait for scorers."""
        if not self._steps or training.request().get("degraded"):
            return None
        self.score(training)
        new = [step for step in self._steps if self._read(self._run, step, training.number)]
        if not new and time.monotonic() < self._next_read:
            return None
        self._next_read = time.monotonic() + _POLLS_BETWEEN_READS * self._ctx.settings.vram.poll_seconds
        return self._compare()

    def score(self, training: Attempt) -> None:
        """Start the scorer for each step whose previews are complete and not scored."""
        for step in self._steps:
            if (self._run.path.name, step) not in self._values:
                _score(self._run, training, step, self._ctx)

    def _read(self, run: Run, step: int, training: int | None = None) -> bool:
        """Whether the scores of a step were read just now, and not before."""
        key = (run.path.name, step)
        if key in self._values or not (scores := preview_scores.at_step(run, step, training)):
            return False
        values = {(one.image.prompt, one.image.seed): run_metrics.image_value(one) for one in scores}
        self._values[key] = {cell: value for cell, value in values.items() if value is not None}
        return True

    def _compare(self) -> FailureReason | None:
        """Compare each scored step once with each other run that has scores at this step."""
        scored = [step for step in self._steps if (self._run.path.name, step) in self._values]
        for step, other in itertools.product(scored, self._others):
            key = (other.path.name, step)
            if key not in self._compared and self._is_scored(other, step):
                self._compared.add(key)
                if reason := self._worse_than(other, step):
                    return FailureReason(Failure.STOPPED_EARLY, reason)
        return None

    def _is_scored(self, other: Run, step: int) -> bool:
        """Whether another run's scores at a step exist. Starts the scorer for a training that ended without them."""
        if (other.path.name, step) in self._values or self._read(other, step):
            return True
        trainings = other.attempts("train")
        if trainings and trainings[-1].result():
            _score(other, trainings[-1], step, self._ctx)
        return False

    def _worse_than(self, other: Run, step: int) -> str:
        """The difference and its p-value where the training is clearly worse; else empty."""
        own_values, other_values = (self._values[run.path.name, step] for run in (self._run, other))
        test = early_stop_rule.compare(own_values, other_values, self._rule.margin)
        alpha = early_stop_rule.per_comparison_alpha(self._rule.p, checks=len(self._steps), others=len(self._others))
        if test is None or test.p >= alpha:
            return ""
        return (
            f"{-test.difference:.3f} worse than {other.point.name} at step {step} of "
            f"{preview_scores.total_steps(self._run.point.params)}: {test.images} images, "
            f"p {test.p:.2g} of being within {self._rule.margin:g} (bound {alpha:.2g})"
        )


def _comparison_runs(run: Run, sweep: Sweep) -> list[Run]:
    group = preview_scores.comparison_group(run.point.params)
    others = [one for one in sweep.runs() if one.point.is_trained and one.point != run.point]
    return [one for one in others if preview_scores.comparison_group(one.point.params) == group]


def _score(run: Run, training: Attempt, step: int, ctx: Context) -> None:
    """Start the scorer unless it runs, has finished, was tried `_TRIES` times, or a preview is missing."""
    if training.request().get("degraded"):
        return
    checks = run.attempts(preview_scores.stage(step))
    tried = [one for one in checks if one.request().get("training", training.number) == training.number]
    if len(tried) >= _TRIES or any(preview_scores.output(one).exists() or process.running(one.path) for one in tried):
        return
    cells = preview_scores.cells(len(ctx.preview_prompts), ctx.settings)
    if files := previews.files_at_step(training.path / "output", step, len(cells)):
        drawn = [
            Image(file=str(path.relative_to(run.path)), checkpoint="", strength=1.0, prompt=prompt, seed=seed)
            for path, (prompt, seed) in zip(files, cells, strict=True)
        ]
        with contextlib.suppress(OSError):  # another watcher was first, or the disk is full: the training continues
            _start_scorer(run, run.new_attempt(preview_scores.stage(step)), training, drawn, ctx)


def _start_scorer(run: Run, check: Attempt, training: Attempt, previews: list[Image], ctx: Context) -> None:
    """Score on the CPU, whatever `score.device` says: the training uses the GPU."""
    check.open({"training": training.number})
    job = scoring.Job(
        settings=replace(ctx.settings.scoring, device="cpu"),
        images=tuple(previews),
        root=run.path,
        out=preview_scores.output(check),
        cache=ctx.settings.runs / scoring.FACE_CACHE,
        references=images.list_images(ctx.settings.scoring.references).paths,
    )
    argv = scoring.write_job(check.path, job)
    process.start(check.path, argv, env={**child_environ(ctx.environ), "PYTHONUNBUFFERED": "1"}, cwd=check.path)
