"""What came of an attempt, read from its files alone: it does not matter who watched, or whether anybody did."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from orchestrator.model import Failure, ProcessExit
from orchestrator.store import layout, process, records, vram_log

TAIL_BYTES = 256 * 1024

_FULL_MIB = 8
"""With less than this free, a program without other words failed for want of disk: its words had no room either."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """Why there is no product."""

    failure: Failure
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an attempt's files say after its end. `exit` None: nobody saw; `stopped`: why we ended it ourselves.

    ours: whether it was begun by this very orchestrator, and not by an earlier one that may have died over it.
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
        """Whether the user, the end of the orchestrator or of the machine cut it short, and nothing of its own."""
        if self.stopped:
            return self.stopped.failure is Failure.KILLED
        if self.exit is not None:
            return False
        return not (self.same_boot if self.started else self.ours)


def read(folder: Path, *, ours: bool = False) -> Outcome:
    """The outcome of the attempt in `folder`, of which nothing lives any more."""
    return Outcome(
        exit=process.exited(folder),
        stopped=stopped(folder),
        started=process.started(folder),
        same_boot=process.same_boot(folder),
        ours=ours,
        log=tail(folder / "log", TAIL_BYTES),
        peak_vram_mib=vram_log.peak(folder, colocated=layout.Attempt(folder).colocated),
    )


def stopped(folder: Path) -> FailureReason | None:
    """Why an orchestrator ended the attempt, or was about to."""
    if not (folder / "stop.json").exists():
        return None
    record = records.read(folder / "stop.json")
    return FailureReason(Failure(record["failure"]), record["reason"])


def failure_cause(outcome: Outcome, judged: FailureReason, folder: Path) -> FailureReason:
    """The first cause of a failure: what ended the program from outside, else what was `judged` of its work."""
    if outcome.stopped:
        return outcome.stopped
    found = _unseen(outcome) if outcome.exit is None else _obvious(outcome.exit) or judged
    free_mib = shutil.disk_usage(folder).free // 1024**2
    if free_mib < _FULL_MIB and not outcome.interrupted:
        return FailureReason(Failure.DISK_FULL, f"the disk is full, {free_mib} MiB are free: {found.reason}")
    if found.failure is Failure.KILLED and not outcome.interrupted:
        return FailureReason(Failure.CRASHED, found.reason)
    return found


def _obvious(exit: ProcessExit) -> FailureReason | None:
    """Ends that need no knowledge of the program."""
    if exit.error:
        return FailureReason(Failure.BAD_CONFIG, f"could not be started: {exit.error}")
    if exit.host_oom:
        return FailureReason(Failure.HOST_OOM, "killed by the kernel: the machine ran out of memory")
    if exit.code in (-2, -9, -15):
        return FailureReason(Failure.CRASHED, f"ended by signal {-exit.code} from outside")
    return None


def _unseen(outcome: Outcome) -> FailureReason:
    """An end that nobody saw, without a product."""
    if not outcome.started:
        return FailureReason(Failure.KILLED, "its watcher ended before the program started")
    if not outcome.same_boot:
        return FailureReason(Failure.KILLED, "its machine was restarted, or is gone")
    return FailureReason(Failure.CRASHED, "vanished: neither the program nor its watcher is alive")


def tail(log: Path, limit: int) -> str:
    """The last `limit` bytes of a log as text; what is not UTF-8 is replaced. Empty when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - limit))
            return file.read(limit).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
