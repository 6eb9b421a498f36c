"""Probes: 20 steps of each memory profile of a plan, to measure VRAM and seconds per step.

A probe is a training in `runs/.probe`, with the OOM fallback. It is not repeated, and never counted as a run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from orchestrator.config.schema import Settings
from orchestrator.kohya import resource_profile
from orchestrator.model import Point
from orchestrator.plan import history
from orchestrator.plan.plan import Plan
from orchestrator.run.context import Context
from orchestrator.run.schedule import RUNNABLE
from orchestrator.run.stages import train
from orchestrator.store import layout, state
from orchestrator.store.layout import Run

STEPS = 20


def wanted(plan: Plan, only: str = "*") -> list[Run]:
    """One probe for each memory profile among the selected runs: its first point, shortened to STEPS."""
    points = [run.point for run in plan.runs(only) if run.point.is_trained]
    first = {history.key_of(point.params): point for point in reversed(points)}
    return [_probe(plan, key, first[key]) for key in reversed(first)]


def _probe(plan: Plan, key: str, point: Point) -> Run:
    params = resource_profile.shortened(point.params, STEPS)
    return layout.probe_sweep(plan.settings.runs).run(Point(id=key, name=key, params=params, dims=point.dims))


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


def _with_one_preview(settings: Settings) -> Settings:
    """With early stopping, draw a single preview: it needs as much VRAM as many, and less time."""
    if settings.early_stop is None:
        return settings
    return replace(settings, early_stop=replace(settings.early_stop, after=0.9, pictures=1))


def failed(probes: Sequence[Run]) -> list[Run]:
    """The probes without a result."""
    return [probe for probe in probes if not probe.done(train.NAME)]
