"""The workers of this machine: a thread sees each attempt to its end; how many go on at once, `schedule` decides."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.host import Host
from orchestrator.model import Result
from orchestrator.run import schedule
from orchestrator.run.context import Context
from orchestrator.run.schedule import GpuLoad, MemoryBudget, PeakVramTable, Slot, Task
from orchestrator.store import process
from orchestrator.store.layout import Run

Perform = Callable[[Run, str, Context], Result]
"""Carry out one attempt at a stage of a run."""

_LOOK_AGAIN_S = 5.0
"""A stranger may have left the card meanwhile."""

_MANY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """A turn that is over: with a result, or with what kept us from having one."""

    turn: Task
    place: Slot
    result: Result | None = None
    error: BaseException | None = None


class Executor(Protocol):
    """Who takes the turns: threads here, or machines elsewhere."""

    def start(self, waiting: list[Task]) -> None:
        """Begin what there is room for, and take it off the line."""

    def ended(self) -> list[TaskResult]:
        """Wait a while for turns to end; which did."""

    def busy(self) -> bool:
        """Whether any turn goes on."""

    def retire(self, ended: TaskResult) -> None:
        """Take nothing further like it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask:
    turn: Task
    place: Slot
    need_mib: int | None
    host_mib: int


class LocalExecutor:
    """One turn on each card, more where they are colocated; as many scorers beside them as there are cores for."""

    def __init__(self, ctx: Context, cards: Sequence[str], perform: Perform, peaks: PeakVramTable, host: Host) -> None:
        self._ctx, self._perform, self._peaks, self._host = ctx, perform, peaks, host
        self._memory = {card: MemoryBudget() for card in cards}
        self._host_memory = MemoryBudget()
        self._scorers = max(1, host.cores() // ctx.settings.scoring.workers)
        self._most = max(len(cards), host.cores() // schedule.CORES_PER_TRAINING)
        self._going: dict[Future[Result], RunningTask] = {}
        self._threads = ThreadPoolExecutor(_MANY, thread_name_prefix="watch")

    @classmethod
    @contextmanager
    def open(
        cls, ctx: Context, cards: Sequence[str], perform: Perform, runs: Sequence[Run], host: Host | None = None
    ) -> Iterator["LocalExecutor"]:
        """A pool that knows what these runs' like have taken so far; it leaves no thread behind."""
        peaks = PeakVramTable.gather(runs) if ctx.settings.vram.colocate else PeakVramTable()
        pool = cls(ctx, cards, perform, peaks, host or Host())
        with pool._threads:
            yield pool

    def start(self, waiting: list[Task]) -> None:
        left, loads = [], self._loads()
        for turn in waiting:
            need = self._peaks.need_mib(turn)
            if place := self._place(turn, need, loads):
                self._begin(turn, place, need)
                loads = self._loads()
            else:
                left.append(turn)
        waiting[:] = left

    def ended(self) -> list[TaskResult]:
        done, _ = wait(self._going, _LOOK_AGAIN_S, FIRST_COMPLETED)
        return [self._ended(self._going.pop(future), future) for future in done]

    def busy(self) -> bool:
        return bool(self._going)

    def retire(self, ended: TaskResult) -> None:
        if self._on_card(ended.turn):
            self._memory.pop(ended.place.card, None)
        else:
            self._scorers = 0

    def _place(self, turn: Task, need_mib: int | None, loads: Sequence[GpuLoad]) -> Slot | None:
        if self._on_card(turn):
            return schedule.choose(turn, need_mib, loads)
        scoring = sum(not self._on_card(going.turn) for going in self._going.values())
        return Slot(card="") if turn.living is not None or scoring < self._scorers else None

    def _on_card(self, turn: Task) -> bool:
        return schedule.needs_gpu(turn, self._ctx.settings)

    def _begin(self, turn: Task, place: Slot, need_mib: int | None) -> None:
        ctx = replace(self._ctx, card=place.card, colocated=place.colocated)
        future = self._threads.submit(self._perform, turn.run, turn.stage, ctx)
        host_mib = schedule.host_mib(turn, self._ctx.settings) if self._on_card(turn) else 0
        self._going[future] = RunningTask(turn=turn, place=place, need_mib=need_mib, host_mib=host_mib)

    def _ended(self, going: RunningTask, future: Future[Result]) -> TaskResult:
        error = future.exception()
        result = None if error else future.result()
        if result:
            self._peaks.learn(going.turn.key, result)
        return TaskResult(turn=going.turn, place=going.place, result=result, error=error)

    # --- what there is room for ---------------------------------------------------------------------------------------

    def _loads(self) -> list[GpuLoad]:
        """The cards as they stand; none where this machine itself has no room for one program more."""
        there = [going for going in self._going.values() if self._on_card(going.turn)]
        if there and not self._host_has_room(there):
            return []
        return [self._load(card, [going for going in there if going.place.card == card]) for card in self._memory]

    def _host_has_room(self, there: Sequence[RunningTask]) -> bool:
        total_mib, used_mib = self._host.memory_mib()
        free_mib = self._host_memory.free_mib(total_mib, used_mib, [going.host_mib for going in there])
        return len(there) < self._most and free_mib >= max(going.host_mib for going in there)

    def _load(self, card: str, there: Sequence[RunningTask]) -> GpuLoad:
        promised = [going.need_mib or 0 for going in there]
        alone = any(not going.place.colocated or going.need_mib is None for going in there)
        if alone or not self._ctx.settings.vram.colocate:
            return GpuLoad(card=card, turns=len(there), alone=True)
        sample = self._ctx.probe.sample(card, _processes(there)) if card else None
        if sample is None:
            return GpuLoad(card=card, turns=len(there))
        own_mib = sample.own_mib if there else None
        free_mib = self._memory[card].free_mib(sample.total_mib, sample.used_mib, promised, own_mib)
        return GpuLoad(card=card, turns=len(there), free_mib=free_mib)


def _processes(there: Sequence[RunningTask]) -> list[int]:
    attempts = [attempt for going in there for attempt in going.turn.run.attempts(going.turn.stage)[-1:]]
    return [pid for attempt in attempts for pid in process.pids_of(attempt.path)]
