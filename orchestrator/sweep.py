"""Drives the runs of a frozen sweep to their end. The only loop over runs."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator import pool, schedule, store
from orchestrator.context import Context
from orchestrator.errors import NotReady, Problem
from orchestrator.model import Result, State
from orchestrator.pool import Ended, Team
from orchestrator.schedule import Health
from orchestrator.stages import generate, score, train
from orchestrator.store import Run

_PERFORM: Mapping[str, Callable[[Run, Context], Result]] = {
    stage.NAME: stage.perform for stage in (train, generate, score)
}


def drive(
    runs: Sequence[Run], ctx: Context, *, cards: Sequence[str] = (), retry: bool = False, fail_fast: bool = False
) -> None:
    """Bring every run as far as it goes, on these cards (`ctx.card` without any).

    retry: give those that failed for good another attempt. fail_fast: start nothing more after the first failed run.
    Raises NotReady when the machine, not the points, makes runs fail. Whatever is raised, and however it was stopped,
    no attempt is left unwatched.
    """
    with pool.Pool.open(ctx, cards or (ctx.card,), perform, runs) as team:
        drive_with(team, runs, ctx, retry=retry, fail_fast=fail_fast)


def drive_with(team: Team, runs: Sequence[Run], ctx: Context, *, retry: bool = False, fail_fast: bool = False) -> None:
    """As `drive`, by a team of any kind."""
    waiting = schedule.line_up(runs, ctx.settings, again=retry)
    ends = _Ends(team, ctx.settings.limits.crashes, fail_fast=fail_fast)
    team.start(waiting)
    while team.busy():
        for ended in team.ended():
            status = store.status(ended.turn.run)
            ends.judge(ended, status.state)
            following = schedule.next_turn(ended.turn.run, status, ctx.settings)
            waiting[:0] = [following] if following else []
        if not (ctx.stop or ends.halted):
            team.start(waiting)
    ends.report()


def perform(run: Run, stage: str, ctx: Context) -> Result:
    """Carry out one attempt at a stage of a run."""
    run.create()
    return _PERFORM[stage](run, ctx)


class _Ends:
    """What the ends of turns mean for those to come: a poisoned card takes none, an error or a wish ends them all."""

    def __init__(self, team: Team, limit: int, *, fail_fast: bool) -> None:
        self._team, self._limit, self._fail_fast = team, limit, fail_fast
        self._health = Health(limit)
        self._errors: list[BaseException] = []
        self._poisoned: list[Problem] = []
        self.halted = False

    def judge(self, ended: Ended, state: State) -> None:
        if ended.error:
            self._errors.append(ended.error)
        elif ended.result and self._health.poisoned(ended.turn, ended.place, ended.result, state):
            self._team.retire(ended)
            self._poisoned.append(self._problem(ended, ended.result))
        self.halted = self.halted or bool(self._errors) or (self._fail_fast and state is State.FAILED)

    def _problem(self, ended: Ended, result: Result) -> Problem:
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
