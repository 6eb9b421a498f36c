"""Forecasts and inspections as they are shown: tables for people, one JSON object for scripts."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from orchestrator.errors import Problem
from orchestrator.kohya import resource_profile
from orchestrator.model import Params, Point, Question, State
from orchestrator.plan import vram_estimate
from orchestrator.plan.check import CheckReport
from orchestrator.plan.forecast import ASSUMED, Forecast, Profile, RunForecast
from orchestrator.text import duration, pluralize, size
from orchestrator.values import same, toml_repr

_SHOWN_ROWS = 60


def page(told: Forecast, questions: Sequence[Question]) -> RenderableType:
    """What will be trained and why, what it takes of the card, and the sums."""
    parts: list[RenderableType] = [_head(told), *_asked(told, questions), *_alike(told), "", _runs(told)]
    if told.profiles:
        parts += ["", profiles(told)]
    return Group(*parts, "", *_sums(told))


def _head(told: Forecast) -> str:
    floors = sum(run.run.point.is_baseline for run in told.runs)
    done = sum(run.status.state is State.FINISHED for run in told.runs)
    beside = f" and {pluralize(floors, 'floor')} (the base model without any LoRA)" if floors else ""
    return f"[bold]{escape(told.name)}[/]: {pluralize(len(told.runs) - floors, 'training')}{beside}; {done} finished"


def _asked(told: Forecast, questions: Iterable[Question]) -> Iterator[str]:
    points = [run.run.point for run in told.runs]
    for question in questions:
        if question.kind != "contrast":
            yield escape(f"  {question.id}: {question.ask}")
            continue
        arms = " against ".join(
            f"{toml_repr(level)} ({pluralize(_at(points, question.dim, level), 'run')})" for level in question.levels
        )
        yield escape(f"  {question.id}: {question.ask} {question.dim} {arms}")


def _at(points: Iterable[Point], dim: str, level: Any) -> int:
    return sum(dim in point.params and same(point.params[dim], level) for point in points if not point.is_baseline)


_TOLD = (
    "base_model", "dataset", "network_dim", "network_alpha", "optimizer_type", "learning_rate", "lr_scheduler",
    "max_train_epochs", "max_train_steps", "train_batch_size", "gradient_accumulation_steps", "resolution",
)  # fmt: skip
"""What one wants to know of a training first."""


def _alike(told: Forecast) -> Iterator[str]:
    """What is the same in all trainings."""
    points = [run.run.point.params for run in told.runs if not run.run.point.is_baseline]
    if points:
        apart = resource_profile.differing(points)
        alike = {key: points[0][key] for key in _TOLD if key in points[0] and key not in apart}
        yield escape(f"  All with {label(alike)}")


def _runs(told: Forecast) -> Table:
    shown_runs = Table(box=None, pad_edge=False)
    shown_runs.add_column("run", overflow="fold")
    shown_runs.add_column("why", overflow="fold")
    for heading in ("steps", "epochs", "pictures", "train", "generate", "score", "disk"):
        shown_runs.add_column(heading, justify="right", no_wrap=True)
    for run in told.runs[:_SHOWN_ROWS]:
        shown_runs.add_row(*_cells(run))
    if len(told.runs) > _SHOWN_ROWS:
        shown_runs.caption = f"and {len(told.runs) - _SHOWN_ROWS} more; --only GLOB or --json shows them"
    return shown_runs


def _cells(run: RunForecast) -> list[str]:
    length = run.length
    steps, epochs = "" if run.exact else "~", "" if run.counted else "~"
    return [
        escape(run.run.point.name),
        escape(run.why),
        f"{steps}{length.steps}" if length else ("" if run.run.point.is_baseline else "?"),
        f"{epochs}{length.epochs}" if length else "",
        str(run.images),
        *(duration(seconds) if seconds else "" for seconds in (run.train_s, run.generate_s, run.score_s)),
        size(run.disk_bytes) if run.disk_bytes else "",
    ]


def profiles(told: Forecast) -> Table:
    """What each memory profile takes of the card, and per step."""
    shown_profiles = Table(box=None, pad_edge=False)
    of_card = f" of {told.card_gib:g} GiB" if told.card_gib else ""
    for heading in ("memory profile", "trainings", "s/step", "known from", f"peak VRAM{of_card}"):
        shown_profiles.add_column(heading, justify="right" if heading in ("trainings", "s/step") else "left")
    for profile in told.profiles[:_SHOWN_ROWS]:
        origin = profile.origin + (f"; conceded {', '.join(profile.fallbacks)}" if profile.fallbacks else "")
        pace, peak = f"{profile.seconds_per_step:.2f}", _peak(profile, told.card_gib)
        cells = (label(profile.settings) or "all", str(profile.runs), pace, origin, peak)
        shown_profiles.add_row(*map(escape, cells))
    return shown_profiles


def label(settings: Params) -> str:
    """What sets a memory profile apart, on one line."""
    plain = {key: value for key, value in settings.items() if not isinstance(value, tuple)} or settings
    return ", ".join(f"{key} {value if isinstance(value, str) else toml_repr(value)}" for key, value in plain.items())


def _peak(profile: Profile, card_gib: float | None) -> str:
    if profile.peak is None:
        return "not known"
    told = f"{profile.peak.gib:.1f} GiB" + (", estimated" if profile.peak.error_gib else "")
    if card_gib is None or profile.fallbacks:  # what was conceded is told beside it
        return told
    return told + (": doubtful, see check" if vram_estimate.verdict(profile.peak, card_gib) else ": fits")


def _sums(told: Forecast) -> Iterator[str]:
    yield (
        f"In all {duration(told.seconds)} on {pluralize(told.cards, 'card')}, {_hours(told.gpu_seconds)} GPU-hours; "
        f"{size(told.disk_bytes)} of disk, {size(told.free_bytes)} are free."
    )
    trained = [run for run in told.runs if run.train_s]
    assumed = [run for run in trained if run.origin == ASSUMED]
    if assumed:
        yield (
            f"The pace of {len(assumed)} of {len(trained)} trainings is assumed, not measured: "
            "`orchestrate probe` with the same grid measures it in minutes."
        )
    if any(run.length and not run.counted for run in trained):
        yield "~ estimated: the pictures are not here yet, or a recipe is still to make them."
    if any(run.length is None and not run.run.point.is_baseline for run in told.runs):
        yield "? the pictures are not here: put them there, or say their number (`pictures = 36`) in the settings."


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def as_json(told: Forecast, warnings: Iterable[Problem], toml: str = "") -> str:
    """One object, runs in the order of the grid; seconds, bytes and GiB; what is not known is null."""
    record = {
        "schema": 1,
        "sweep": told.name,
        "seconds": round(told.seconds, 1),
        "gpu_seconds": round(told.gpu_seconds, 1),
        "disk_bytes": told.disk_bytes,
        "free_bytes": told.free_bytes,
        "cards": told.cards,
        "card_gib": told.card_gib,
        "runs": [_run_record(run) for run in told.runs],
        "profiles": [_profile_record(profile) for profile in told.profiles],
        "warnings": [problem_record(problem) for problem in warnings],
        "toml": toml or None,
    }
    return json.dumps(record, indent=1, ensure_ascii=False)


def _run_record(run: RunForecast) -> dict[str, Any]:
    point, length = run.run.point, run.length
    return {
        "run": point.name,
        "id": point.id,
        "is_baseline": point.is_baseline,
        "params": dict(point.params),
        "state": run.status.state,
        "stage": run.status.stage or None,
        "why": run.why,
        "steps": length.steps if length else None,
        "epochs": length.epochs if length else None,
        "steps_exact": run.exact,
        "images": run.images,
        "train_s": round(run.train_s, 1),
        "generate_s": round(run.generate_s, 1),
        "score_s": round(run.score_s, 1),
        "disk_bytes": run.disk_bytes,
        "profile": run.profile or None,
        "known_from": run.origin,
    }


def _profile_record(profile: Profile) -> dict[str, Any]:
    return {
        "profile": profile.key,
        "settings": dict(profile.settings),
        "runs": profile.runs,
        "seconds_per_step": profile.seconds_per_step,
        "peak_gib": round(profile.peak.gib, 2) if profile.peak else None,
        "peak_error_gib": profile.peak.error_gib if profile.peak else None,
        "conceded": list(profile.fallbacks),
        "known_from": profile.origin,
    }


def problem_record(problem: Problem) -> dict[str, str]:
    """A finding for scripts."""
    return {
        "severity": problem.severity,
        "what": problem.what,
        "where": problem.where,
        "key": problem.key,
        "value": problem.value,
        "remedy": problem.remedy,
    }


def facts(found: CheckReport) -> RenderableType:
    """What was found out, one line each."""
    shown_facts = Table(box=None, pad_edge=False, show_header=False)
    for name, fact in found.facts.items():
        shown_facts.add_row(escape(name), escape(fact))
    return shown_facts


def inspection_json(found: CheckReport, *, ready: bool) -> str:
    """One object: whether this machine is ready, what was found out by name, and every finding."""
    findings = [problem_record(problem) for problem in found.problems]
    record = {"schema": 1, "ready": ready, "facts": dict(found.facts), "findings": findings}
    return json.dumps(record, indent=1, ensure_ascii=False)
