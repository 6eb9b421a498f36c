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
from orchestrator.run.schedule import Load, Memory, Peaks, Place, Turn
from orchestrator.store import process
from orchestrator.store.layout import Run

Perform = Callable[[Run, str, Context], Result]
"""Carry out one attempt at a stage of a run."""

_LOOK_AGAIN_S = 5.0
"""A stranger may have left the card meanwhile."""

_MANY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A turn that is over: with a result, or with what kept us from having one."""

    turn: Turn
    place: Place
    result: Result | None = None
    error: BaseException | None = None


class Team(Protocol):
    """Who takes the turns: threads here, or machines elsewhere."""

    def start(self, waiting: list[Turn]) -> None:
        """Begin what there is room for, and take it off the line."""

    def ended(self) -> list[Ended]:
        """Wait a while for turns to end; which did."""

    def busy(self) -> bool:
        """Whether any turn goes on."""

    def retire(self, ended: Ended) -> None:
        """Take nothing further like it there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Going:
    turn: Turn
    place: Place
    need_mib: int | None
    host_mib: int


class Pool:
    """One turn on each card, more where they are packed; as many scorers beside them as there are cores for."""

    def __init__(self, ctx: Context, cards: Sequence[str], perform: Perform, peaks: Peaks, host: Host) -> None:
        self._ctx, self._perform, self._peaks, self._host = ctx, perform, peaks, host
        self._memory = {card: Memory() for card in cards}
        self._host_memory = Memory()
        self._scorers = max(1, host.cores() // ctx.settings.scoring.workers)
        self._most = max(len(cards), host.cores() // schedule.CORES_PER_TRAINING)
        self._going: dict[Future[Result], _Going] = {}
        self._threads = ThreadPoolExecutor(_MANY, thread_name_prefix="watch")

    @classmethod
    @contextmanager
    def open(
        cls, ctx: Context, cards: Sequence[str], perform: Perform, runs: Sequence[Run], host: Host | None = None
    ) -> Iterator["Pool"]:
        """A pool that knows what these runs' like have taken so far; it leaves no thread behind."""
        peaks = Peaks.gather(runs) if ctx.settings.vram.pack else Peaks()
        pool = cls(ctx, cards, perform, peaks, host or Host())
        with pool._threads:
            yield pool

    def start(self, waiting: list[Turn]) -> None:
        left, loads = [], self._loads()
        for turn in waiting:
            need = self._peaks.need_mib(turn)
            if place := self._place(turn, need, loads):
                self._begin(turn, place, need)
                loads = self._loads()
            else:
                left.append(turn)
        waiting[:] = left

    def ended(self) -> list[Ended]:
        done, _ = wait(self._going, _LOOK_AGAIN_S, FIRST_COMPLETED)
        return [self._ended(self._going.pop(future), future) for future in done]

    def busy(self) -> bool:
        return bool(self._going)

    def retire(self, ended: Ended) -> None:
        if self._on_card(ended.turn):
            self._memory.pop(ended.place.card, None)
        else:
            self._scorers = 0

    def _place(self, turn: Turn, need_mib: int | None, loads: Sequence[Load]) -> Place | None:
        if self._on_card(turn):
            return schedule.choose(turn, need_mib, loads)
        scoring = sum(not self._on_card(going.turn) for going in self._going.values())
        return Place(card="") if turn.living is not None or scoring < self._scorers else None

    def _on_card(self, turn: Turn) -> bool:
        return schedule.wants_card(turn, self._ctx.settings)

    def _begin(self, turn: Turn, place: Place, need_mib: int | None) -> None:
        ctx = replace(self._ctx, card=place.card, packed=place.packed)
        future = self._threads.submit(self._perform, turn.run, turn.stage, ctx)
        host_mib = schedule.host_mib(turn, self._ctx.settings) if self._on_card(turn) else 0
        self._going[future] = _Going(turn=turn, place=place, need_mib=need_mib, host_mib=host_mib)

    def _ended(self, going: _Going, future: Future[Result]) -> Ended:
        error = future.exception()
        result = None if error else future.result()
        if result:
            self._peaks.learn(going.turn.key, result)
        return Ended(turn=going.turn, place=going.place, result=result, error=error)

    # --- what there is room for ---------------------------------------------------------------------------------------

    def _loads(self) -> list[Load]:
        """The cards as they stand; none where this machine itself has no room for one program more."""
        there = [going for going in self._going.values() if self._on_card(going.turn)]
        if there and not self._host_has_room(there):
            return []
        return [self._load(card, [going for going in there if going.place.card == card]) for card in self._memory]

    def _host_has_room(self, there: Sequence[_Going]) -> bool:
        total_mib, used_mib = self._host.memory_mib()
        free_mib = self._host_memory.free_mib(total_mib, used_mib, [going.host_mib for going in there])
        return len(there) < self._most and free_mib >= max(going.host_mib for going in there)

    def _load(self, card: str, there: Sequence[_Going]) -> Load:
        promised = [going.need_mib or 0 for going in there]
        alone = any(not going.place.packed or going.need_mib is None for going in there)
        if alone or not self._ctx.settings.vram.pack:
            return Load(card=card, turns=len(there), alone=True)
        sample = self._ctx.probe.sample(card, _processes(there)) if card else None
        if sample is None:
            return Load(card=card, turns=len(there))
        own_mib = sample.own_mib if there else None
        free_mib = self._memory[card].free_mib(sample.total_mib, sample.used_mib, promised, own_mib)
        return Load(card=card, turns=len(there), free_mib=free_mib)


def _processes(there: Sequence[_Going]) -> list[int]:
    attempts = [attempt for going in there for attempt in going.turn.run.attempts(going.turn.stage)[-1:]]
    return [pid for attempt in attempts for pid in process.marked(attempt.path)]
