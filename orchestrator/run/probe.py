"""Probes: 20 steps of each memory profile of a plan, to measure VRAM and seconds per step.

A probe is a training in `runs/.probe`, with the OOM fallback. It is not repeated, and never counted as a run. Several
equal trainings that run on one GPU at once measure the speed of colocated runs; they have no fallback.
"""

import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from orchestrator.config.schema import Settings
from orchestrator.kohya import resource_profile
from orchestrator.model import RUNNABLE, Point, State
from orchestrator.plan import history
from orchestrator.plan.plan import Plan
from orchestrator.run.context import Context
from orchestrator.run.stages import train
from orchestrator.store import layout, state
from orchestrator.store.layout import Run
from orchestrator.store.mps import Mps

STEPS = 20


def wanted(plan: Plan, only: str = "*") -> list[Run]:
    """One probe for each memory profile among the selected runs: its first point, shortened to STEPS."""
    return [_probe(plan, key, point) for key, point in _profiles(plan, only)]


def wanted_at_once(plan: Plan, only: str, count: int) -> list[list[Run]]:
    """For each memory profile, `count` equal trainings to run at once."""
    numbers = range(1, count + 1)
    return [[_probe(plan, f"{key}-{one}of{count}", point) for one in numbers] for key, point in _profiles(plan, only)]


def _profiles(plan: Plan, only: str) -> list[tuple[str, Point]]:
    """The key and the first selected point of each memory profile."""
    points = [run.point for run in plan.runs(only) if run.point.is_trained]
    first = {history.key_of(point.params): point for point in reversed(points)}
    return [(key, first[key]) for key in reversed(first)]


def _probe(plan: Plan, name: str, point: Point) -> Run:
    params = resource_profile.shortened(point.params, STEPS)
    return layout.probe_sweep(plan.settings.runs).run(Point(id=name, name=name, params=params, dims=point.dims))


def run_probe(probes: Iterable[Run], ctx: Context, *, retry: bool = False) -> None:
    """Train each probe that is not done until it succeeds or fails; with `retry` also those that failed before."""
    ctx = replace(ctx, settings=_with_one_preview(ctx.settings))
    for probe in probes:
        probe.create()
        retry_failed = retry
        while not ctx.stop and not probe.done(train.NAME):
            if state.status(probe).state not in RUNNABLE and not retry_failed:
                break
            retry_failed = False
            train.perform(probe, ctx)
        if ctx.stop:
            return


def run_at_once(groups: Iterable[Sequence[Run]], ctx: Context) -> None:
    """Train the probes of each group at once on one GPU, as clients of MPS. An incomplete group is repeated."""
    ctx = replace(ctx, settings=replace(_with_one_preview(ctx.settings), oom_fallback=()), colocated=True)
    for group in groups:
        if ctx.stop or all(probe.done(train.NAME) for probe in group):
            continue
        if not any(state.status(probe).state is State.RUNNING for probe in group):
            for probe in group:
                shutil.rmtree(probe.path, ignore_errors=True)
        mps = Mps(layout.mps(ctx.settings.runs, group[0]), [ctx.gpu], ctx.environ, ctx.listener.message)
        together = replace(ctx, at_once=len(group), environ={**ctx.environ, **mps.variables()})
        for probe in group:
            probe.create()
        try:
            with ThreadPoolExecutor(len(group)) as threads:
                list(threads.map(lambda probe, ctx=together: train.perform(probe, ctx), group))
        finally:
            mps.stop()


def _with_one_preview(settings: Settings) -> Settings:
    """With early stopping, draw a single preview: it needs as much VRAM as many, and less time."""
    if settings.early_stop is None:
        return settings
    return replace(settings, early_stop=replace(settings.early_stop, after=0.9, pictures=1))


def failed(probes: Sequence[Run]) -> list[Run]:
    """The probes without a result."""
    return [probe for probe in probes if not probe.done(train.NAME)]
