"""LoRAs on another base model than they were trained on: the same prompts and seeds, against that base's own floor."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from orchestrator import scoring
from orchestrator.config.schema import Settings
from orchestrator.errors import InputError, NothingSelected, Problem
from orchestrator.evidence import choice, confirmation, run_metrics, summary
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Point, Score
from orchestrator.plan import plan
from orchestrator.run import followup
from orchestrator.run.context import Context
from orchestrator.run.followup import FollowupRun
from orchestrator.store import layout
from orchestrator.store.hashes import HashCache
from orchestrator.store.layout import Run, Sweep

TABLE = "transfer.csv"


def selected(sweep: Sweep, base: str, only: str, settings: Settings) -> list[RunSummary]:
    """The scored runs that were trained on another base. Raises InputError for a base that is not in the settings."""
    if base not in settings.base_models:
        known = ", ".join(settings.base_models)
        raise InputError(Problem(what=f"there is no [base_models.{base}]", key="--to", value=base, remedy=known))
    found = [
        one
        for one in summary.gather(sweep)
        if one.choice and not one.run.point.is_baseline and one.run.point.params["base_model"] != base
        if fnmatchcase(one.run.point.name, only) or fnmatchcase(one.run.point.id, only)
    ]
    if not found:
        what = f"no scored run of {sweep.name} matches that was trained on another base than {base}"
        raise NothingSelected(Problem(what=what, remedy=f"`orchestrate status {sweep.name}`"))
    return found


def points(chosen: Sequence[RunSummary], base: str) -> list[Point]:
    """As if they had been trained on `base`, and its floor: what this machine must be ready for."""
    moved = [replace(one.run.point, params={**one.run.point.params, "base_model": base}) for one in chosen]
    return [*moved, plan.baseline_point(base)]


def prepare(chosen: Sequence[RunSummary], base: str, sweep: Sweep, ctx: Context) -> tuple[list[FollowupRun], Context]:
    """The folders for the pictures and the floor of the base model, which the sweep may have already; and the world."""
    hashes = HashCache(ctx.settings.runs)
    content = hashes.of(ctx.settings.base_models[base].path)
    wanted = []
    for one, point in zip(chosen, points(chosen, base), strict=False):
        folder = f"{base}-{followup.key(one, ctx.settings.generation, ctx.prompts, content)}"
        wanted.append(followup.prepare(one, one.run.transfer(folder, point)))
    return [*wanted, FollowupRun(run=sweep.baseline_run(plan.baseline_point(base)), strength=0.0)], ctx


def report(sweep: Sweep) -> Iterator[str]:
    """Write what was moved so far as a table, and say it in sentences."""
    rows = [row for one in summary.gather(sweep) if one.choice for row in _rows(one, sweep)]
    followup.write_table(sweep.report / TABLE, rows)
    for row in rows:
        yield (
            f"{row['run']} on {row['made_on']}: similarity {row['similarity_mean']}, {row['gain'] or '?'} over its "
            f"floor; on {row['trained_on']}, where it was trained: {row['similarity_at_home']}, {row['gain_at_home']}"
        )


def _rows(one: RunSummary, sweep: Sweep) -> Iterator[dict[str, str]]:
    for moved in one.run.transfers():
        base, scores = str(moved.point.params["base_model"]), _reported(one, _scores(moved))
        if not scores:
            continue
        told = run_metrics.summary(scores)
        yield {
            "run": one.run.point.name,
            "trained_on": str(one.run.point.params["base_model"]),
            "made_on": base,
            "similarity_mean": _number(told.similarity_mean),
            "no_face_rate": _number(told.no_face_rate),
            "gain": _number(confirmation.gain(scores, _scores(sweep.baseline_run(plan.baseline_point(base))))),
            "similarity_at_home": _number(one.metrics.similarity_mean if one.metrics else None),
            "gain_at_home": _number(one.gain),
        }


def _reported(one: RunSummary, scores: Sequence[Score]) -> list[Score]:
    """Those of the prompts and seeds that the run is reported on."""
    cells = {choice.cell(score) for score in one.choice.reported} if one.choice else set()
    return [score for score in scores if choice.cell(score) in cells]


def _scores(run: Run) -> tuple[Score, ...]:
    return scoring.read_scores(run.path / layout.PRODUCTS["score"]) if run.done("score") else ()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
