"""Runs tasks on the machines of a Ray cluster that share the folder of the runs.

A Ray task runs one attempt; Ray chooses a machine with a GPU, cores and RAM for it. State is read from the records, as
on one machine, so a lost machine loses no finished work.
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

from orchestrator.config.schema import NO_GPU, Settings
from orchestrator.errors import NotReady, OrchestrateError, Problem, errors_of
from orchestrator.gpu import Nvml
from orchestrator.model import PreparedDataset, Result
from orchestrator.run import schedule
from orchestrator.run.context import Context, Stop
from orchestrator.run.local_executor import Perform, TaskResult
from orchestrator.run.schedule import PeakVramTable, Slot, Task
from orchestrator.store.layout import Run

Check = Callable[[], list[Problem]]
"""What is missing on the machine that calls it."""

_POLL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskArgs:
    """The part of a Context that is sent to a machine; the rest belongs to the machine itself."""

    settings: Settings
    templates: Path
    datasets: Mapping[str, PreparedDataset]
    prompts: tuple[str, ...]
    colocated: bool
    gpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _RunningTask:
    task: Task
    slot: Slot
    resources: Mapping[str, float]


class RayExecutor:
    """An Executor on the machines of a Ray cluster."""

    def __init__(
        self, ray: Any, ctx: Context, perform: Perform, peaks: PeakVramTable, smallest_mib: int | None
    ) -> None:
        self._ray, self._ctx, self._perform, self._peaks = ray, ctx, perform, peaks
        self._smallest_mib = smallest_mib
        here = _on_node(ray, ray.get_runtime_context().get_node_id())
        self._events = ray.remote(num_cpus=0)(EventActor).options(scheduling_strategy=here).remote()
        self._run_task = ray.remote(max_retries=0)(_run_task)
        self._running: dict[Any, _RunningTask] = {}
        self._lost: Counter[Path] = Counter()
        self._retired: set[bool] = set()

    @classmethod
    @contextmanager
    def open(
        cls, address: str, ctx: Context, perform: Perform, runs: Sequence[Run], check: Check
    ) -> Iterator["RayExecutor"]:
        """The cluster at `address` (`auto`, `HOST:PORT` or `ray://HOST:PORT`).

        Raises NotReady with what is missing, and when the connection is lost.
        """
        ray = _connect(address)
        try:
            sizes_mib = _check_machines(ray, ctx, check)
            peaks = PeakVramTable.gather(runs, ctx.settings)
            yield cls(ray, ctx, perform, peaks, min(sizes_mib, default=None))
        except (ray.exceptions.RayError, ConnectionError) as error:
            what = f"the connection to the cluster is lost: {str(error).splitlines()[0]}"
            remedy = "start Ray's head again (`ray start --head`), then run the same command"
            raise NotReady(Problem(what=what, key="--cluster", value=address, remedy=remedy)) from error
        finally:
            ray.shutdown()

    def start(self, queue: list[Task]) -> None:
        """Submit the tasks that fit into the whole cluster; the others stay in the queue.

        Raises NotReady when nothing runs and nothing can start, because no machine with a GPU is left.
        """
        available, waiting = self._ray.cluster_resources(), []
        for task in queue:
            resources = self._resources(task)
            if task.needs_gpu in self._retired or not self._fits(resources, available):
                waiting.append(task)
            else:
                self._submit(task, resources)
        queue[:] = waiting
        if not self._running and any(task.needs_gpu not in self._retired for task in waiting):
            what, remedy = "no machine of the cluster has a GPU any more", "see `ray status`, then run the same command"
            raise NotReady(Problem(what=what, key="--cluster", remedy=remedy))

    def ended(self) -> list[TaskResult]:
        done, _ = self._ray.wait(list(self._running), timeout=_POLL_S)
        self._ray.get(self._events.set_stop.remote(self._ctx.stop.asked))
        for event, arguments in self._ray.get(self._events.take.remote()):
            getattr(self._ctx.listener, event)(*arguments)
        return [self._ended(self._running.pop(task), task) for task in done]

    def busy(self) -> bool:
        return bool(self._running)

    def retire(self, ended: TaskResult) -> None:
        """Ray chooses the machine, so all tasks of the kind are retired."""
        self._retired.add(ended.task.needs_gpu)

    def _resources(self, task: Task) -> dict[str, float]:
        """What a task needs, as Ray's resources."""
        settings = self._ctx.settings
        wanted: dict[str, float] = {"CPU": settings.scoring.workers}
        if task.needs_gpu:
            share = 0.0 if settings.vram.card == NO_GPU else self._gpu_share(task)
            wanted = {"GPU": share, "CPU": schedule.CORES_PER_TRAINING}
            wanted["memory"] = schedule.host_mib(task, settings) * 1024.0**2
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return _within({key: amount for key, amount in wanted.items() if amount}, nodes)

    def _gpu_share(self, task: Task) -> float:
        """Of the smallest GPU of the cluster, because Ray may choose any."""
        need_mib = self._peaks.need_mib(task)
        if need_mib is None or not self._smallest_mib:
            return 1.0
        return min(1.0, math.ceil(100 * need_mib / (self._smallest_mib - schedule.SPARE_MIB)) / 100)

    def _fits(self, resources: Mapping[str, float], available: Mapping[str, float]) -> bool:
        used = Counter[str]()
        for running in self._running.values():
            used.update(running.resources)
        return all(used[key] + amount <= available.get(key, 0.0) for key, amount in resources.items())

    def _submit(self, task: Task, resources: Mapping[str, float]) -> None:
        slot, ctx = Slot(gpu=task.running_on or "", colocated=0 < resources.get("GPU", 0) < 1), self._ctx
        arguments = TaskArgs(
            settings=ctx.settings,
            templates=ctx.templates,
            datasets=dict(ctx.datasets),
            prompts=ctx.prompts,
            colocated=slot.colocated,
            gpu=slot.gpu,
        )
        submitted = self._run_task.options(
            num_cpus=resources.get("CPU", 0),
            num_gpus=resources.get("GPU", 0),
            memory=int(resources.get("memory", 0)),
            scheduling_strategy=self._strategy(task),
        ).remote(self._perform, task.run, task.stage, arguments, self._events)
        self._running[submitted] = _RunningTask(task=task, slot=slot, resources=resources)

    def _strategy(self, task: Task) -> Any:
        """An attempt that still runs is watched on its machine; a new one may start anywhere."""
        for node in self._ray.nodes():
            if task.host and node["Alive"] and node["NodeManagerHostname"] == task.host:
                return _on_node(self._ray, node["NodeID"], soft=True)
        return "DEFAULT"

    def _ended(self, running: _RunningTask, submitted: Any) -> TaskResult:
        ended = TaskResult(task=running.task, slot=running.slot)
        try:
            outcome = self._ray.get(submitted)
        except self._ray.exceptions.RayTaskError as error:
            return replace(ended, error=error)
        except self._ray.exceptions.RayError as error:
            return replace(ended, error=self._machine_lost(running.task, error))
        if isinstance(outcome, Result):
            self._lost.pop(running.task.run.path, None)
            self._peaks.add(running.task.memory_key, outcome)
            return replace(ended, result=outcome)
        kind, problems = outcome
        return replace(ended, error=kind(*problems))

    def _machine_lost(self, task: Task, error: Exception) -> NotReady | None:
        """The run goes to another machine; an error only after `limits.crashes` lost machines in a row."""
        self._lost[task.run.path] += 1
        if self._lost[task.run.path] < self._ctx.settings.limits.crashes:
            return None
        what = f"lost its machine {self._lost[task.run.path]} times in a row: {error}"
        remedy = "see `ray status`, then run the same command"
        return NotReady(Problem(what=what, where=str(task.run.path), remedy=remedy))


def _within(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`wanted`, limited to what one machine has, because Ray would wait forever for more."""
    able = [node for node in nodes if node.get("GPU", 0.0) >= wanted.get("GPU", 0.0)]
    offers = [{key: min(amount, node.get(key, 0.0)) for key, amount in wanted.items()} for node in able]
    return max(offers, key=lambda offer: tuple(offer.values()), default=dict(wanted))


# --- the cluster ------------------------------------------------------------------------------------------------------


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError:
        what, remedy = "Ray is not installed here", "pip install '.[cluster]' -c constraints.txt, on every machine"
        raise NotReady(Problem(what=what, key="--cluster", value=address, remedy=remedy)) from None
    try:
        machine, _, port = address.rpartition("://")[2].rpartition(":")
        if machine and port.isdigit():  # Ray itself waits for minutes where nothing answers
            socket.create_connection((machine, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level="warning")
    except OSError as error:
        remedy = "run `ray start --head` on one machine, `ray start --address=HOST:6379` on the others"
        what = f"no Ray cluster answers: {error}"
        raise NotReady(Problem(what=what, key="--cluster", value=address, remedy=remedy)) from None
    return ray


def _check_machines(ray: Any, ctx: Context, check: Check) -> list[int]:
    """The sizes in MiB of the GPUs of all machines that train. Raises NotReady with what is missing on any of them."""
    task = ray.remote(num_cpus=0)(_check_machine)
    without_gpu = ctx.settings.vram.card == NO_GPU
    nodes = [node for node in ray.nodes() if node["Alive"] and (without_gpu or node["Resources"].get("GPU"))]
    checks = [
        task.options(scheduling_strategy=_on_node(ray, node["NodeID"])).remote(check, ctx.templates) for node in nodes
    ]
    found = ray.get(checks)
    problems = [
        replace(problem, where=f"{node['NodeManagerHostname']}: {problem.where}")
        for node, (_, reported) in zip(nodes, found, strict=True)
        for problem in errors_of(reported)
    ]
    if not nodes:
        what, remedy = "no machine of the cluster has a GPU", "see `ray status`; start Ray on the machines with GPUs"
        problems = [Problem(what=what, key="--cluster", remedy=remedy)]
    if problems:
        raise NotReady(*problems)
    return [mib for sizes, _ in found for mib in sizes]


def _on_node(ray: Any, node: str, *, soft: bool = False) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=soft)


class EventActor:
    """Runs beside the orchestrator: passes the stop request to the machines, and their events back."""

    def __init__(self) -> None:
        self._stop = 0
        self._events: list[tuple[str, tuple[Any, ...]]] = []

    def set_stop(self, times: int) -> None:
        self._stop = times

    def stop(self) -> int:
        return self._stop

    def add(self, event: str, arguments: tuple[Any, ...]) -> None:
        self._events.append((event, arguments))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        events, self._events = self._events, []
        return events


# --- on the machine that runs the task --------------------------------------------------------------------------------


def _check_machine(check: Check, templates: Path) -> tuple[list[int], list[Problem]]:
    """The sizes of this machine's GPUs in MiB, and what is missing on it."""
    if not templates.is_dir():
        what, remedy = "does not exist on this machine", "mount the folder of the runs here, under the same path"
        return [], [Problem(what=what, where=str(templates), remedy=remedy)]
    return [gpu.total_mib for gpu in Nvml().gpus()], check()


def _run_task(perform: Perform, run: Run, stage: str, arguments: TaskArgs, events: Any) -> Any:
    """Run one attempt here: its Result, or the type and the problems of the error that prevented it."""
    import ray

    probe = Nvml()
    ctx = Context(
        settings=arguments.settings,
        templates=arguments.templates,
        datasets=arguments.datasets,
        prompts=arguments.prompts,
        probe=probe,
        listener=RemoteListener(ray, events),
        environ={key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"},
        gpu=arguments.gpu or _uuid(ray.get_gpu_ids(), probe),
        colocated=arguments.colocated,
        stop=RemoteStop(ray, events),
    )
    try:
        return perform(run, stage, ctx)
    except OrchestrateError as error:
        return type(error), error.problems


def _uuid(assigned: Sequence[Any], probe: Nvml) -> str:
    """The UUID of the GPU that Ray assigned by index or UUID; empty without one."""
    if not assigned:
        return ""
    name = str(assigned[0])
    return probe.gpus()[int(name)].uuid if name.isdigit() else name


class RemoteListener:
    """A Listener that sends its events to the orchestrator."""

    def __init__(self, ray: Any, events: Any) -> None:
        self._ray, self._events = ray, events

    def started(self, run: Run, stage: str, attempt: int, note: str) -> None:
        self._ray.get(self._events.add.remote("started", (run, stage, attempt, note)))

    def ended(self, run: Run, stage: str, result: Result) -> None:
        self._ray.get(self._events.add.remote("ended", (run, stage, result)))

    def message(self, text: str) -> None:
        self._ray.get(self._events.add.remote("message", (text,)))


class RemoteStop(Stop):
    """The stop request of the user at the orchestrator's terminal."""

    def __init__(self, ray: Any, events: Any) -> None:
        self._ray, self._events = ray, events

    @property
    def asked(self) -> int:  # type: ignore[override]
        return int(self._ray.get(self._events.stop.remote()))
