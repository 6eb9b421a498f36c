"""Drives the runs of a frozen sweep to their end. The only loop over runs."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.errors import NotReady, Problem
from orchestrator.model import Result, State
from orchestrator.run import local_executor, schedule
from orchestrator.run.context import Context
from orchestrator.run.local_executor import Executor, TaskResult
from orchestrator.run.retry import FailureStreak
from orchestrator.run.stages import generate, score, train
from orchestrator.store import state
from orchestrator.store.layout import Run

_PERFORM: Mapping[str, Callable[[Run, Context], Result]] = {
    stage.NAME: stage.perform for stage in (train, generate, score)
}


def run_sweep(
    runs: Sequence[Run], ctx: Context, *, cards: Sequence[str] = (), retry: bool = False, fail_fast: bool = False
) -> None:
    """Bring every run as far as it goes, on these cards (`ctx.card` without any).

    retry: give those that failed for good another attempt. fail_fast: start nothing more after the first failed run.
    Raises NotReady when the machine, not the points, makes runs fail. Whatever is raised, and
    however it was stopped, no attempt is left unwatched.
    """
    with local_executor.LocalExecutor.open(ctx, cards or (ctx.card,), perform, runs) as team:
        run_sweep_on(team, runs, ctx, retry=retry, fail_fast=fail_fast)


def run_sweep_on(
    team: Executor, runs: Sequence[Run], ctx: Context, *, retry: bool = False, fail_fast: bool = False
) -> None:
    """As `drive`, by a team of any kind."""
    waiting = schedule.build_queue(runs, ctx.settings, again=retry)
    ends = StopPolicy(team, ctx.settings.limits.crashes, fail_fast=fail_fast)
    team.start(waiting)
    while team.busy():
        for ended in team.ended():
            status = state.status(ended.turn.run)
            ends.record(ended, status.state)
            following = schedule.next_task(ended.turn.run, status, ctx.settings)
            waiting[:0] = [following] if following else []
        if not (ctx.stop or ends.halted):
            team.start(waiting)
    ends.report()


def perform(run: Run, stage: str, ctx: Context) -> Result:
    """Carry out one attempt at a stage of a run."""
    run.create()
    return _PERFORM[stage](run, ctx)


class StopPolicy:
    """What the ends of turns mean for those to come: a poisoned card takes none, an error or a wish ends them all."""

    def __init__(self, team: Executor, limit: int, *, fail_fast: bool) -> None:
        self._team, self._limit, self._fail_fast = team, limit, fail_fast
        self._streak = FailureStreak(limit)
        self._errors: list[BaseException] = []
        self._poisoned: list[Problem] = []
        self.halted = False

    def record(self, ended: TaskResult, state: State) -> None:
        if ended.error:
            self._errors.append(ended.error)
        elif ended.result and self._streak.pauses(ended.place.card, ended.turn.stage, ended.result):
            self._team.retire(ended)
            self._poisoned.append(self._problem(ended, ended.result))
        self.halted = self.halted or bool(self._errors) or (self._fail_fast and state is State.FAILED)

    def _problem(self, ended: TaskResult, result: Result) -> Problem:
        return Problem(
            what=f"{self._limit} runs in a row failed with {result.failure}: "
            "the sweep is paused, it looks like the machine",
            where=ended.place.card,
            value=result.reason,
            remedy="mend it (`orchestrate check`), then the same command with `--retry failed` goes on",
        )

    def report(self) -> None:
        """Raise what kept the sweep from going on, once nothing is left to watch."""
        if self._errors:
            raise self._errors[0]
        if self._poisoned:
            raise NotReady(*self._poisoned)
