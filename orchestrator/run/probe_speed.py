"""Short trainings of one point with options that change its speed and VRAM, but not its mathematics.

Each option is measured alone against the settings as they are, then the fastest of each group together. All have the
same number of steps, at most one epoch and a few more, and no OOM fallback. Their folders in `runs/.speed` are kept.
"""

import os
import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.config import grid
from orchestrator.config.schema import Trainer
from orchestrator.errors import NothingSelected, error, errors_of
from orchestrator.host import Host
from orchestrator.kohya import argv, resource_profile
from orchestrator.kohya.arguments import check, lint, schema
from orchestrator.kohya.outputs import log
from orchestrator.kohya.packages import packages
from orchestrator.model import RUNNABLE, Params, Point
from orchestrator.plan import history
from orchestrator.plan.plan import Plan
from orchestrator.plan.training_length import LengthEstimator
from orchestrator.run import probe
from orchestrator.run.context import Context
from orchestrator.run.stages import train
from orchestrator.store import layout, outcome, state
from orchestrator.store.layout import Run

THREADS = "trainer.threads"
"""A setting; all other changes are arguments of sd-scripts."""

_GROUPS: Sequence[Sequence[Params]] = (
    [
        {"sdpa": True, "xformers": False, "mem_eff_attn": False},
        {"sdpa": False, "xformers": True, "mem_eff_attn": False},
    ],
    [{"gradient_checkpointing": True}, {"gradient_checkpointing": False}],
    [{"max_data_loader_n_workers": 0, "persistent_data_loader_workers": False}, {"max_data_loader_n_workers": 2}],
    [{"lowram": True, "highvram": False}, {"lowram": False, "highvram": True}, {"lowram": False, "highvram": False}],
    [{THREADS: 1}, {THREADS: 2}, {THREADS: 4}, {THREADS: 8}],
    [{"torch_compile": True}],
)
_DEFAULTS: Params = {"max_data_loader_n_workers": 8}
"""Of sd-scripts, where it is not False."""

_AFTER_EPOCH = 4
"""Steps after the first epoch. At the start of an epoch worker processes start, which is part of the measurement."""
_NOISE = 0.02
"""A training is faster than another one if it saves more than this share of the time."""
_STEPS = 1000
"""Assumed for a training whose length is unknown."""

_FIND = "import sys; from importlib.util import find_spec; print(*[m for m in sys.argv[1:] if not find_spec(m)])"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The figures of one short training. changes: what differs from the settings; empty: nothing.

    failure: why there are no figures. start_s: what the training took in addition to its steps.
    """

    changes: Params
    failure: str = ""
    seconds_per_step: float = 0.0
    start_s: float = 0.0
    peak_mib: int | None = None

    def seconds(self, steps: int) -> float:
        """Of a training of so many steps; infinite without figures."""
        return float("inf") if self.failure else self.start_s + self.seconds_per_step * steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The settings as they are, then each option, then the fastest options together. steps: of a whole training."""

    point: Point
    steps: int
    speeds: tuple[Speed, ...]

    @property
    def best(self) -> Speed:
        """The fastest that succeeded; the settings as they are unless it is clearly faster."""
        fastest = min(self.speeds, key=lambda one: one.seconds(self.steps))
        return fastest if self.is_faster(fastest) else self.speeds[0]

    def is_faster(self, one: Speed) -> bool:
        """Whether it is clearly faster than the settings as they are."""
        return one.seconds(self.steps) < self.speeds[0].seconds(self.steps) * (1 - _NOISE)


def compare(plan: Plan, only: str, ctx: Context, *, retry: bool = False) -> Comparison:
    """Measure the first selected training. Without the rest if the user stops it."""
    point = next((run.point for run in plan.runs(only) if run.point.is_trained), None)
    if point is None:
        raise NothingSelected(error("--only", f'"{only}" selects no training', "`orchestrate plan` lists them"))
    length = LengthEstimator(plan.settings.datasets).length(point.params)
    epoch = length.steps_per_epoch + _AFTER_EPOCH if length else 0
    short = max(probe.STEPS, epoch if epoch <= 2 * probe.STEPS else 0)
    result = Comparison(point=point, steps=length.steps if length else _STEPS, speeds=())
    fastest: list[Params] = []
    unchanged: list[Params] = [{}]
    for group in (unchanged, *_options(point.params, ctx)):
        measured = [found for changes in group if (found := _measure(point, changes, short, ctx, retry=retry))]
        result = replace(result, speeds=(*result.speeds, *measured))
        if measured and result.is_faster(best := min(measured, key=lambda one: one.seconds(result.steps))):
            fastest.append(best.changes)
    together = {key: value for changes in fastest for key, value in changes.items()}
    if len(fastest) > 1 and (found := _measure(point, together, short, ctx, retry=retry)):
        result = replace(result, speeds=(*result.speeds, found))
    return result


def _options(params: Params, ctx: Context) -> list[list[Params]]:
    """By group, the changes that differ from the settings, are valid, and need no module that is missing."""
    trainer, accepted = ctx.settings.trainer, schema.load_schema(ctx.settings.trainer.sd_scripts)
    now = {**_DEFAULTS, THREADS: trainer.threads, **params}
    groups = [
        [{key: value for key, value in one.items() if now.get(key, False) != value} for one in group]
        for group in _GROUPS
    ]
    needed = {module for group in groups for one in group for module in packages({**params, **_arguments(one)})}
    missing = _missing(trainer, needed - packages(params).keys())

    def is_possible(changes: Params) -> bool:
        changed = {**params, **_arguments(changes)}
        problems = [*check.check([changed], accepted), *lint.lint_points([changed], datasets=ctx.settings.datasets)]
        few = int(str(changes.get(THREADS, 0))) <= Host().cores()
        return bool(changes) and few and not missing & packages(changed).keys() and not errors_of(problems)

    return [list(filter(is_possible, group)) for group in groups]


def _missing(trainer: Trainer, modules: Collection[str]) -> set[str]:
    """Those of the modules that the trainer's interpreter does not find."""
    command = [str(trainer.python), "-c", _FIND, *sorted(modules)]
    environment = {**os.environ, **argv.environment(trainer, gpu=None)}
    return set(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split())


def _measure(point: Point, changes: Params, steps: int, ctx: Context, *, retry: bool) -> Speed | None:
    """The figures of one option; None if the user stopped it."""
    if ctx.stop:
        return None
    trainer = ctx.settings.trainer
    trainer = replace(trainer, threads=int(str(changes.get(THREADS, trainer.threads or 0))) or None)
    ctx = replace(ctx, settings=replace(ctx.settings, trainer=trainer, oom_fallback=()))
    run = _run(point, changes, steps, ctx)
    probe.run_probe([run], ctx, retry=retry)
    if not run.done(train.NAME):
        status = state.status(run)
        return None if status.state in RUNNABLE else Speed(changes=changes, failure=status.reason)
    attempt = run.attempts(train.NAME)[-1]
    result, rate = attempt.result(), log.seconds_per_later_step(outcome.tail(attempt.path / "log"))
    if result is None or rate is None:
        return Speed(changes=changes, failure=f"{attempt.path / 'log'} has no progress bars")
    start = max(0.0, result.seconds - rate * steps)
    return Speed(changes=changes, seconds_per_step=rate, start_s=start, peak_mib=result.peak_vram_mib)


def _run(point: Point, changes: Params, steps: int, ctx: Context) -> Run:
    """Its id depends on all that its figures depend on."""
    params = resource_profile.shortened({**point.params, **_arguments(changes)}, steps)
    gpu = next((gpu.name for gpu in ctx.probe.gpus() if gpu.uuid == ctx.gpu), "")
    on: dict[str, Any] = {"gpu": gpu, THREADS: ctx.settings.trainer.threads or 0}
    on |= history.conditions(ctx.settings, train.NAME, str(params["base_model"]))
    identity = grid.point_id({**params, **on})
    name = grid.point_name(changes, changes, identity) if changes else f"settings-{identity}"
    return layout.speed_sweep(ctx.settings.runs).run(Point(id=identity, name=name, params=params, dims=point.dims))


def _arguments(changes: Params) -> Params:
    return {key: value for key, value in changes.items() if key != THREADS}
