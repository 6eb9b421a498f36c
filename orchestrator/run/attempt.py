"""One launch of anything: command -> watch -> stop -> result; or the rest of one that outlived its orchestrator.

What happened is read from the attempt's files alone, so that it does not matter who watched, or whether anybody did.
"""

import contextlib
import itertools
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import redact
from orchestrator.errors import NotReady, Problem
from orchestrator.model import CROWDED_FAILURES, MEMORY_FAILURES, Failure, Progress, Result, VramSample
from orchestrator.run.context import Context
from orchestrator.store import outcome, process, records, vram_log
from orchestrator.store.layout import Attempt, Run
from orchestrator.store.outcome import FailureReason, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start; `env` is added to the orchestrator's own environment."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a stage knows of its program: how to start it, read its progress, and judge how it ended.

    `judge` gives the stage's product, as the record to keep, or why there is none.
    """

    stage: str
    prepare: Callable[[Attempt], Command]
    progress: Callable[[str], Progress | None]
    record: Callable[[Attempt, Outcome], Mapping[str, Any] | FailureReason]
    another: Callable[[Failure], bool] = lambda _failure: False
    """Whether a further attempt may help against this failure."""
    look: Callable[[Attempt], FailureReason | None] = lambda _attempt: None
    """Why the stage itself wants to end it, asked at every turn of the watcher: it must not take long."""
    note: str = ""


def run_attempt(run: Run, job: Stage, ctx: Context) -> Result:
    """See one attempt through to its record: the last one if it is not closed or left no product, else a new one.

    Raises NotReady when there is too little disk to begin one.
    """
    past = run.attempts(job.stage)
    delivered = _deliver_again(run, past[-1], job) if past else None
    if delivered:
        return delivered
    unclosed = past.pop() if past and past[-1].result() is None else None
    attempt = unclosed or _begin(run, job, ctx)
    ctx.listener.started(run, job.stage, attempt.number, job.note)
    _Watch(attempt, job, ctx).until_it_ends()
    result = _close(run, attempt, past, job, ctx, ours=unclosed is None)
    ctx.listener.ended(run, job.stage, result)
    return result


def _deliver_again(run: Run, attempt: Attempt, job: Stage) -> Result | None:
    """The result of an attempt that succeeded but whose product was never recorded: we ended in between."""
    result = attempt.result()
    if result is None or result.failure is not None:
        return None
    product = job.record(attempt, outcome.read(attempt.path))
    if isinstance(product, FailureReason):
        return None
    run.finish(job.stage, product)
    return result


def _begin(run: Run, job: Stage, ctx: Context) -> Attempt:
    _enough_disk(run.path, ctx.settings.limits.free_gib)
    attempt = run.new_attempt(job.stage)
    command = job.prepare(attempt)
    process.start(attempt.path, command.argv, env={**ctx.environ, **command.env}, cwd=command.cwd)
    return attempt


def _enough_disk(folder: Path, limit_gib: float) -> None:
    free_gib = shutil.disk_usage(folder).free / 1024**3
    if free_gib < limit_gib:
        what = f"{free_gib:.1f} GiB are free, less than {limit_gib:g}: nothing further is started"
        remedy = "free some disk, then run the same command again"
        raise NotReady(Problem(what=what, where=str(folder), key="limits.free_gib", remedy=remedy))


class _Watch:
    """One look a second: the user, the limits, the log, the loss, the card."""

    def __init__(self, attempt: Attempt, job: Stage, ctx: Context) -> None:
        self.attempt, self.job, self.ctx = attempt, job, ctx
        self.limits = ctx.settings.limits
        self.began = self.looked = self.grew = time.monotonic()
        self.size = 0
        self.fastest = math.inf

    def until_it_ends(self) -> None:
        """Returns when nothing of the attempt lives any more."""
        path = self.attempt.path
        while process.running(path):
            stopped = self._stopped_before() or self._look() if process.exited(path) is None else None
            try:
                if stopped:
                    self._write_down(stopped)
            finally:
                if stopped or process.exited(path):
                    process.stop(path, self._grace_s(stopped), self.ctx.stop.hurry)
            process.wait(path, self.ctx.settings.vram.poll_s)

    def _grace_s(self, stopped: FailureReason | None) -> float:
        """A flood is not waited for: it would go on filling the disk."""
        return 0.0 if stopped and stopped.failure is Failure.LOG_FLOOD else self.limits.grace_s

    def _write_down(self, stopped: FailureReason) -> None:
        if not (self.attempt.path / "stop.json").exists():
            records.write(self.attempt.path / "stop.json", asdict(stopped))

    def _stopped_before(self) -> FailureReason | None:
        """Why an earlier orchestrator was about to end it; that its user went away is no reason any more."""
        stopped = outcome.stopped(self.attempt.path)
        return stopped if stopped and stopped.failure is not Failure.KILLED else None

    def _look(self) -> FailureReason | None:
        self._forgive_sleep()
        progress = self._read_log()
        sample = self._sample()
        return (
            self._stopped_by_user()
            or self._over_limits()
            or self._bad_loss(progress)
            or self._memory(sample, progress)
            or self.job.look(self.attempt)
        )

    def _forgive_sleep(self) -> None:
        """Time in which we did not look (a suspended machine, a stopped orchestrator) is nobody's stall."""
        now = time.monotonic()
        missed = now - self.looked - 10 * self.ctx.settings.vram.poll_s
        if missed > 0:
            self.began, self.grew = self.began + missed, self.grew + missed
        self.looked = now

    def _read_log(self) -> Progress | None:
        log = self.attempt.path / "log"
        size = log.stat().st_size if log.exists() else 0
        if size == self.size:
            return None
        self.size, self.grew = size, time.monotonic()
        return self.job.progress(outcome.tail(log, 16 * 1024))

    def _sample(self) -> VramSample | None:
        if not self.ctx.card or self.job.stage == "score":
            return None
        sample = self.ctx.probe.sample(self.ctx.card, process.pids_of(self.attempt.path))
        if sample:
            with contextlib.suppress(OSError):  # a full disk costs the curve, and not the training
                vram_log.append(self.attempt.path, sample)
        return sample

    def _stopped_by_user(self) -> FailureReason | None:
        return FailureReason(Failure.KILLED, "interrupted by the user") if self.ctx.stop else None

    def _over_limits(self) -> FailureReason | None:
        now = time.monotonic()
        if now - self.began > self.limits.wall_s:
            return FailureReason(
                Failure.TIMEOUT, f"ran longer than the limit of {self.limits.wall_s:.0f} s (limits.wall_hours)"
            )
        if now - self.grew > self.limits.stall_s:
            return FailureReason(
                Failure.STALLED, f"no log output for {self.limits.stall_s:.0f} s (limits.stall_minutes)"
            )
        if self.size > self.limits.log_mib * 1024 * 1024:
            return FailureReason(
                Failure.LOG_FLOOD, f"wrote more than {self.limits.log_mib:g} MiB of log (limits.log_mib)"
            )
        return None

    def _bad_loss(self, progress: Progress | None) -> FailureReason | None:
        if progress and progress.loss is not None and not math.isfinite(progress.loss):
            return FailureReason(Failure.NAN, f"the loss became {progress.loss} by step {progress.step}")
        return None

    def _memory(self, sample: VramSample | None, progress: Progress | None) -> FailureReason | None:
        if sample is None:
            return None
        budget, used = self.ctx.settings.vram.budget_gib, vram_log.used_by_attempt(sample, colocated=self.ctx.colocated)
        if budget and used and used > budget * 1024:
            return FailureReason(
                Failure.OOM, f"used {used / 1024:.1f} GiB, over the budget of {budget:g} GiB (vram.budget_gib)"
            )
        pace = progress.seconds_per_step if progress else None
        if pace:
            self.fastest = min(self.fastest, pace)
            if pace > 3 * self.fastest and sample.used_mib > 0.97 * sample.total_mib:
                return FailureReason(
                    Failure.SPILL, f"the card is full and a step takes {pace / self.fastest:.1f} times as long"
                )
        return None


def _close(run: Run, attempt: Attempt, past: list[Attempt], job: Stage, ctx: Context, *, ours: bool) -> Result:
    """Judge, then record the result, then the product: an end in between is made good by judging again."""
    ended = outcome.read(attempt.path, ours=ours)
    product = _judged(attempt, job, ended)
    failed = product if isinstance(product, FailureReason) else None
    result = Result(
        failure=failed.failure if failed else None,
        reason=_told(failed, ctx) if failed else "",
        retry=failed is not None and (ended.interrupted or _retry(failed, attempt, past, job, ctx)),
        **_measured(ended, job.progress(ended.log)),
    )
    attempt.close(result)
    if not isinstance(product, FailureReason):
        run.finish(job.stage, product)
    return result


def _told(failed: FailureReason, ctx: Context) -> str:
    """A reason is a line of the child's log, and the child may have printed anything that it was given."""
    return redact.redact(failed.reason, {**ctx.environ, **ctx.settings.trainer.env})


def _judged(attempt: Attempt, job: Stage, ended: Outcome) -> Mapping[str, Any] | FailureReason:
    """A product that is whole counts, whatever ended the program: unless the memory that it took was too much."""
    if ended.stopped and ended.stopped.failure in MEMORY_FAILURES:
        return ended.stopped
    product = job.record(attempt, ended)
    return outcome.failure_cause(ended, product, attempt.path) if isinstance(product, FailureReason) else product


def _measured(ended: Outcome, progress: Progress | None) -> dict[str, Any]:
    return {
        "exit_code": ended.exit.code if ended.exit else None,
        "seconds": ended.exit.seconds if ended.exit else 0.0,
        "peak_vram_mib": ended.peak_vram_mib,
        "seconds_per_step": progress.seconds_per_step if progress else None,
        "steps": progress.step if progress else None,
    }


_PASSING = frozenset({Failure.CRASHED, Failure.DISK_FULL})
"""What may well not happen again."""


def _retry(failed: FailureReason, attempt: Attempt, past: list[Attempt], job: Stage, ctx: Context) -> bool:
    """Whether another attempt may help: after so many crashes in a row it does not, however often we were stopped."""
    if failed.failure in CROWDED_FAILURES and attempt.colocated:
        return True
    if failed.failure not in _PASSING:
        return job.another(failed.failure)
    results = [result for attempt in reversed(past) if (result := attempt.result())]
    failures = [result.failure for result in results if result.failure is not Failure.KILLED]
    in_a_row = len(list(itertools.takewhile(lambda failure: failure in _PASSING, failures)))
    return in_a_row + 1 < ctx.settings.limits.crashes
