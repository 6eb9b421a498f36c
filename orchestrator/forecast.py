"""What a sweep will do and cost, before the night."""

from orchestrator import store
from orchestrator.model import State
from orchestrator.store import Run

_WHY = {
    State.FINISHED: "finished: nothing to do",
    State.RUNNING: "is running: will be watched to its end",
    State.FAILED: "failed for good: only with --retry failed",
    State.CRASHED: "crashed: another attempt",
    State.KILLED: "was stopped: another attempt",
}


def why(run: Run) -> str:
    """Why the run would be worked on, or not."""
    status = store.status(run)
    if status.state is State.PENDING:
        return f"to {status.stage}" + (f": attempt {status.attempt} left off there" if status.attempt else "")
    return _WHY[status.state] + (f" ({status.reason})" if status.reason else "")
