"""Turns taken on the machines of a Ray cluster, over a shared folder: the same attempts, records and judgements.

A task carries out one attempt; Ray finds the machine that has a card, cores and memory for it. What lives and what has
ended is read from the records, as on one machine: a machine that dies takes nothing with it that was finished.
"""

import math
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.config.schema import NO_CARD, Settings
from orchestrator.errors import NotReady, OrchestrateError, Problem, errors_of
from orchestrator.gpu import Nvml
from orchestrator.model import PreparedDataset, Result
from orchestrator.run import schedule
from orchestrator.run.context import Context, Stop
from orchestrator.run.local_executor import Perform, TaskResult
from orchestrator.run.schedule import PeakVramTable, Slot, Task
from orchestrator.store.layout import Run

Check = Callable[[], list[Problem]]
"""What is missing on the machine that it is called on."""

_LOOK_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArgs:
    """What a task is told: a Context less what belongs to the machine it is taken on."""

    settings: Settings
    templates: Path
    datasets: Mapping[str, PreparedDataset]
    prompts: tuple[str, ...]
    colocated: bool
    card: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Going:
    turn: Task
    place: Slot
    takes: Mapping[str, float]


class RayExecutor:
    """A Team on the machines of a Ray cluster."""

    def __init__(
        self, ray: Any, ctx: Context, perform: Perform, peaks: PeakVramTable, smallest_mib: int | None
    ) -> None:
        self._ray, self._ctx, self._perform, self._peaks = ray, ctx, perform, peaks
        self._smallest_mib = smallest_mib
        self._desk = ray.remote(num_cpus=0)(EventActor).options(scheduling_strategy=_here(ray)).remote()
        self._take = ray.remote(max_retries=0)(_take)
        self._going: dict[Any, _Going] = {}
        self._lost: Counter[Path] = Counter()
        self._retired: set[bool] = set()

    @classmethod
    @contextmanager
    def open(
        cls, address: str, ctx: Context, perform: Perform, runs: Sequence[Run], check: Check
    ) -> Iterator["RayExecutor"]:
        """The cluster at `address` (`auto`, `HOST:PORT` or `ray://HOST:PORT`). Raises NotReady with what is missing."""
        ray = _connected(address)
        try:
            cards = _survey(ray, ctx, check)
            peaks = PeakVramTable.gather(runs) if ctx.settings.vram.colocate else PeakVramTable()
            yield cls(ray, ctx, perform, peaks, min(cards, default=None))
        finally:
            ray.shutdown()

    def start(self, waiting: list[Task]) -> None:
        """Submit what there is room for in all of the cluster together; the rest keeps its order with us.

        Raises NotReady when nothing goes on and nothing can: the last machine with a card has gone.
        """
        there, left = self._ray.cluster_resources(), []
        for turn in waiting:
            takes = self._takes(turn)
            if self._on_card(turn) in self._retired or not self._fits(takes, there):
                left.append(turn)
            else:
                self._submit(turn, takes)
        waiting[:] = left
        if not self._going and any(self._on_card(turn) not in self._retired for turn in left):
            what, remedy = "no machine of the cluster has a GPU any more", "`ray status`, then the same command"
            raise NotReady(Problem(what=what, key="--cluster", remedy=remedy))

    def ended(self) -> list[TaskResult]:
        done, _ = self._ray.wait(list(self._going), timeout=_LOOK_S)
        self._ray.get(self._desk.ask.remote(self._ctx.stop.asked))
        for event, told in self._ray.get(self._desk.heard.remote()):
            getattr(self._ctx.listener, event)(*told)
        return [self._ended(self._going.pop(task), task) for task in done]

    def busy(self) -> bool:
        return bool(self._going)

    def retire(self, ended: TaskResult) -> None:
        """Ray chooses the machine, so that all of the kind is given up."""
        self._retired.add(self._on_card(ended.turn))

    # --- what a turn takes --------------------------------------------------------------------------------------------

    def _on_card(self, turn: Task) -> bool:
        return schedule.needs_gpu(turn, self._ctx.settings)

    def _takes(self, turn: Task) -> dict[str, float]:
        """In Ray's words."""
        used = self._ctx.settings
        wanted: dict[str, float] = {"CPU": used.scoring.workers}
        if self._on_card(turn):
            share = 0.0 if used.vram.card == NO_CARD else self._share(turn)
            wanted = {"GPU": share, "CPU": schedule.CORES_PER_TRAINING}
            wanted["memory"] = schedule.host_mib(turn, used) * 1024.0**2
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return _within({key: most for key, most in wanted.items() if most}, nodes)

    def _share(self, turn: Task) -> float:
        """Of a card: by the smallest one of the cluster, for it may go to any."""
        need_mib = self._peaks.need_mib(turn)
        if need_mib is None or not self._smallest_mib:
            return 1.0
        return min(1.0, math.ceil(100 * need_mib / (self._smallest_mib - schedule.SPARE_MIB)) / 100)

    def _fits(self, takes: Mapping[str, float], there: Mapping[str, float]) -> bool:
        taken = Counter[str]()
        for going in self._going.values():
            taken.update(going.takes)
        return all(taken[key] + much <= there.get(key, 0.0) for key, much in takes.items())

    def _submit(self, turn: Task, takes: Mapping[str, float]) -> None:
        place = Slot(card=turn.living or "", colocated=0 < takes.get("GPU", 0) < 1)
        task = self._take.options(
            num_cpus=takes.get("CPU", 0),
            num_gpus=takes.get("GPU", 0),
            memory=int(takes.get("memory", 0)),
            scheduling_strategy=self._where(turn),
        ).remote(self._perform, turn.run, turn.stage, self._errand(place), self._desk)
        self._going[task] = _Going(turn=turn, place=place, takes=takes)

    def _where(self, turn: Task) -> Any:
        """Where an attempt lives already, it is watched from there; else wherever there is room."""
        for node in self._ray.nodes():
            if turn.host and node["Alive"] and node["NodeManagerHostname"] == turn.host:
                return _at(self._ray, node["NodeID"], soft=True)
        return "DEFAULT"

    def _errand(self, place: Slot) -> TaskArgs:
        ctx = self._ctx
        return TaskArgs(
            settings=ctx.settings,
            templates=ctx.templates,
            datasets=dict(ctx.datasets),
            prompts=ctx.prompts,
            colocated=place.colocated,
            card=place.card,
        )

    # --- how it ended -------------------------------------------------------------------------------------------------

    def _ended(self, going: _Going, task: Any) -> TaskResult:
        ended = TaskResult(turn=going.turn, place=going.place)
        try:
            told = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            return replace(ended, error=error)
        except self._ray.exceptions.RayError as error:
            return replace(ended, error=self._too_often(going.turn, error))
        if isinstance(told, Result):
            self._lost.pop(going.turn.run.path, None)
            self._peaks.learn(going.turn.key, told)
            return replace(ended, result=told)
        kind, problems = told
        return replace(ended, error=kind(*problems))

    def _too_often(self, turn: Task, error: Exception) -> NotReady | None:
        """A machine that goes away is no error; the run goes elsewhere, a few times."""
        self._lost[turn.run.path] += 1
        if self._lost[turn.run.path] < self._ctx.settings.limits.crashes:
            return None
        what = f"lost the machine {self._lost[turn.run.path]} times in a row: {error}"
        return NotReady(Problem(what=what, where=str(turn.run.path), remedy="`ray status`, then the same command"))


def _within(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """As much of it as one machine has, for more than that Ray waits for ever; all of it where none has the card."""
    able = [node for node in nodes if node.get("GPU", 0.0) >= wanted.get("GPU", 0.0)]
    offers = [{key: min(most, node.get(key, 0.0)) for key, most in wanted.items()} for node in able]
    return max(offers, key=lambda offer: tuple(offer.values()), default=dict(wanted))


# --- the cluster ------------------------------------------------------------------------------------------------------


def _connected(address: str) -> Any:
    try:
        import ray
    except ImportError:
        what, remedy = "Ray is not installed here", "pip install '.[cluster]' -c constraints.txt, on every machine"
        raise NotReady(Problem(what=what, key="--cluster", value=address, remedy=remedy)) from None
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except OSError as error:
        remedy = "`ray start --head` on one machine, `ray start --address=HOST:6379` on the others"
        what = f"no Ray cluster answers: {error}"
        raise NotReady(Problem(what=what, key="--cluster", value=address, remedy=remedy)) from None
    return ray


def _knock(address: str) -> None:
    """Ray itself waits for minutes where nobody answers."""
    machine, _, port = address.rpartition("://")[2].rpartition(":")
    if machine and port.isdigit():
        socket.create_connection((machine, int(port)), timeout=10).close()


def _survey(ray: Any, ctx: Context, check: Check) -> list[int]:
    """The cards of all machines that train, MiB each; NotReady with what is missing on any of them."""
    task = ray.remote(num_cpus=0)(_look_around)
    train = [node for node in ray.nodes() if node["Alive"] and (_cardless(ctx) or node["Resources"].get("GPU"))]
    asked = [task.options(scheduling_strategy=_at(ray, node["NodeID"])).remote(check, ctx.templates) for node in train]
    found = ray.get(asked)
    problems = [
        replace(problem, where=f"{node['NodeManagerHostname']}: {problem.where}")
        for node, (_, told) in zip(train, found, strict=True)
        for problem in errors_of(told)
    ]
    if not train:
        what, remedy = "no machine of the cluster has a GPU", "`ray status`; start Ray where the cards are"
        problems = [Problem(what=what, key="--cluster", remedy=remedy)]
    if problems:
        raise NotReady(*problems)
    return [mib for cards, _ in found for mib in cards]


def _cardless(ctx: Context) -> bool:
    return ctx.settings.vram.card == NO_CARD


def _here(ray: Any) -> Any:
    return _at(ray, ray.get_runtime_context().get_node_id())


def _at(ray: Any, node: str, *, soft: bool = False) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=soft)


class EventActor:
    """An actor beside the orchestrator: carries its wish to stop to the machines, and their events back."""

    def __init__(self) -> None:
        self._asked = 0
        self._events: list[tuple[str, tuple[Any, ...]]] = []

    def ask(self, times: int) -> None:
        self._asked = times

    def asked(self) -> int:
        return self._asked

    def tell(self, event: str, told: tuple[Any, ...]) -> None:
        self._events.append((event, told))

    def heard(self) -> list[tuple[str, tuple[Any, ...]]]:
        events, self._events = self._events, []
        return events


# --- on the machine that takes the turn -------------------------------------------------------------------------------


def _look_around(check: Check, templates: Path) -> tuple[list[int], list[Problem]]:
    if not templates.is_dir():
        remedy = "mount the folder of the runs on every machine, under the same path"
        return [], [Problem(what="is not here: the folder is not shared", where=str(templates), remedy=remedy)]
    return [card.total_mib for card in Nvml().cards()], check()


def _take(perform: Perform, run: Run, stage: str, errand: TaskArgs, desk: Any) -> Any:
    """Carry out one attempt here: its Result, or the kind and the problems of the error that kept us from it."""
    import ray

    probe = Nvml()
    ctx = Context(
        settings=errand.settings,
        templates=errand.templates,
        datasets=errand.datasets,
        prompts=errand.prompts,
        probe=probe,
        listener=RemoteListener(ray, desk),
        environ={key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"},
        card=errand.card or _card(ray.get_gpu_ids(), probe),
        colocated=errand.colocated,
        stop=RemoteStop(ray, desk),
    )
    try:
        return perform(run, stage, ctx)
    except OrchestrateError as error:
        return type(error), error.problems


def _card(granted: Sequence[Any], probe: Nvml) -> str:
    """The UUID of the card that Ray granted, by index or UUID; empty when it granted none."""
    cards = [card.uuid for card in probe.cards()]
    names = [str(one) for one in granted[:1]]
    return next((cards[int(name)] if name.isdigit() else name for name in names), "")


class RemoteListener:
    """A Listener that sends what it is told to the desk."""

    def __init__(self, ray: Any, desk: Any) -> None:
        self._ray, self._desk = ray, desk

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self._ray.get(self._desk.tell.remote("started", (run, stage, attempt, note)))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        self._ray.get(self._desk.tell.remote("ended", (run, stage, result)))


class RemoteStop(Stop):
    """What the user asked at the orchestrator's terminal."""

    def __init__(self, ray: Any, desk: Any) -> None:
        self._ray, self._desk = ray, desk

    @property
    def asked(self) -> int:  # type: ignore[override]
        return int(self._ray.get(self._desk.asked.remote()))
