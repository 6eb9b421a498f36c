"""Watches a running attempt: polls its log, loss and VRAM, applies the limits, and stops it when necessary."""

import contextlib
import math
import time
from dataclasses import asdict

from orchestrator.model import Failure, Progress, VramSample
from orchestrator.run.context import Context
from orchestrator.run.stages import Stage
from orchestrator.store import layout, outcome, process, records, vram_log
from orchestrator.store.layout import Attempt
from orchestrator.store.outcome import FailureReason

_LOG_BYTES = 16 * 1024
_SPILL_SLOWDOWN = 3
_SPILL_USE = 0.97


class Watcher:
    """Polls one attempt every `vram.poll_seconds` seconds until none of its processes is left."""

    def __init__(self, attempt: Attempt, stage: Stage, ctx: Context) -> None:
        self._attempt, self._stage, self._ctx = attempt, stage, ctx
        self._limits = ctx.settings.limits
        self._started = self._polled = self._log_grew = time.monotonic()
        self._log_size = 0
        self._fastest_step_s = math.inf

    def wait(self) -> None:
        """Return when no process of the attempt is left."""
        path = self._attempt.path
        while process.running(path) or process.beats(path):
            stopped = self._stopped_before() or self._poll() if process.exited(path) is None else None
            try:
                if stopped and not (path / "stop.json").exists():
                    records.write(path / "stop.json", asdict(stopped))
            finally:
                if stopped or process.exited(path):
                    process.stop(path, self._grace_s(stopped), self._ctx.stop.hurry)
            process.wait(path, self._ctx.settings.vram.poll_seconds)

    def _grace_s(self, stopped: FailureReason | None) -> float:
        """None after a log flood, which would go on filling the disk."""
        return 0.0 if stopped and stopped.failure is Failure.LOG_FLOOD else self._limits.grace_seconds

    def _stopped_before(self) -> FailureReason | None:
        """Why an earlier orchestrator was stopping the attempt, unless it was for its user."""
        stopped = outcome.stopped(self._attempt.path)
        return stopped if stopped and stopped.failure is not Failure.KILLED else None

    def _poll(self) -> FailureReason | None:
        """Why to stop the attempt now; None to let it run."""
        self._skip_suspended_time()
        progress = self._read_log()
        sample = self._sample()
        return (
            (FailureReason(Failure.KILLED, "interrupted by the user") if self._ctx.stop else None)
            or self._over_limits()
            or self._bad_loss(progress)
            or self._out_of_memory(sample, progress)
            or self._stage.check(self._attempt)
        )

    def _skip_suspended_time(self) -> None:
        """Do not count time in which nothing was polled: the machine or the orchestrator was suspended."""
        now = time.monotonic()
        missed = now - self._polled - 10 * self._ctx.settings.vram.poll_seconds
        if missed > 0:
            self._started, self._log_grew = self._started + missed, self._log_grew + missed
        self._polled = now

    def _read_log(self) -> Progress | None:
        """The progress at the end of the log; None where the log has not grown."""
        log = self._attempt.path / "log"
        size = log.stat().st_size if log.exists() else 0
        if size == self._log_size:
            return None
        self._log_size, self._log_grew = size, time.monotonic()
        return self._stage.progress(outcome.tail(log, _LOG_BYTES))

    def _sample(self) -> VramSample | None:
        if not self._ctx.gpu or self._stage.name in layout.SCORING:
            return None
        sample = self._ctx.probe.sample(self._ctx.gpu, self._attempt.pids())
        if sample:
            with contextlib.suppress(OSError):  # a full disk must not stop the training
                vram_log.append(self._attempt.path, sample)
        return sample

    def _over_limits(self) -> FailureReason | None:
        now, limits = time.monotonic(), self._limits
        if now - self._started > limits.wall_s:
            what = f"ran longer than the limit of {limits.wall_s:.0f} s (limits.wall_hours)"
            return FailureReason(Failure.TIMEOUT, what)
        if now - self._log_grew > limits.stall_s:
            return FailureReason(Failure.STALLED, f"no log output for {limits.stall_s:.0f} s (limits.stall_minutes)")
        if self._log_size > limits.log_mib * 1024 * 1024:
            what = f"wrote more than {limits.log_mib:g} MiB of log (limits.log_mib)"
            return FailureReason(Failure.LOG_FLOOD, what)
        return None

    def _bad_loss(self, progress: Progress | None) -> FailureReason | None:
        if progress and progress.loss is not None and not math.isfinite(progress.loss):
            return FailureReason(Failure.NAN, f"the loss became {progress.loss} by step {progress.step}")
        return None

    def _out_of_memory(self, sample: VramSample | None, progress: Progress | None) -> FailureReason | None:
        """Over the budget, or the driver moves VRAM to the host: the GPU is full and steps have become slow."""
        if sample is None:
            return None
        budget = self._ctx.settings.vram.budget_gib
        used = vram_log.used_by_attempt(sample, colocated=self._ctx.colocated)
        if budget and used and used > budget * 1024:
            what = f"out of memory at {used / 1024:.1f} GiB, over the budget of {budget:g} GiB (vram.budget_gib)"
            return FailureReason(Failure.OOM, what)
        step_s = progress.seconds_per_step if progress else None
        if step_s:
            self._fastest_step_s = min(self._fastest_step_s, step_s)
            slowdown = step_s / self._fastest_step_s
            if slowdown > _SPILL_SLOWDOWN and sample.used_mib > _SPILL_USE * sample.total_mib:
                return FailureReason(Failure.SPILL, f"the GPU is full and a step takes {slowdown:.1f} times as long")
        return None
