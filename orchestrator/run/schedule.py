"""Scheduling decisions: the order of tasks, and the GPU on which the next one starts. Executors carry them out."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.schema import Settings
from orchestrator.kohya.oom_fallback import Fallback
from orchestrator.model import RUNNABLE, Result, State
from orchestrator.plan import history, train_config
from orchestrator.run import retry
from orchestrator.run.stages import train
from orchestrator.store import layout, process, state
from orchestrator.store.layout import Run
from orchestrator.store.state import Status

CORES_PER_TRAINING = 2
"""One core feeds the GPU, one loads images."""

LOADING_MIB = 4096
"""RAM that a program needs besides the base model that it loads: libraries, CUDA, images."""

SPARE_MIB = 1024
"""VRAM of each GPU that is never assigned: fragmentation, and peaks between two polls."""

LORA_IMAGES = "generate lora"
"""The memory key of all generations with LoRAs."""

_HEADROOM = 1.05
"""Factor on a measured peak, which the next run may exceed."""

ALLOCATABLE = 1.5
"""Factor on the assigned VRAM: more may not be allocated. Polls miss short peaks; decoding images took 2 GiB more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One attempt at the next stage of a run.

    memory_key: tasks with the same key need the same VRAM. alone: no other run may be on its GPU. running_on: the GPU
    of an attempt that an earlier orchestrator started and that still runs, None for a new one; host: its machine.
    order: tasks are started in ascending order: first those that already run, then baselines, the first replicate of
    every point, the second of every point, and so on.
    """

    run: Run
    stage: str
    memory_key: str = ""
    needs_gpu: bool = True
    alone: bool = False
    running_on: str | None = None
    host: str = ""
    replicate: int = 0
    order: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where a task runs. colocated: other runs are or may be started on the same GPU."""

    gpu: str
    colocated: bool = False


# --- the queue --------------------------------------------------------------------------------------------------------


def build_queue(runs: Iterable[Run], settings: Settings, *, retry_failed: bool = False) -> list[Task]:
    """The next task of every unfinished run, in their order."""
    tasks = (
        next_task(run, state.status(run), settings, retry_failed=retry_failed, replicate=replicate)
        for run, replicate in _by_replicate(runs)
    )
    return sorted((task for task in tasks if task), key=lambda task: task.order)


def next_task(
    run: Run, status: Status, settings: Settings, *, retry_failed: bool = False, replicate: int = 0
) -> Task | None:
    """The next task of a run; None when it is finished, or has failed and is not retried.

    replicate: the run's number among those that differ only in the seed.
    """
    if status.state not in RUNNABLE and not (retry_failed and status.state is State.FAILED):
        return None
    attempts = run.attempts(status.stage)
    running = attempts[-1] if status.state is State.RUNNING else None
    return Task(
        run=run,
        stage=status.stage,
        memory_key=_memory_key(run, status.stage, settings) if settings.vram.colocate else "",
        needs_gpu=status.stage not in layout.SCORING or settings.scoring.device != "cpu",
        alone=any(map(retry.needs_gpu_alone, attempts)),
        running_on=str(running.request().get("card") or "") if running else None,
        host=process.host(running.path) if running else "",
        replicate=replicate,
        order=(running is None, not run.point.is_baseline, replicate, *_stage_order(run, status, settings)),
    )


def _stage_order(run: Run, status: Status, settings: Settings) -> tuple[int, str, bool]:
    """With one task per GPU all trainings of a replicate come first, then the images, those of equal networks together,
    because the generator loads its base model once for them. With `vram.colocate` it stays beside trainings."""
    stage = layout.STAGES.index(status.stage) * (-1 if settings.vram.colocate else 1)
    params = run.point.params if status.stage in layout.GENERATING else {}
    network = [(name, params[name]) for name in sorted(params) if name.startswith(("base_model", "network_"))]
    return stage, repr(network), status.attempt == 0


def _by_replicate(runs: Iterable[Run]) -> list[tuple[Run, int]]:
    """Each run with its number among the runs that differ only in the seed."""
    counts: dict[str, int] = {}
    found = []
    for run in runs:
        point = repr(sorted((key, value) for key, value in run.point.params.items() if key != "seed"))
        counts[point] = counts.get(point, -1) + 1
        found.append((run, counts[point]))
    return found


def default_threads(cores: int, gpus: int, trainings: int, *, colocate: bool) -> int:
    """The threads of each program, so that the largest number of programs at once has a core for each thread."""
    at_once = max(gpus, min(cores // CORES_PER_TRAINING, trainings)) if colocate else gpus
    return max(1, cores // max(1, at_once))


def host_mib(task: Task, settings: Settings) -> int:
    """MiB of RAM that a task needs while it loads the base model."""
    base = settings.base_models[str(task.run.point.params["base_model"])].path
    return LOADING_MIB + (base.stat().st_size // 1024**2 if base.exists() else 0)


# --- VRAM -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class PeakVramTable:
    """The highest measured VRAM use in MiB, by memory key, of attempts that succeeded."""

    by_key: dict[str, int] = field(default_factory=dict)

    @classmethod
    def gather(cls, runs: Sequence[Run], settings: Settings) -> "PeakVramTable":
        """From these runs, the other sweeps in `runs`, and probes; empty unless runs are colocated."""
        table = cls()
        if not (runs and settings.vram.colocate):
            return table
        known = history.gather(layout.Sweep(runs[0].path.parent), settings).by_profile
        table.by_key |= {key: stats.peak_mib for key, stats in known.items() if stats.peak_mib and not stats.fallbacks}
        for run in runs:
            for attempt in run.attempts(train.NAME):
                table.add(_training_key(run, train_config.fallback_of(attempt)), attempt.result())
            for stage in layout.GENERATING:
                for attempt in run.attempts(stage):
                    table.add(_generation_key(run), attempt.result())
        return table

    def add(self, key: str, result: Result | None) -> None:
        if result and result.failure is None and result.peak_vram_mib:
            self.by_key[key] = max(result.peak_vram_mib, self.by_key.get(key, 0))

    def need_mib(self, task: Task) -> int | None:
        """The VRAM to assign to a task; None when it is unknown, or the task must be alone."""
        peak = self.by_key.get(task.memory_key)
        return None if peak is None or task.alone else int(peak * _HEADROOM)


def _memory_key(run: Run, stage: str, settings: Settings) -> str:
    if stage == train.NAME:
        return _training_key(run, train.choose_fallback(run, settings))
    return _generation_key(run) if stage in layout.GENERATING else f"{stage} lora"


def _training_key(run: Run, fallback: Fallback) -> str:
    return history.key_of({**run.point.params, **fallback.overrides})


def _generation_key(run: Run) -> str:
    """All images of a sweep are generated alike, except for the LoRA."""
    return "generate baseline" if run.point.is_baseline else LORA_IMAGES


@dataclass(slots=True)
class MemoryBudget:
    """Memory that other processes use, too: what is used beyond the assigned memory is theirs."""

    other_processes_mib: int = 0

    def free_mib(self, total_mib: int, used_mib: int, assigned_mib: Collection[int], own_mib: int | None = None) -> int:
        """What can still be assigned. Without `own_mib`, the use of our tasks, others keep the highest use so far."""
        beyond = max(0, used_mib - (sum(assigned_mib) if own_mib is None else own_mib))
        exact = own_mib is not None or not assigned_mib
        self.other_processes_mib = beyond if exact else max(self.other_processes_mib, beyond)
        return total_mib - self.other_processes_mib - sum(assigned_mib) - SPARE_MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLoad:
    """The number of tasks on a GPU, whether one of them must be alone, and the VRAM that can still be assigned."""

    gpu: str
    tasks: int = 0
    alone: bool = False
    free_mib: int = 0


def choose_slot(task: Task, need_mib: int | None, loads: Sequence[GpuLoad]) -> Slot | None:
    """The slot of a task that needs a GPU; None while it has to wait."""
    if task.running_on is not None:
        return Slot(gpu=task.running_on, colocated=task.run.attempts(task.stage)[-1].colocated)
    for load in sorted(loads, key=lambda load: load.tasks):
        if not load.tasks:
            return Slot(gpu=load.gpu, colocated=need_mib is not None and need_mib <= load.free_mib)
        if need_mib is not None and not load.alone and need_mib <= load.free_mib:
            return Slot(gpu=load.gpu, colocated=True)
    return None
