"""Facts -> results.csv, one row per run, and images.csv, one row per picture. Missing is empty, never zero."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import files
from orchestrator.evidence import summary
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import Value
from orchestrator.store.layout import Sweep

RESULTS, IMAGES = "results.csv", "images.csv"

_MEASURED = (
    *("overrides", "degraded", "attempts", "checkpoint", "strength"),
    *("similarity_median", "similarity_mean", "similarity_p25", "no_face_rate", "images"),
    *("peak_vram_mib", "seconds_per_step", "train_s"),
    *(
        "gain",
        "pass_rate",
        "pass_low",
        "pass_high",
        "above_band_rate",
        "copying",
        "pareto_best",
        "threshold",
        "confirmed_similarity",
    ),
    *("unreadable", "multi_face", "diversity", "nearest_training", "face_px", "face_yaw"),
    *("second_similarity", "second_agreement", "adherence", "steps", "resumed", "reason"),
)
"""The columns after the arguments, in their order."""


def write(sweep: Sweep) -> Path:
    """(Re)write the report of a sweep from its records; may be done at any time. Returns the path of results.csv."""
    found = summary.gather(sweep)
    kept, _ = summary.calibration(sweep)
    sweep.report.mkdir(parents=True, exist_ok=True)
    _save(images(found), sweep.report / IMAGES)
    return _save(results(found, kept), sweep.report / RESULTS)


def results(found: Sequence[RunSummary], kept: CalibrationRecord | None = None) -> pd.DataFrame:
    """One row per run, in the order of the grid; one `params_` column per dim and per argument of any run.

    kept: the yardstick that the numbers of the runs were read against.
    """
    columns, front = _columns(found), summary.pareto_front_of(found).front
    yardstick = None if kept is None else "; ".join((f"{kept.calibration.threshold:.3f}", *kept.caveats))
    rows = [_row(one, columns, front) | ({"threshold": yardstick} if one.metrics else {}) for one in found]
    return pd.DataFrame(rows).convert_dtypes() if rows else pd.DataFrame()


def images(found: Sequence[RunSummary]) -> pd.DataFrame:
    """One row per scored picture; `file` is relative to the run's folder."""
    columns = {"run": "string", "id": "string"}
    rows = [_image(one, score) for one in found for score in one.scores]
    return pd.DataFrame(rows).convert_dtypes() if rows else pd.DataFrame(columns=list(columns))


def _save(frame: pd.DataFrame, path: Path) -> Path:
    files.write_text(path, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path


def _row(one: RunSummary, columns: Sequence[str], front: Collection[str]) -> dict[str, Any]:
    in_running = one.run.point.name in front if one.metrics and not one.run.point.is_baseline else None
    measured = {**_training(one), **_scored(one), "pareto_best": in_running, "threshold": None}
    return {
        "run": one.run.point.name,
        "id": one.run.point.id,
        "state": one.status.state.value,
        "failure": one.status.failure.value if one.status.failure else None,
        **{f"params_{key}": _cell(one.run.point.params.get(key)) for key in columns},
        **{key: measured[key] for key in _MEASURED},
    }


def _columns(found: Sequence[RunSummary]) -> list[str]:
    """Dims first, then all other arguments, each once."""
    dims = [key for one in found for key in one.run.point.dims]
    others = [key for one in found for key in one.run.point.params]
    return list(dict.fromkeys([*dims, *others]))


def _cell(value: Value | None) -> Value | None:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def _training(one: RunSummary) -> dict[str, Any]:
    last = one.training[-1] if one.training else None
    result = one.trained.result if one.trained else None
    return {
        "overrides": json.dumps(last.overrides, ensure_ascii=False) if last and last.overrides else None,
        "degraded": one.degraded if one.trained else None,
        "attempts": len(one.training) if not one.run.point.is_baseline else None,
        "reason": one.status.reason or None,
        "peak_vram_mib": result.peak_vram_mib if result else None,
        "seconds_per_step": result.seconds_per_step if result else None,
        "resumed": one.trained.resumed if one.trained else None,
        "steps": result.steps if result else None,
        "train_s": result.seconds if result else None,
    }


def _scored(one: RunSummary) -> dict[str, Any]:
    chosen, run = one.choice, one.metrics
    return {
        "checkpoint": Path(chosen.checkpoint).name if chosen and chosen.checkpoint else None,
        "strength": chosen.strength if chosen else None,
        "similarity_median": run.similarity_median if run else None,
        "similarity_mean": run.similarity_mean if run else None,
        "similarity_p25": run.similarity_p25 if run else None,
        "gain": one.gain,
        "confirmed_similarity": one.confirmation.comparison.confirmed if one.confirmation else None,
        "pass_rate": run.pass_rate if run else None,
        "pass_low": run.pass_interval.low if run and run.pass_interval else None,
        "pass_high": run.pass_interval.high if run and run.pass_interval else None,
        "above_band_rate": run.above_band_rate if run else None,
        "copying": run.copying if run else None,
        "no_face_rate": run.no_face_rate if run else None,
        "images": run.images if run else None,
        "unreadable": run.unreadable if run else None,
        "multi_face": run.multi_face if run else None,
        "diversity": run.diversity if run else None,
        "nearest_training": run.nearest_training if run else None,
        "face_px": run.face_px if run else None,
        "face_yaw": run.face_yaw if run else None,
        "second_similarity": run.second_similarity if run else None,
        "second_agreement": run.second_agreement if run else None,
        "adherence": run.adherence if run else None,
    }


def _image(one: RunSummary, score: Any) -> dict[str, Any]:
    record = asdict(score)
    picture = record.pop("image")
    return {"run": one.run.point.name, "id": one.run.point.id, **picture, **record, "status": score.status.value}
