"""Drives the runs of a frozen sweep to their end. The only loop over runs."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator import store
from orchestrator.context import Context
from orchestrator.errors import NotReady, Problem
from orchestrator.model import MACHINE_FAILURES, Result, State
from orchestrator.stages import generate, score, train
from orchestrator.store import Run

RUNNABLE = frozenset({State.PENDING, State.RUNNING, State.CRASHED, State.KILLED})
_PERFORM: Mapping[str, Callable[[Run, Context], Result]] = {
    stage.NAME: stage.perform for stage in (train, generate, score)
}


def drive(runs: Sequence[Run], ctx: Context, *, retry: bool = False, fail_fast: bool = False) -> None:
    """Bring every run as far as it goes. Raises NotReady when the machine, not the points, makes runs fail.

    retry: give those that failed for good another attempt. fail_fast: stop at the first failed run.
    """
    in_a_row: list[Result] = []
    for run in runs:
        result = advance(run, ctx, retry=retry)
        if ctx.stop:
            return
        if result is None:  # it was finished, or had failed, before: that tells nothing of the machine now
            continue
        if store.status(run).state is not State.FAILED:
            in_a_row.clear()
            continue
        in_a_row.append(result)
        _pause_if_poisoned(in_a_row, ctx.settings.limits.crashes)
        if fail_fast:
            return


def advance(run: Run, ctx: Context, *, retry: bool = False) -> Result | None:
    """One run through its stages until it is finished, has failed, or the user stops it; its last result."""
    run.create()
    result = None
    while not ctx.stop:
        status = store.status(run)
        if status.state not in RUNNABLE and not (retry and status.state is State.FAILED):
            break
        retry = False
        result = _PERFORM[status.stage](run, ctx)
    return result


def _pause_if_poisoned(in_a_row: Sequence[Result], limit: int) -> None:
    kinds = [result.failure for result in in_a_row[-limit:]]
    if len(kinds) == limit and len(set(kinds)) == 1 and kinds[0] in MACHINE_FAILURES:
        raise NotReady(
            Problem(
                what=f"{limit} runs in a row failed with {kinds[0]}: the sweep is paused, it looks like the machine",
                value=in_a_row[-1].reason,
                remedy="mend it (`orchestrate check`), then the same command with `--retry failed` goes on",
            )
        )
