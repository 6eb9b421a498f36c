"""The outcome of an ended attempt, read only from the files in its folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator import files
from orchestrator.model import Failure, ProcessExit
from orchestrator.store import layout, process, records, vram_log

TAIL_BYTES = 256 * 1024

REDACTED_LOG = "log-end.txt"
"""The end of the log without the secrets of the environment in which the attempt ended."""

_FULL_MIB = 8
"""MiB free on the disk below which a failure is DISK_FULL: the log may lack the error for the same reason."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why an attempt has no product."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attempt's files say after its end.

    exit: None when no exit was recorded. stopped: why an orchestrator stopped it. started: whether its shim ran.
    same_boot: whether it was started here since the machine started. ours: whether this process started the attempt,
    and not an earlier orchestrator.
    """

    exit: ProcessExit | None
    stopped: FailureReason | None
    started: bool
    same_boot: bool
    ours: bool
    log: str
    peak_vram_mib: int | None

    @property
    def interrupted(self) -> bool:
        """Whether the user, the orchestrator's end or a restart of the machine ended it."""
        if self.stopped:
            return self.stopped.failure is Failure.KILLED
        if self.exit is not None:
            return False
        return not (self.same_boot if self.started else self.ours)


def read(folder: Path, *, ours: bool = False) -> Outcome:
    """The outcome of the attempt in `folder`; none of its processes runs any more."""
    return Outcome(
        exit=process.exited(folder),
        stopped=stopped(folder),
        started=process.started(folder),
        same_boot=process.same_boot(folder),
        ours=ours,
        log=tail(folder / "log"),
        peak_vram_mib=vram_log.peak(folder, colocated=layout.Attempt(folder).colocated),
    )


def stopped(folder: Path) -> FailureReason | None:
    """Why an orchestrator stopped the attempt, or was about to."""
    if not (folder / "stop.json").exists():
        return None
    return records.parse(
        folder / "stop.json", lambda record: FailureReason(Failure(record["failure"]), str(record["reason"]))
    )


def failure_cause(outcome: Outcome, found: FailureReason, folder: Path) -> FailureReason:
    """The root cause: what ended the program from outside, else `found`, the stage's own diagnosis."""
    if outcome.stopped:
        return outcome.stopped
    found = _without_exit(outcome) if outcome.exit is None else _from_exit(outcome.exit) or found
    free_mib = shutil.disk_usage(folder).free // 1024**2
    if free_mib < _FULL_MIB and not outcome.interrupted:
        return FailureReason(Failure.DISK_FULL, f"the disk is full, {free_mib} MiB are free: {found.reason}")
    if found.failure is Failure.KILLED and not outcome.interrupted:
        return FailureReason(Failure.CRASHED, found.reason)
    return found


def _from_exit(exit: ProcessExit) -> FailureReason | None:
    if exit.error:
        return FailureReason(Failure.BAD_CONFIG, f"could not be started: {exit.error}")
    if exit.host_oom:
        return FailureReason(Failure.HOST_OOM, "killed by the kernel: the machine ran out of memory")
    if exit.moved and exit.code:
        return FailureReason(Failure.CRASHED, "its folder was moved while it ran")
    if exit.code in (-2, -9, -15):
        return FailureReason(Failure.CRASHED, f"ended by signal {-exit.code} from outside")
    return None


def _without_exit(outcome: Outcome) -> FailureReason:
    if not outcome.started:
        return FailureReason(Failure.KILLED, "the orchestrator ended before the program started")
    if not outcome.same_boot:
        return FailureReason(Failure.KILLED, "its machine was restarted or is unreachable")
    return FailureReason(Failure.CRASHED, "ended without an exit code: the program and its shim are gone")


def log_end(log: Path, limit: int) -> tuple[str, bool]:
    """The end of a log, and whether it was redacted when its attempt ended; not if the log has changed since."""
    redacted = log.with_name(REDACTED_LOG)
    if redacted.exists() and log.exists() and redacted.stat().st_mtime_ns >= log.stat().st_mtime_ns:
        return tail(redacted, limit), True
    return tail(log, limit), False


def tail(log: Path, limit: int = TAIL_BYTES) -> str:
    """The last `limit` bytes of a log as text; empty when there is no log."""
    try:
        return files.read_tail(log, limit)
    except OSError:
        return ""
