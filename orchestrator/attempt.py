"""One launch of anything: command -> watch -> stop -> result; or the rest of one that outlived its orchestrator.

What happened is read from the attempt's files alone, so that it does not matter who watched, or whether anybody did.
"""

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import process, store
from orchestrator.context import Context
from orchestrator.model import Exit, Failure, Limits, Progress, Result, VramSample
from orchestrator.store import Attempt, Run

TAIL_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to start; `env` is added to the orchestrator's own environment."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: Path


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no product."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attempt's files say after its end. `exit` None: nobody saw; `stopped`: why we ended it ourselves."""

    exit: Exit | None
    stopped: Failed | None
    started: bool
    same_boot: bool
    log: str
    peak_vram_mib: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a stage knows of its program: how to start it, read its progress, and judge how it ended.

    `judge` gives the stage's product, as the record to keep, or why there is none.
    """

    stage: str
    prepare: Callable[[Attempt], Command]
    progress: Callable[[str], Progress | None]
    judge: Callable[[Attempt, Outcome], Mapping[str, Any] | Failed]
    another: Callable[[Failure], bool] = lambda _failure: False
    """Whether a further attempt may help against this failure."""
    note: str = ""


def carry_out(run: Run, job: Job, ctx: Context) -> Result:
    """See one attempt through to its record: the last one if it is not closed or left no product, else a new one."""
    past = run.attempts(job.stage)
    delivered = _deliver_again(run, past[-1], job) if past else None
    if delivered:
        return delivered
    attempt = past.pop() if past and past[-1].result() is None else _begin(run, job, ctx)
    ctx.listener.started(run, job.stage, attempt.number, job.note)
    _Watch(attempt, job, ctx).until_it_ends()
    result = _close(run, attempt, past, job, ctx.settings.limits)
    ctx.listener.ended(run, job.stage, result)
    return result


def _deliver_again(run: Run, attempt: Attempt, job: Job) -> Result | None:
    """The result of an attempt that succeeded but whose product was never recorded: we ended in between."""
    result = attempt.result()
    if result is None or result.failure is not None:
        return None
    product = job.judge(attempt, _outcome(attempt))
    if isinstance(product, Failed):
        return None
    run.finish(job.stage, product)
    return result


def _begin(run: Run, job: Job, ctx: Context) -> Attempt:
    attempt = run.new_attempt(job.stage)
    command = job.prepare(attempt)
    process.start(attempt.path, command.argv, env={**ctx.environ, **command.env}, cwd=command.cwd)
    return attempt


class _Watch:
    """One look a second: the user, the limits, the log, the loss, the card."""

    def __init__(self, attempt: Attempt, job: Job, ctx: Context) -> None:
        self.attempt, self.job, self.ctx = attempt, job, ctx
        self.limits = ctx.settings.limits
        self.began = self.looked = self.grew = time.monotonic()
        self.size = 0
        self.fastest = math.inf

    def until_it_ends(self) -> None:
        """Returns when nothing of the attempt lives any more."""
        path = self.attempt.path
        while process.running(path):
            stopped = self._look() if process.exited(path) is None else None
            if stopped and not (path / "stop.json").exists():
                store.write(path / "stop.json", asdict(stopped))
            if stopped or process.exited(path):
                process.stop(path, self.limits.grace_s, self.ctx.stop.hurry)
                return
            process.wait(path, self.ctx.settings.vram.poll_s)

    def _look(self) -> Failed | None:
        self._forgive_sleep()
        progress = self._read_log()
        sample = self._sample()
        return (
            self._stopped_by_user() or self._over_limits() or self._bad_loss(progress) or self._memory(sample, progress)
        )

    def _forgive_sleep(self) -> None:
        """Time in which we did not look (a suspended machine, a stopped orchestrator) is nobody's stall."""
        now = time.monotonic()
        missed = now - self.looked - 10 * self.ctx.settings.vram.poll_s - 5
        if missed > 0:
            self.began, self.grew = self.began + missed, self.grew + missed
        self.looked = now

    def _read_log(self) -> Progress | None:
        log = self.attempt.path / "log"
        size = log.stat().st_size if log.exists() else 0
        if size == self.size:
            return None
        self.size, self.grew = size, time.monotonic()
        return self.job.progress(tail(log, 16 * 1024))

    def _sample(self) -> VramSample | None:
        if not self.ctx.card or self.job.stage == "score":
            return None
        sample = self.ctx.probe.sample(self.ctx.card, process.marked(self.attempt.path))
        if sample:
            _append(self.attempt.path / "vram.csv", sample)
        return sample

    def _stopped_by_user(self) -> Failed | None:
        return Failed(Failure.KILLED, "interrupted by the user") if self.ctx.stop else None

    def _over_limits(self) -> Failed | None:
        now = time.monotonic()
        if now - self.began > self.limits.wall_s:
            return Failed(
                Failure.TIMEOUT, f"ran longer than the limit of {self.limits.wall_s:.0f} s (limits.wall_hours)"
            )
        if now - self.grew > self.limits.stall_s:
            return Failed(Failure.STALLED, f"no log output for {self.limits.stall_s:.0f} s (limits.stall_minutes)")
        if self.size > self.limits.log_mib * 1024 * 1024:
            return Failed(Failure.LOG_FLOOD, f"wrote more than {self.limits.log_mib:g} MiB of log (limits.log_mib)")
        return None

    def _bad_loss(self, progress: Progress | None) -> Failed | None:
        if progress and progress.loss is not None and not math.isfinite(progress.loss):
            return Failed(Failure.NAN, f"the loss became {progress.loss} by step {progress.step}")
        return None

    def _memory(self, sample: VramSample | None, progress: Progress | None) -> Failed | None:
        if sample is None:
            return None
        budget, used = self.ctx.settings.vram.budget_gib, _used(sample)
        if budget and used > budget * 1024:
            return Failed(
                Failure.OOM, f"used {used / 1024:.1f} GiB, over the budget of {budget:g} GiB (vram.budget_gib)"
            )
        pace = progress.seconds_per_step if progress else None
        if pace:
            self.fastest = min(self.fastest, pace)
            if pace > 3 * self.fastest and sample.used_mib > 0.97 * sample.total_mib:
                return Failed(
                    Failure.SPILL, f"the card is full and a step takes {pace / self.fastest:.1f} times as long"
                )
        return None


def _close(run: Run, attempt: Attempt, past: list[Attempt], job: Job, limits: Limits) -> Result:
    """Judge, then record the result, then the product: an end in between is made good by judging again."""
    outcome = _outcome(attempt)
    product = _obvious(outcome) or job.judge(attempt, outcome)
    failed = product if isinstance(product, Failed) else None
    if failed and outcome.exit is None and not outcome.stopped:
        failed = _unseen(outcome)
    result = _result(
        outcome, job.progress(outcome.log), failed, failed is not None and _retry(failed, past, job, limits)
    )
    attempt.close(result)
    if not isinstance(product, Failed):
        run.finish(job.stage, product)
    return result


def _result(outcome: Outcome, progress: Progress | None, failed: Failed | None, retry: bool) -> Result:
    return Result(
        failure=failed.failure if failed else None,
        reason=failed.reason if failed else "",
        retry=retry,
        exit_code=outcome.exit.code if outcome.exit else None,
        seconds=outcome.exit.seconds if outcome.exit else 0.0,
        peak_vram_mib=outcome.peak_vram_mib,
        seconds_per_step=progress.seconds_per_step if progress else None,
        steps=progress.step if progress else None,
    )


def _outcome(attempt: Attempt) -> Outcome:
    path = attempt.path
    stopped = store.read(path / "stop.json") if (path / "stop.json").exists() else None
    return Outcome(
        exit=process.exited(path),
        stopped=Failed(Failure(stopped["failure"]), stopped["reason"]) if stopped else None,
        started=process.started(path),
        same_boot=process.same_boot(path),
        log=tail(path / "log", TAIL_BYTES),
        peak_vram_mib=_peak(path / "vram.csv"),
    )


def _obvious(outcome: Outcome) -> Failed | None:
    """Ends that need no knowledge of the program."""
    if outcome.stopped:
        return outcome.stopped
    if outcome.exit is None:
        return None  # nobody saw: the proof of its product decides
    if outcome.exit.error:
        return Failed(Failure.BAD_CONFIG, f"could not be started: {outcome.exit.error}")
    if outcome.exit.host_oom:
        return Failed(Failure.HOST_OOM, "killed by the kernel: the machine ran out of memory")
    if outcome.exit.code in (-2, -9, -15):
        return Failed(Failure.CRASHED, f"ended by signal {-outcome.exit.code} from outside")
    return None


def _unseen(outcome: Outcome) -> Failed:
    """An end that nobody saw, without a product."""
    if not outcome.started:
        return Failed(Failure.KILLED, "the orchestrator ended before the program started")
    if not outcome.same_boot:
        return Failed(Failure.KILLED, "the machine was restarted")
    return Failed(Failure.CRASHED, "vanished: neither the program nor its watcher is alive")


def _retry(failed: Failed, past: list[Attempt], job: Job, limits: Limits) -> bool:
    if failed.failure is Failure.KILLED:
        return True
    if failed.failure is Failure.CRASHED:
        results = [earlier.result() for earlier in past[-(limits.crashes - 1) :]]
        crashed = [result for result in results if result and result.failure is Failure.CRASHED]
        return len(crashed) < limits.crashes - 1
    return job.another(failed.failure)


def tail(log: Path, limit: int) -> str:
    """The last `limit` bytes of a log as text; what is not UTF-8 is replaced. Empty when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _used(sample: VramSample) -> int:
    return sample.used_mib if sample.own_mib is None else sample.own_mib


def _append(path: Path, sample: VramSample) -> None:
    new = not path.exists()
    with path.open("a", encoding="ascii", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["time", "used_mib", "total_mib", "own_mib"])
        own = "" if sample.own_mib is None else sample.own_mib
        writer.writerow([f"{time.time():.1f}", sample.used_mib, sample.total_mib, own])


def _peak(path: Path) -> int | None:
    """Highest use in MiB: of this run's processes where the driver told, else of the whole card."""
    if not path.exists():
        return None
    with path.open(encoding="ascii", newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 4 and row[1].isdigit()]
    return max((int(row[3] or row[1]) for row in rows), default=None)
