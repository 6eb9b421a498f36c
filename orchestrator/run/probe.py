"""Twenty steps of every memory profile of a plan, before the night: what each takes of the card, and per step.

Each is an ordinary attempt at training in a place of its own below runs/, down the ladder where memory runs out. A
probe that is there is not made again, and none is ever counted as a run.
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


def wanted(asked: Plan, only: str = "*") -> list[Run]:
    """One probe for each memory profile among the asked runs."""
    points = [run.point for run in asked.runs(only) if not run.point.is_baseline]
    found = {history.key_of(point.params): point for point in reversed(points)}
    return [_probe(asked, key, found[key]) for key in reversed(found)]


def _probe(asked: Plan, key: str, point: Point) -> Run:
    """The first point of its profile, shortened. What it trains on is that point's, so that its buckets are, too."""
    params = resource_profile.shortened(point.params, STEPS)
    where = layout.probe_sweep(asked.settings.runs)
    return where.run(Point(id=key, name=key, params=params, dims=point.dims))


def run_probe(probes: Iterable[Run], ctx: Context, *, retry: bool = False) -> None:
    """Train each that is not done, down the ladder to where it fits or fails; `retry`: also those that failed."""
    ctx = replace(ctx, settings=_drawing_little(ctx.settings))
    for probe in probes:
        probe.create()
        again = retry
        while not ctx.stop and not probe.done(train.NAME):
            if state.status(probe).state not in RUNNABLE and not again:
                break
            again = False
            train.perform(probe, ctx)
        if ctx.stop:
            return


def _drawing_little(used: Settings) -> Settings:
    """Where trainings are looked at on their way, a single picture: it takes what many take, and little time."""
    return replace(used, early_stop=replace(used.early_stop, after=0.9, pictures=1)) if used.early_stop else used


def failed(probes: Sequence[Run]) -> list[Run]:
    """Those that did not come to their end."""
    return [probe for probe in probes if not probe.done(train.NAME)]
