"""The state of a run, derived from its records and processes; it is never stored."""

from dataclasses import dataclass

from orchestrator.model import Failure, Result, State
from orchestrator.store import process
from orchestrator.store.layout import Attempt, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A run's state, its current stage and attempt, and the reason of a failure."""

    state: State
    stage: str = ""
    attempt: int = 0
    failure: Failure | None = None
    reason: str = ""


def status(run: Run) -> Status:
    """Derive the status of a run from its first stage that is not done."""
    if run.done(run.stages[-1]):
        return Status(state=State.FINISHED)
    stage = next(stage for stage in run.stages if not run.done(stage))
    attempts = run.attempts(stage)
    if not attempts:
        return Status(state=State.PENDING, stage=stage)
    last = attempts[-1]
    result = last.result()
    if result is None:
        return Status(state=_open(last), stage=stage, attempt=last.number)
    return Status(state=_closed(result), stage=stage, attempt=last.number, failure=result.failure, reason=result.reason)


def _open(attempt: Attempt) -> State:
    """Of an attempt without a result: its process runs, waits to be evaluated, or vanished."""
    if process.running(attempt.path):
        return State.RUNNING
    ended = process.exited(attempt.path) is not None
    return State.PENDING if ended or not process.started(attempt.path) else State.CRASHED


def _closed(result: Result) -> State:
    if result.failure is None:
        return State.PENDING  # the product is verified; only its record is missing
    if result.failure is Failure.STOPPED_EARLY:
        return State.STOPPED
    if not result.retry:
        return State.FAILED
    return {Failure.CRASHED: State.CRASHED, Failure.KILLED: State.KILLED}.get(result.failure, State.PENDING)
