"""The output of commands with --json: one JSON object each; unknown values are null."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.errors import Problem

if TYPE_CHECKING:  # `status` needs none of these packages
    import pandas as pd

    from orchestrator.plan.check.report import CheckReport
    from orchestrator.plan.forecast import Forecast, Profile, RunForecast
    from orchestrator.report.answers.answer import Answer
    from orchestrator.report.status import StatusRow, SweepStatus
    from orchestrator.report.sweep_list import ListedSweep


def plan(
    costs: Forecast,
    warnings: Iterable[Problem],
    toml: str = "",
    replaced: Mapping[str, Sequence[str]] = MappingProxyType({}),
    most: Forecast | None = None,
) -> str:
    """Runs are in the order of the grid. Units: seconds, bytes, GiB; None: unknown.

    most: of a sequential sweep, with all seeds.
    """
    return _text(
        {
            "sweep": costs.name,
            "seconds": round(costs.seconds, 1) if costs.known else None,
            "gpu_seconds": round(costs.gpu_seconds, 1) if costs.known else None,
            "disk_bytes": costs.disk_bytes if costs.known else None,
            "free_bytes": costs.free_bytes,
            "cards": costs.gpus,
            "card_gib": costs.gpu_gib,
            "runs": [_run(run) for run in costs.runs],
            "profiles": [_profile(profile) for profile in costs.profiles],
            "warnings": [problem(one) for one in warnings],
            "replaced": {cause: list(keys) for cause, keys in replaced.items()},
            "most": {"gpu_seconds": round(most.gpu_seconds, 1) if most.known else None, "runs": len(most.runs)}
            if most
            else None,
            "toml": toml or None,
        }
    )


def check(found: CheckReport, *, ready: bool) -> str:
    """Whether this machine is ready, the facts by name, and all problems."""
    return _text({"ready": ready, "facts": dict(found.facts), "findings": [problem(one) for one in found.problems]})


def status(view: SweepStatus) -> str:
    """Runs are in the order of the grid."""
    return _text({"sweep": view.name, "left_s": view.left_s, "runs": [_status_row(row) for row in view.rows]})


def results(sweep: str, by: str, frame: pd.DataFrame) -> str:
    """The rows of a table of results, in its order."""
    rows = json.loads(frame.to_json(orient="records", double_precision=6))
    return _text({"sweep": sweep, "by": by, "rows": rows})


def answers(found: Iterable[Answer]) -> str:
    """All fields of the answers except their images; differences are in similarity or gain."""
    return _text({"answers": [_answer(one) for one in found]})


def sweeps(found: Iterable[ListedSweep]) -> str:
    """Those that were active last first."""
    return _text({"sweeps": [asdict(one) for one in found]})


def problem(one: Problem) -> dict[str, str]:
    """A problem as JSON."""
    keys = ("severity", "what", "where", "key", "value", "remedy")
    return {key: str(getattr(one, key)) for key in keys}


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps({"schema": 1, **record}, indent=1, ensure_ascii=False)


def _run(run: RunForecast) -> dict[str, Any]:
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
        "images": run.images if run.known else None,
        "train_s": round(run.train_s, 1) if run.known else None,
        "generate_s": round(run.generate_s, 1) if run.known else None,
        "score_s": round(run.score_s, 1) if run.known else None,
        "disk_bytes": run.disk_bytes if run.known else None,
        "profile": run.profile or None,
        "known_from": run.origin,
        "at_once": run.at_once,
    }


def _answer(one: Answer) -> dict[str, Any]:
    plain = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "images"}
    effects = [{**asdict(effect), "excessive": effect.excessive} for effect in one.side_effects]
    return {**plain, "interval": one.interval and asdict(one.interval), "side_effects": effects}


def _profile(profile: Profile) -> dict[str, Any]:
    return {
        "profile": profile.key,
        "settings": dict(profile.settings),
        "runs": profile.runs,
        "seconds_per_step": profile.seconds_per_step,
        "peak_gib": round(profile.peak.gib, 2) if profile.peak else None,
        "peak_error_gib": profile.peak.error_gib if profile.peak else None,
        "oom_fallback": list(profile.fallbacks),
        "known_from": profile.origin,
        "at_once": profile.together.at_once if profile.together else None,
        "seconds_per_step_at_once": profile.together.seconds_per_step if profile.together else None,
    }


def _status_row(row: StatusRow) -> dict[str, Any]:
    return {
        "run": row.run.point.name,
        "id": row.run.point.id,
        **{key: value or None for key, value in asdict(row.status).items()},
        "progress": asdict(row.progress) if row.progress else None,
        "vram": asdict(row.vram) if row.vram else None,
        "left_s": row.left_s,
    }
