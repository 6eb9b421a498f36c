"""Runs one attempt at a stage: starts its program, watches it, and records how it ended.

How it ended is read from the attempt's files alone, so that attempts of an earlier orchestrator end in the same way.
"""

import contextlib
import shutil
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator import files
from orchestrator.errors import NotReady, Problem
from orchestrator.model import MEMORY_FAILURES, Failure, Result
from orchestrator.redaction import child_environ, redact
from orchestrator.run import retry
from orchestrator.run.context import Context
from orchestrator.run.retry import Action, FailedAttempt
from orchestrator.run.stages import Stage
from orchestrator.run.watcher import Watcher
from orchestrator.store import outcome, process, vram_log
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome

_LOG_BYTES = 16 * 1024


def run_attempt(run: Run, stage: Stage, ctx: Context) -> Result:
    """Run one attempt to its result: the last one if it has no result or its product was not recorded, else a new one.

    Raises NotReady when there is too little disk space to start one, or a process could not be stopped.
    """
    earlier = run.attempts(stage.name)
    if earlier and (recorded := _record_again(run, earlier[-1], stage)):
        return recorded
    unfinished = earlier.pop() if earlier and earlier[-1].result() is None else None
    attempt = unfinished or _start(run, stage, ctx)
    ctx.listener.started(run, stage.name, attempt.number, stage.note)
    Watcher(attempt, stage, ctx).wait()
    result = _close(run, attempt, earlier, stage, ctx, ours=unfinished is None)
    ctx.listener.ended(run, stage.name, result)
    return result


def fail(run: Run, stage: str, error: Exception, ctx: Context) -> Result:
    """After an unexpected exception: stop the stage's attempt, add the traceback to its log, record it as failed.

    Raises NotReady when a process could not be stopped.
    """
    attempts = run.attempts(stage)
    attempt = attempts[-1] if attempts and attempts[-1].result() is None else run.new_attempt(stage)
    process.stop(attempt.path, ctx.settings.limits.grace_seconds, ctx.stop.hurry)
    with (attempt.path / "log").open("a", encoding="utf-8", errors="backslashreplace") as log:
        log.write(_redact("".join(traceback.format_exception(error)), ctx))
    what = _redact(f"internal error: {type(error).__name__}: {error}", ctx)
    result = Result(failure=Failure.UNKNOWN, reason=f"{what} (the traceback is in the attempt's log; please report it)")
    _close_attempt(attempt, result, ctx)
    ctx.listener.ended(run, stage, result)
    return result


def _record_again(run: Run, attempt: Attempt, stage: Stage) -> Result | None:
    """The result of an attempt that succeeded, but whose orchestrator ended before it recorded the product."""
    result = attempt.result()
    if result is None or result.failure is not None:
        return None
    product = stage.record(attempt, outcome.read(attempt.path))
    if isinstance(product, FailureReason):
        return None
    run.finish(stage.name, product)
    return result


def _start(run: Run, stage: Stage, ctx: Context) -> Attempt:
    _check_disk(run.path, ctx.settings.limits.free_gib)
    if pids := " ".join(map(str, process.strays(run.path))):
        what = f"an attempt whose folder was moved away or deleted is still running: process {pids}"
        remedy = f"move its folder back, or `kill {pids}`; then run the same command"
        raise NotReady(Problem(what=what, where=str(run.path), remedy=remedy))
    attempt = run.new_attempt(stage.name)
    command = stage.prepare(attempt)
    process.start(attempt.path, command.argv, env={**child_environ(ctx.environ), **command.env}, cwd=command.cwd)
    return attempt


def _check_disk(folder: Path, limit_gib: float) -> None:
    free_gib = shutil.disk_usage(folder).free / 1024**3
    if free_gib < limit_gib:
        what = f"{free_gib:.1f} GiB are free, less than {limit_gib:g}: nothing more is started"
        remedy = "free disk space, then run the same command again"
        raise NotReady(Problem(what=what, where=str(folder), key="limits.free_gib", remedy=remedy))


def _close(run: Run, attempt: Attempt, earlier: Sequence[Attempt], stage: Stage, ctx: Context, *, ours: bool) -> Result:
    """Record the result, then the product. If the orchestrator ends in between, `_record_again` completes it."""
    ended = outcome.read(attempt.path, ours=ours)
    product, progress = _product(attempt, stage, ended), stage.progress(ended.log)
    failed = product if isinstance(product, FailureReason) else None
    action = _decide(failed.failure, attempt, earlier, stage, ctx) if failed else None
    result = Result(
        failure=failed.failure if failed else None,
        reason=_reason(failed, attempt, ended, ctx) + _next(failed, action, stage) if failed else "",
        retry=action not in (None, Action.PAUSE, Action.GIVE_UP),
        exit_code=ended.exit.code if ended.exit else None,
        seconds=ended.exit.seconds if ended.exit else 0.0,
        peak_vram_mib=ended.peak_vram_mib,
        seconds_per_step=progress.seconds_per_step if progress else None,
        steps=progress.step if progress else None,
    )
    _close_attempt(attempt, result, ctx)
    if not isinstance(product, FailureReason):
        run.finish(stage.name, product)
    return result


def _close_attempt(attempt: Attempt, result: Result, ctx: Context) -> None:
    """Write the result, and the end of the log without secrets: a report may be written from another environment."""
    log, redacted = attempt.path / "log", attempt.path / outcome.REDACTED_LOG
    files.write_text(redacted, _redact(outcome.tail(log, _LOG_BYTES), ctx))
    with contextlib.suppress(OSError):  # with its time: whether the log is younger does not depend on the clock
        shutil.copystat(log, redacted)
    attempt.close(result)


def _product(attempt: Attempt, stage: Stage, ended: Outcome) -> Mapping[str, Any] | FailureReason:
    """A complete product counts however the program ended, unless it was stopped for using too much memory."""
    if ended.stopped and ended.stopped.failure in MEMORY_FAILURES:
        return ended.stopped
    product = stage.record(attempt, ended)
    return outcome.failure_cause(ended, product, attempt.path) if isinstance(product, FailureReason) else product


def _decide(failure: Failure, attempt: Attempt, earlier: Sequence[Attempt], stage: Stage, ctx: Context) -> Action:
    results = [result for one in earlier if (result := one.result()) and not retry.needs_gpu_alone(one)]
    return retry.decide(
        FailedAttempt(
            failure=failure,
            colocated=attempt.colocated and "at_once" not in attempt.request(),
            resumed=bool(attempt.request().get("resumed")),
            fallback=bool(stage.fallback),
            earlier=[result.failure for result in results],
            limit=ctx.settings.limits.crashes,
        )
    )


def _reason(failed: FailureReason, attempt: Attempt, ended: Outcome, ctx: Context) -> str:
    """The reason without secrets, which a program may print; of an out-of-memory, the use of the GPU if it is known."""
    if failed.failure not in MEMORY_FAILURES or ended.stopped:
        return _redact(failed.reason, ctx)
    sample, others = vram_log.last(attempt.path), attempt.request().get("others") or {}
    used = ", ".join(f"process {pid} with {'?' if mib is None else mib} MiB" for pid, mib in others.items())
    shared = f" (the GPU was shared with {used})" if used else ""
    if ended.peak_vram_mib is None or sample is None:
        return _redact(failed.reason, ctx) + shared
    return f"out of memory at {ended.peak_vram_mib / 1024:.1f} of {sample.total_mib / 1024:.0f} GiB{shared}"


def _redact(text: str, ctx: Context) -> str:
    return redact(text, {**ctx.environ, **ctx.settings.trainer.env})


def _next(failed: FailureReason, action: Action | None, stage: Stage) -> str:
    """What follows, as the end of a message."""
    if action is Action.SAME and failed.failure is not Failure.KILLED:
        return "; trying again"
    following = {
        Action.FALLBACK: f"; trying {stage.fallback}",
        Action.ALONE: "; trying again without other runs on the GPU",
        Action.RESTART: "; trying again from the first step",
    }
    return following.get(action, "") if action else ""
