"""The train stage: renders the trainer's config, runs sd-scripts, and verifies the checkpoints."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Settings
from orchestrator.kohya import argv, average, config_files, oom_fallback, resume
from orchestrator.kohya.oom_fallback import Fallback
from orchestrator.kohya.outputs import log, verify
from orchestrator.kohya.resume import ResumeSegment
from orchestrator.model import Checkpoint, Progress, Result
from orchestrator.plan import train_config
from orchestrator.run import attempt, retry
from orchestrator.run.context import Context
from orchestrator.run.early_stop import EarlyStopWatcher
from orchestrator.run.retry import Action, FailedAttempt
from orchestrator.run.stages import Command, Stage
from orchestrator.store import hashes, outcome, process, vram_log
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

NAME = train_config.STAGE
_renderer = cache(config_files.Renderer)


def perform(run: Run, ctx: Context) -> Result:
    """Run one attempt to train the run's point."""
    fallback = choose_fallback(run, ctx.settings)
    resumed = resume_from(run, fallback, ctx.settings)
    damaged = [name for past in run.attempts(NAME) for name in resume.damaged_states(past.path / "output")]
    watcher = EarlyStopWatcher(run, ctx)
    stage = Stage(
        name=NAME,
        prepare=lambda attempt: _prepare(run, attempt, {**asdict(fallback), "resumed": resumed}, ctx),
        progress=lambda text: _progress(run, text),
        record=lambda attempt, outcome: _record(run, attempt, outcome, ctx.settings),
        check=lambda attempt: _check(attempt, watcher, ctx.settings),
        fallback=_describe_next(run, fallback, ctx.settings),
        note=", ".join([*fallback.fallbacks, *(f"{name} is not resumed" for name in damaged)]),
    )
    result = attempt.run_attempt(run, stage, ctx)
    watcher.score(run.attempts(NAME)[-1])
    return result


# --- the next attempt -------------------------------------------------------------------------------------------------


def choose_fallback(run: Run, settings: Settings) -> Fallback:
    """The OOM fallback of the next attempt: that of the last one, or the next after it ran out of memory."""
    attempts = run.attempts(NAME)
    result = attempts[-1].result() if attempts else None
    following = train_config.next_fallback(run, settings)
    if following and result and result.failure:
        last = FailedAttempt(failure=result.failure, colocated=attempts[-1].colocated, fallback=True)
        if retry.decide(last) is Action.FALLBACK:
            return following
    return train_config.last_fallback(run)


def _describe_next(run: Run, fallback: Fallback, settings: Settings) -> str:
    """The fallback step after `fallback` and its number; empty when none is left."""
    following = train_config.next_fallback(run, settings, fallback)
    if following is None:
        return ""
    steps = oom_fallback.fallbacks(run.point.params, settings.oom_fallback, settings.optimizers)
    count = len(list(steps))
    return f"{following.fallbacks[-1]} (fallback {len(following.fallbacks)} of {count})"


def resume_from(run: Run, fallback: Fallback, settings: Settings) -> dict[str, int] | None:
    """The attempt, epoch and step that the next attempt resumes from, and the batches to skip then.

    None to start from the first step.

    Only an attempt with the same arguments whose failure left its states valid is resumed. A damaged state is renamed,
    and the one before it is used, if need be of an earlier attempt.
    """
    attempts = run.attempts(NAME)
    result = attempts[-1].result() if attempts else None
    valid = result is not None and result.failure is not None and retry.RULES[result.failure].resume
    if not (settings.trainer.resume and valid and train_config.last_fallback(run).overrides == fallback.overrides):
        return None
    until = None
    for segment in reversed(train_config.resume_chain(run, attempts[-1])):
        _record_states(segment.folder)
        while epoch := resume.last_state(segment.folder, train_config.OUTPUT_NAME, until):
            params = train_config.effective_params(run, attempts[-1])
            if begun := resume.continue_from(segment, train_config.OUTPUT_NAME, epoch, params):
                attempt = int(segment.folder.parent.name)
                return {"attempt": attempt, "epoch": epoch, "step": begun[0], "skip": begun[1]}
            until = epoch - 1
        until = segment.epoch
    return None


# --- one attempt ------------------------------------------------------------------------------------------------------


def _prepare(run: Run, attempt: Attempt, record: Mapping[str, Any], ctx: Context) -> Command:
    shared = {"card": ctx.gpu, "colocated": ctx.colocated, "others": _other_processes(ctx)}
    shared |= {"at_once": ctx.at_once} if ctx.at_once > 1 else {}
    attempt.open({**record, **shared, **ctx.attempt_record(run, NAME)})
    for name, text in rendered(run, attempt, ctx).items():
        (attempt.path / name).write_text(text, encoding="utf-8", newline="\n")
    trainer = ctx.settings.trainer
    return Command(
        argv=argv.train_argv(trainer, attempt.path / "config.toml", ctx.settings.runs / hashes.CACHE),
        env={**argv.environment(trainer, gpu=ctx.gpu or None), **_budget(ctx.settings)},
        cwd=attempt.path,
    )


def rendered(run: Run, attempt: Attempt, ctx: Context) -> dict[str, str]:
    """The trainer's input files by name; each is read back and compared with what it should contain."""
    return train_config.input_files(
        run, attempt, ctx.settings, _renderer(ctx.templates), ctx.datasets, ctx.preview_prompts
    )


def _budget(settings: Settings) -> dict[str, str]:
    """A VRAM budget below the GPU's size, for the trainer: the miniature uses it as its GPU's size."""
    gib = settings.vram.budget_gib
    return {"ORCHESTRATE_VRAM_BUDGET_GIB": f"{gib:g}"} if gib else {}


def _other_processes(ctx: Context) -> dict[str, int | None]:
    """MiB by process on the GPU before the attempt starts, to explain an out-of-memory.

    Without processes that are exiting: the driver lists the previous attempt for a moment.
    """
    gpus = [gpu for gpu in ctx.probe.gpus() if gpu.uuid == ctx.gpu]
    return {str(pid): mib for gpu in gpus for pid, mib in gpu.processes.items() if not process.is_exiting(pid)}


def _progress(run: Run, text: str) -> Progress | None:
    """The progress of the whole training. sd-scripts counts the steps of a resumed one from zero to the full total."""
    shown, attempts = log.read_progress(text), run.attempts(NAME)
    if shown is None or not attempts:
        return shown
    this = train_config.resume_chain(run, attempts[-1])[-1]
    return replace(shown, step=shown.step + this.step, total=shown.total + this.skip)


def seconds_left(run: Run) -> float:
    """The time that the last attempt needs for its remaining steps; infinite while it is unknown."""
    attempts = run.attempts(NAME)
    progress = _progress(run, outcome.tail(attempts[-1].path / "log")) if attempts else None
    if progress is None or progress.seconds_per_step is None:
        return math.inf
    return (progress.total - progress.step) * progress.seconds_per_step


def _record_states(folder: Path) -> None:
    """Record the states that no poll has recorded; not after a restart of the machine, since they may lack pages."""
    if process.same_boot(folder.parent):
        resume.record_states(folder, train_config.OUTPUT_NAME)


def _check(attempt: Attempt, watcher: EarlyStopWatcher, settings: Settings) -> FailureReason | None:
    if settings.trainer.resume:
        resume.record_states(attempt.path / "output", train_config.OUTPUT_NAME)
    return watcher.check(attempt)


def _record(run: Run, attempt: Attempt, outcome: Outcome, settings: Settings) -> Mapping[str, Any] | FailureReason:
    """The verified checkpoints count even if the program failed after it saved them."""
    segments = train_config.resume_chain(run, attempt)
    folder = segments[-1].folder
    verified = verify.verify(
        folder,
        train_config.OUTPUT_NAME,
        train_config.effective_params(run, attempt),
        outcome.log,
        training_comment=train_config.comment(run, attempt),
        segments=segments,
    )
    if verified.failure:
        if settings.trainer.resume:
            _record_states(folder)
        full = vram_log.was_full(attempt.path)
        logged = log.classify(outcome.log, outcome.exit.code, gpu_full=full) if outcome.exit else None
        problems = "; ".join(str(problem) for problem in verified.problems)
        return FailureReason(*(logged or (verified.failure, problems)))
    checkpoints = [_checkpoint_record(run, checkpoint, segments) for checkpoint in verified.checkpoints]
    averages = _averages(run, [Checkpoint(**record) for record in checkpoints], folder, settings)
    checkpoints += map(asdict, averages)
    if settings.generation.checkpoints == "best" and len(checkpoints) * len(settings.generation.strengths) > 1:
        run.compare_checkpoints()
    return {"attempt": attempt.number, "checkpoints": checkpoints}


def _averages(run: Run, checkpoints: Sequence[Checkpoint], folder: Path, settings: Settings) -> Iterator[Checkpoint]:
    """Written beside the checkpoints, where there are several."""
    for kind in settings.generation.averages if len(checkpoints) > 1 else ():
        target = folder / f"{train_config.OUTPUT_NAME}-{kind}.safetensors"
        average.write(kind, [(run.path / one.file, one) for one in checkpoints], target)
        file = str(target.relative_to(run.path))
        yield replace(checkpoints[-1], file=file, sha256=hashes.sha256(target), average=kind)


def _checkpoint_record(run: Run, checkpoint: Checkpoint, segments: Sequence[ResumeSegment]) -> dict[str, Any]:
    """With the file relative to the run's folder."""
    path = resume.segment_of(segments, checkpoint).folder / checkpoint.file
    return {**asdict(checkpoint), "file": str(path.relative_to(run.path))}
