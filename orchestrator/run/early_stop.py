"""LOOK: the previews of a training, scored in a child beside it, against those of its partners at the same step.

A look is of a step: `<run>/looks/<step>/<try>/`. Whoever watches starts the scoring and reads it when it is there;
nobody waits for it, and what was missed is made good by the next one who asks.
"""

import contextlib
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace

from orchestrator import images as media
from orchestrator import scoring as scorer
from orchestrator.config.schema import EarlyStop, Settings
from orchestrator.evidence import preview_scores
from orchestrator.evidence.stats import early_stop_rule
from orchestrator.kohya import previews, step_count
from orchestrator.model import Failure, Image, Params, Value
from orchestrator.run.context import Context
from orchestrator.store import process
from orchestrator.store.layout import Attempt, Run, Sweep
from orchestrator.store.outcome import FailureReason

_TRIES = 3
_TURNS = 10
"""Of the watcher, until the folders of other runs are gone through again; a look of one's own is asked for at each."""


def steps(params: Params, asked: EarlyStop | None) -> range:
    """Where a training is looked at on its way; nowhere unless that is asked for."""
    return early_stop_rule.preview_steps(total(params), asked.after) if asked else range(0)


def total(params: Params) -> int:
    """The steps of a training whose length is given in steps."""
    return step_count.whole(params, "max_train_steps", step_count.DEFAULT_STEPS)


def cells(prompts: int, settings: Settings) -> list[tuple[int, int]]:
    """(prompt, seed) of each preview of a look: every prompt before a second seed."""
    pictures = settings.early_stop.pictures if settings.early_stop else 0
    return [(prompt, seed) for seed in settings.generation.seeds for prompt in range(prompts)][:pictures]


def comparison_group(params: Params) -> tuple[Value | None, int]:
    """What partners share: the training seed, and the length in steps."""
    return params.get("seed"), total(params)


class Watch:
    """What the watcher of one training asks at every turn: is it hopeless?"""

    def __init__(self, run: Run, ctx: Context) -> None:
        sweep, asked = Sweep(run.path.parent), ctx.settings.early_stop
        self._run, self._ctx, self._rule = run, ctx, asked or EarlyStop()
        self._steps = steps(run.point.params, asked) if sweep.exists() else range(0)
        self._partners = _partners(run, sweep) if self._steps else []
        self._values: dict[tuple[str, int], Mapping[tuple[int, int], float]] = {}
        self._compared: set[tuple[str, int]] = set()
        self._next = 0.0

    def look(self, training: Attempt) -> FailureReason | None:
        """Why the training is to be ended, as far as that is known by now. Waits for nothing."""
        if not self._steps or training.request().get("degraded"):
            return None
        self.score(training)
        new = [step for step in self._steps if self._read(self._run, step, training.number)]
        if not new and time.monotonic() < self._next:
            return None
        self._next = time.monotonic() + _TURNS * self._ctx.settings.vram.poll_s
        return self._hopeless()

    def score(self, training: Attempt) -> None:
        """Have every look scored that has its pictures."""
        for step in self._steps:
            if (self._run.path.name, step) not in self._values:
                _begin(self._run, training, step, self._ctx)

    def _read(self, run: Run, step: int, training: int | None = None) -> bool:
        """Whether the values of a look have just been read."""
        key = (run.path.name, step)
        if key in self._values or not (scores := preview_scores.at_step(run, step, training)):
            return False
        from orchestrator.evidence import run_metrics

        values = {(one.image.prompt, one.image.seed): run_metrics.picture_value(one) for one in scores}
        self._values[key] = {cell: value for cell, value in values.items() if value is not None}
        return True

    def _hopeless(self) -> FailureReason | None:
        """By each of its looks and each partner that has the same one, once."""
        own = [step for step in self._steps if (self._run.path.name, step) in self._values]
        for step, partner in itertools.product(own, self._partners):
            key = (partner.path.name, step)
            if key not in self._compared and self._known(partner, step):
                self._compared.add(key)
                if reason := self._worse_than(partner, step):
                    return FailureReason(Failure.STOPPED_EARLY, reason)
        return None

    def _known(self, partner: Run, step: int) -> bool:
        """Whether a partner's look is there; one that nobody scored at its time is begun now."""
        if (partner.path.name, step) in self._values or self._read(partner, step):
            return True
        past = partner.attempts("train")
        if past and past[-1].result():
            _begin(partner, past[-1], step, self._ctx)
        return False

    def _worse_than(self, partner: Run, step: int) -> str:
        """By how much, where that is beyond doubt; else empty."""
        own, other = (self._values[run.path.name, step] for run in (self._run, partner))
        found = early_stop_rule.compare(own, other, self._rule.margin)
        bound = early_stop_rule.per_comparison_alpha(self._rule.p, looks=len(self._steps), others=len(self._partners))
        if found is None or found.p >= bound:
            return ""
        return (
            f"{-found.difference:.3f} worse than {partner.point.name} "
            f"at step {step} of {total(self._run.point.params)}: {found.pictures} pictures, "
            f"p {found.p:.2g} of being within {self._rule.margin:g} (bound {bound:.2g})"
        )


def _partners(run: Run, sweep: Sweep) -> list[Run]:
    others = [one for one in sweep.runs() if not one.point.is_baseline and one.point != run.point]
    return [one for one in others if comparison_group(one.point.params) == comparison_group(run.point.params)]


def _begin(run: Run, training: Attempt, step: int, ctx: Context) -> None:
    """Start the scoring of a look, unless it is done, goes on, has been tried often enough, or is not drawn."""
    if training.request().get("degraded"):
        return
    tried = run.attempts(preview_scores.stage(step))
    past = [one for one in tried if one.request().get("training", training.number) == training.number]
    if len(past) >= _TRIES or any(preview_scores.output(one).exists() or process.running(one.path) for one in past):
        return
    wanted = cells(len(ctx.prompts), ctx.settings)
    if pictures := previews.files_at_step(training.path / "output", step, len(wanted)):
        images = [
            Image(file=str(path.relative_to(run.path)), checkpoint="", strength=1.0, prompt=prompt, seed=seed)
            for path, (prompt, seed) in zip(pictures, wanted, strict=True)
        ]
        with contextlib.suppress(OSError):  # another watcher was quicker; a full disk costs the look, not the training
            _start(run, run.new_attempt(preview_scores.stage(step)), training, images, ctx)


def _start(run: Run, look: Attempt, training: Attempt, images: list[Image], ctx: Context) -> None:
    """On the CPU whatever the pictures of the end are scored on: the card is the trainer's."""
    scoring = ctx.settings.scoring
    look.open({"training": training.number})
    job = scorer.Job(
        settings=replace(scoring, device="cpu"),
        cache=ctx.settings.runs / scorer.FACE_CACHE,
        references=media.pictures(scoring.references).pictures,
        images=tuple(images),
        root=run.path,
        out=preview_scores.output(look),
    )
    argv = scorer.write_job(look.path, job)
    process.start(look.path, argv, env={**ctx.environ, "PYTHONUNBUFFERED": "1"}, cwd=look.path)
