"""Runs tasks on this machine: one thread per attempt, as many at once as GPUs, memory and cores allow."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

from orchestrator.host import Host
from orchestrator.model import Failure, Result
from orchestrator.run import generators, schedule
from orchestrator.run.context import Context
from orchestrator.run.generators import Generators
from orchestrator.run.schedule import GpuLoad, MemoryBudget, PeakVramTable, Slot, Task
from orchestrator.run.stages import generate, score, train
from orchestrator.store import layout, process
from orchestrator.store.layout import Run
from orchestrator.store.mps import Mps

Perform = Callable[[Run, str, Context], Result]
"""Runs one attempt at a stage of a run."""

_WAIT_S = 5.0
"""Then the GPUs are examined again: another process may have released VRAM."""

_AHEAD_S = 20.0
"""A generator is started when a training has so little left: sd-scripts imports for 5 to 10 s, then saves the LoRA."""

_MAX_THREADS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """A task that has ended: with a result, with an error, or with neither if its machine was lost."""

    task: Task
    slot: Slot
    result: Result | None = None
    error: BaseException | None = None


class Executor(Protocol):
    """Runs tasks: in threads of this machine, or on a cluster."""

    def start(self, queue: list[Task]) -> None:
        """Start the tasks that fit now, and remove them from the queue."""

    def ended(self) -> list[TaskResult]:
        """Wait for some seconds; the tasks that have ended."""

    def busy(self) -> bool:
        """Whether any task runs."""

    def retire(self, ended: TaskResult) -> None:
        """Start no more tasks like this one in the same place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    """need_mib: assigned VRAM, None if it is unknown. host_mib: assigned RAM."""

    task: Task
    slot: Slot
    need_mib: int | None
    host_mib: int


class LocalExecutor:
    """One task per GPU, more if they are colocated; besides them, as many scorers as there are cores for.

    Colocated tasks are clients of the sweep's MPS daemon, which limits the VRAM that they allocate.
    """

    def __init__(
        self, ctx: Context, gpus: Sequence[str], perform: Perform, peaks: PeakVramTable, host: Host, mps: Mps | None
    ) -> None:
        self._generators = Generators(ctx.settings.limits.grace_seconds, ctx.stop.hurry)
        self._ctx = replace(ctx, generators=self._generators)
        self._perform, self._peaks, self._host, self._mps = perform, peaks, host, mps
        self._budgets = {gpu: MemoryBudget() for gpu in gpus}
        self._host_budget = MemoryBudget()
        self._max_scorers = max(1, host.cores() // ctx.settings.scoring.workers)
        self._max_gpu_tasks = max(len(gpus), host.cores() // schedule.CORES_PER_TRAINING)
        self._running: dict[Future[Result], RunningTask] = {}
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="watch")

    @classmethod
    @contextmanager
    def open(
        cls, ctx: Context, gpus: Sequence[str], perform: Perform, runs: Sequence[Run], host: Host | None = None
    ) -> Iterator["LocalExecutor"]:
        """An executor for `runs`. All its threads and generators have ended when the block ends."""
        folder = layout.mps(ctx.settings.runs, runs[0]) if runs else None
        mps = Mps(folder, gpus, ctx.environ, ctx.listener.message) if folder else None
        if folder:
            generators.stop_orphans(folder.parent, ctx.settings.limits.grace_seconds)
        executor = cls(ctx, gpus, perform, PeakVramTable.gather(runs, ctx.settings), host or Host(), mps)
        with ExitStack() as stack:
            if mps:
                stack.callback(mps.stop)  # also one of an earlier orchestrator
            stack.enter_context(executor._generators)
            stack.enter_context(executor._threads)
            yield executor

    def start(self, queue: list[Task]) -> None:
        waiting, loads = [], self._loads()
        for task in queue:
            need_mib = self._peaks.need_mib(task)
            if slot := self._slot(task, need_mib, loads):
                self._make_room(task, slot, need_mib, loads)
                self._start(task, slot, need_mib)
                loads = self._loads()
            else:
                waiting.append(task)
        queue[:] = waiting
        tasks = (*queue, *(one.task for one in self._running.values()))
        if not any(task.needs_gpu or task.stage == score.RANK for task in tasks):  # images follow its ranking
            self._generators.stop_all()
        self._start_generators(queue)

    def _start_generators(self, queue: Sequence[Task]) -> None:
        """While the last training on a GPU ends, start the generator of the images that follow: it has much to import.

        Each GPU prepares another run. Not with `vram.colocate`, where a generator is there already, or has to wait for
        VRAM.
        """
        on_gpus = takewhile(lambda task: task.stage in layout.GENERATING, (task for task in queue if task.needs_gpu))
        following = [task for task in on_gpus if not self._generators.is_used(task.run.path / task.stage)]
        if self._ctx.settings.vram.colocate or not following:
            return
        ending = (
            one.slot.gpu
            for one in self._running.values()
            if one.task.stage == train.NAME
            and not self._generators.folder(one.slot.gpu)
            and train.seconds_left(one.task.run) < _AHEAD_S
        )
        total_mib, used_mib = self._host.memory_mib()
        for number, (gpu, task) in enumerate(zip(ending, following, strict=False), 1):
            if total_mib - used_mib > number * schedule.LOADING_MIB:
                with contextlib.suppress(Exception):  # the attempt reports it
                    generate.start_generator(task.run, task.stage, replace(self._ctx, gpu=gpu))

    def ended(self) -> list[TaskResult]:
        done, _ = wait(self._running, _WAIT_S, FIRST_COMPLETED)
        return [self._ended(self._running.pop(future), future) for future in done]

    def busy(self) -> bool:
        return bool(self._running)

    def retire(self, ended: TaskResult) -> None:
        if ended.task.needs_gpu:
            self._budgets.pop(ended.slot.gpu, None)
        else:
            self._max_scorers = 0

    def _slot(self, task: Task, need_mib: int | None, loads: Sequence[GpuLoad]) -> Slot | None:
        if task.stage in layout.GENERATING:
            loads = [load for load in loads if load.gpu not in self._generating()]
        if task.needs_gpu:
            return schedule.choose_slot(task, need_mib, loads)
        scorers = sum(not running.task.needs_gpu for running in self._running.values())
        return Slot(gpu="") if task.running_on is not None or scorers < self._max_scorers else None

    def _make_room(self, task: Task, slot: Slot, need_mib: int | None, loads: Sequence[GpuLoad]) -> None:
        """Stop the idle generator of the slot's GPU unless the task fits beside it; `loads` do not count it."""
        if not task.needs_gpu or task.stage in layout.GENERATING or slot.gpu in self._generating():
            return
        idle_mib = self._peaks.by_key.get(schedule.LORA_IMAGES)
        free_mib = next((load.free_mib for load in loads if load.gpu == slot.gpu), 0)
        if not slot.colocated or need_mib is None or idle_mib is None or need_mib + idle_mib > free_mib:
            self._generators.stop(slot.gpu)

    def _generating(self) -> set[str]:
        """The GPUs on which images are generated now."""
        return {one.slot.gpu for one in self._running.values() if one.task.stage in layout.GENERATING}

    def _start(self, task: Task, slot: Slot, need_mib: int | None) -> None:
        mps = (
            self._mps.variables(int(need_mib * schedule.ALLOCATABLE))
            if self._mps and slot.colocated and need_mib
            else {}
        )
        environ = {**self._ctx.environ, **mps}
        ctx = replace(self._ctx, gpu=slot.gpu, colocated=slot.colocated, environ=environ)
        future = self._threads.submit(self._perform, task.run, task.stage, ctx)
        host_mib = schedule.host_mib(task, self._ctx.settings) if task.needs_gpu else 0
        self._running[future] = RunningTask(task=task, slot=slot, need_mib=need_mib, host_mib=host_mib)

    def _ended(self, running: RunningTask, future: Future[Result]) -> TaskResult:
        error = future.exception()
        result = None if error else future.result()
        self._peaks.add(running.task.memory_key, result)
        if self._mps and result and result.failure is Failure.GPU_LOST:
            self._mps.note_failure(result.reason)
        return TaskResult(task=running.task, slot=running.slot, result=result, error=error)

    # --- free memory --------------------------------------------------------------------------------------------------

    def _loads(self) -> list[GpuLoad]:
        """The load of each GPU; none if the machine has no cores or RAM for another task on a GPU."""
        running = [one for one in self._running.values() if one.task.needs_gpu]
        if running and not self._host_has_room(running):
            return []
        return [self._load(gpu, [one for one in running if one.slot.gpu == gpu]) for gpu in self._budgets]

    def _host_has_room(self, running: Sequence[RunningTask]) -> bool:
        total_mib, used_mib = self._host.memory_mib()
        free_mib = self._host_budget.free_mib(total_mib, used_mib, [one.host_mib for one in running])
        return len(running) < self._max_gpu_tasks and free_mib >= max(one.host_mib for one in running)

    def _load(self, gpu: str, running: Sequence[RunningTask]) -> GpuLoad:
        alone = any(not one.slot.colocated or one.need_mib is None for one in running)
        if alone or not self._ctx.settings.vram.colocate:
            return GpuLoad(gpu=gpu, tasks=len(running), alone=True)
        attempts = [attempt for one in running for attempt in one.task.run.attempts(one.task.stage)[-1:]]
        idle = self._generators.folder(gpu)
        pids = {pid for attempt in attempts for pid in attempt.pids()} | set(process.pids_of(idle) if idle else ())
        sample = self._ctx.probe.sample(gpu, pids) if gpu else None
        if sample is None:
            return GpuLoad(gpu=gpu, tasks=len(running))
        assigned, own_mib = [one.need_mib or 0 for one in running], sample.own_mib if pids else None
        free_mib = self._budgets[gpu].free_mib(sample.total_mib, sample.used_mib, assigned, own_mib)
        return GpuLoad(gpu=gpu, tasks=len(running), free_mib=free_mib)
