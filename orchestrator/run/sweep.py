"""Runs all runs of a frozen sweep: the only loop over runs."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from orchestrator.errors import NotReady, OrchestrateError, Problem
from orchestrator.model import Result, State
from orchestrator.run import attempt, schedule
from orchestrator.run.context import Context
from orchestrator.run.local_executor import Executor, LocalExecutor, TaskResult
from orchestrator.run.retry import FailureStreak
from orchestrator.run.stages import generate, score, train
from orchestrator.store import layout, state
from orchestrator.store.layout import Run

_PERFORM: Mapping[str, Callable[[Run, Context], Result]] = {
    train.NAME: train.perform,
    **{name: partial(generate.perform, name=name) for name in layout.GENERATING},
    **{name: partial(score.perform, name=name) for name in layout.SCORING},
}


def perform(run: Run, stage: str, ctx: Context) -> Result:
    """Run one attempt at a stage of a run. An unexpected exception fails this run; the others continue."""
    run.create()
    try:
        return _PERFORM[stage](run, ctx)
    except (OrchestrateError, OSError):
        raise
    except Exception as error:
        return attempt.fail(run, stage, error, ctx)


def run_sweep(
    runs: Sequence[Run], ctx: Context, *, gpus: Sequence[str] = (), retry: bool = False, fail_fast: bool = False
) -> None:
    """Run every run to its end on these GPUs, or on `ctx.card` without any.

    retry: give failed runs another attempt. fail_fast: start nothing after the first failed run. Raises NotReady when
    the machine makes several runs in a row fail. Returns or raises only after every started attempt has ended.
    """
    with LocalExecutor.open(ctx, gpus or (ctx.gpu,), perform, runs) as executor:
        run_sweep_on(executor, runs, ctx, retry=retry, fail_fast=fail_fast)


def run_sweep_on(
    executor: Executor, runs: Sequence[Run], ctx: Context, *, retry: bool = False, fail_fast: bool = False
) -> None:
    """As `run_sweep`, on any executor."""
    queue = schedule.build_queue(runs, ctx.settings, retry_failed=retry)
    policy = StopPolicy(executor, ctx.settings.limits.crashes, fail_fast=fail_fast)
    executor.start(queue)
    while executor.busy():
        for ended in executor.ended():
            status = state.status(ended.task.run)
            policy.add(ended, status.state)
            following = schedule.next_task(ended.task.run, status, ctx.settings, replicate=ended.task.replicate)
            queue += [following] if following else []
            queue.sort(key=lambda task: task.order)
        if not (ctx.stop or policy.stopped):
            executor.start(queue)
    policy.raise_errors()


class StopPolicy:
    """When to stop using a GPU (failures of the machine in a row), and when to stop the sweep (errors, fail_fast)."""

    def __init__(self, executor: Executor, limit: int, *, fail_fast: bool) -> None:
        self._executor, self._limit, self._fail_fast = executor, limit, fail_fast
        self._streak = FailureStreak(limit)
        self._errors: list[BaseException] = []
        self._paused: list[Problem] = []
        self.stopped = False

    def add(self, ended: TaskResult, status: State) -> None:
        if ended.error:
            self._errors.append(ended.error)
        elif ended.result and self._streak.pauses(ended.slot.gpu, ended.task.stage, ended.result):
            self._executor.retire(ended)
            what = f"{self._limit} runs in a row failed with {ended.result.failure}, so the machine may be the cause"
            remedy = "correct it (`orchestrate check` helps), then continue with `--retry failed`"
            problem = Problem(what=what, where=ended.slot.gpu, value=ended.result.reason, remedy=remedy)
            self._paused.append(problem)
        self.stopped = self.stopped or bool(self._errors) or (self._fail_fast and status is State.FAILED)

    def raise_errors(self) -> None:
        """Raise what stopped the sweep; called when no attempt runs any more."""
        if self._errors:
            raise self._errors[0]
        if self._paused:
            raise NotReady(*self._paused)
