"""Sweep summary -> results.csv (one row per run) and images.csv (one row per image). Unknown values are empty."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import files
from orchestrator.evidence.run_metrics import RunMetrics
from orchestrator.evidence.summary import AttemptSummary, RunSummary, SweepSummary
from orchestrator.model import Result, Score, Value
from orchestrator.text import escape_formula

RESULTS, IMAGES = "results.csv", "images.csv"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of results.csv. `value` reads a run of the sweep; None is written as an empty cell."""

    name: str
    value: Callable[[RunSummary, SweepSummary], Any]
    meaning: str


def _of_run(name: str, value: Callable[[RunSummary], Any], meaning: str) -> Column:
    return Column(name, lambda run, _: value(run), meaning)


def _metric(name: str, meaning: str) -> Column:
    """A column with the field of RunMetrics of the same name."""
    return _from_metrics(name, lambda metrics: getattr(metrics, name), meaning)


def _from_metrics(name: str, value: Callable[[RunMetrics], Any], meaning: str) -> Column:
    return _of_run(name, lambda run: value(run.metrics) if run.metrics else None, meaning)


def _from_result(name: str, value: Callable[[Result], Any], meaning: str) -> Column:
    return _of_run(name, lambda run: value(run.trained.result) if run.trained else None, meaning)


def _calibrated(name: str, value: Callable[[Any], Any], meaning: str) -> Column:
    """A column from the calibration, empty for runs without scores."""
    return Column(
        name, lambda run, sweep: value(sweep.calibration) if sweep.calibration and run.metrics else None, meaning
    )


def _overrides(run: RunSummary) -> str | None:
    last: AttemptSummary | None = run.training[-1] if run.training else None
    return json.dumps(last.overrides, ensure_ascii=False) if last and last.overrides else None


def _pareto_best(run: RunSummary, sweep: SweepSummary) -> bool | None:
    if not run.metrics or run.run.point.is_baseline:
        return None
    return run.run.point.name in sweep.pareto_best


IDENTITY = (
    _of_run("run", lambda run: run.run.point.name, "name of the run, and of its folder"),
    _of_run("id", lambda run: run.run.point.id, "hash of the run's parameters"),
    _of_run("is_baseline", lambda run: run.run.point.is_baseline, "true for a base model without LoRA"),
    _of_run("state", lambda run: run.status.state.value, "finished, stopped (early), failed, running or pending"),
    _of_run("failure", lambda run: run.status.failure, "kind of the failure"),
)
"""The columns before `params_*`."""

MEASURED = (
    _of_run("overrides", _overrides, "arguments that the last attempt changed, as JSON"),
    _of_run(
        "degraded",
        lambda run: run.degraded if run.trained else None,
        "true if an out-of-memory fallback changed the result",
    ),
    _of_run(
        "attempts",
        lambda run: None if run.run.point.is_baseline else len(run.training),
        "number of training attempts",
    ),
    _of_run(
        "checkpoint",
        lambda run: Path(run.choice.checkpoint).name if run.choice and run.choice.checkpoint else None,
        "LoRA file that the scores belong to; with several, chosen on the selection images and scored on the others",
    ),
    _of_run("strength", lambda run: run.choice.strength if run.choice else None, "LoRA strength of the scored images"),
    _metric("similarity_median", "median cosine similarity to the reference photos, over images with a face"),
    _metric("similarity_mean", "mean of the same"),
    _metric("similarity_p25", "25th percentile of the same"),
    _metric("no_face_rate", "share of images without a face; they count as failures"),
    _metric("images", "number of scored images"),
    _from_result("peak_vram_mib", lambda result: result.peak_vram_mib, "highest VRAM use of the training, in MiB"),
    _from_result("seconds_per_step", lambda result: result.seconds_per_step, "training time per step, in seconds"),
    _from_result("train_s", lambda result: result.seconds, "duration of the training, in seconds"),
    _of_run("gain", lambda run: run.gain, "image value minus that of the baseline, same prompts and seeds"),
    _metric("pass_rate", "share of images that reach `threshold`; an image without a face does not"),
    _from_metrics(
        "pass_low",
        lambda metrics: metrics.pass_interval and metrics.pass_interval.low,
        "lower 95 % bound of `pass_rate`",
    ),
    _from_metrics(
        "pass_high",
        lambda metrics: metrics.pass_interval and metrics.pass_interval.high,
        "upper 95 % bound of `pass_rate`",
    ),
    _metric("above_band_rate", "share of faces more similar to the references than 95 % of the reference photos"),
    _metric("copying", "true if the faces are closer to training images than reference photos are to each other"),
    Column("pareto_best", _pareto_best, "true if no other run is better in similarity, no-face rate and copying"),
    _calibrated("threshold", lambda record: record.calibration.threshold, "similarity from which an image passes"),
    _calibrated("threshold_caveat", lambda record: "; ".join(record.caveats) or None, "limitation of `threshold`"),
    _of_run(
        "confirmed_similarity",
        lambda run: run.confirmation.comparison.confirmed if run.confirmation else None,
        "mean image value (no face counts -1) of the images from `orchestrate confirm`; quote this number",
    ),
    _metric("unreadable", "number of images that could not be read"),
    _metric("multi_face", "number of images with several faces"),
    _metric("diversity", "how much the seeds of one prompt differ; near zero means one image for all seeds"),
    _metric("nearest_training", "median cosine similarity to the most similar training image"),
    _metric("face_px", "median size of the face, in pixels"),
    _metric("face_yaw", "median turn of the head; 0.35 is a side view"),
    _metric("second_similarity", "mean similarity by the second face pack"),
    _metric("second_agreement", "rank correlation of the two face packs over the images"),
    _metric("adherence", "mean CLIP cosine of image and prompt, without triggers; needs `score.clip`"),
    _from_result("steps", lambda result: result.steps, "number of training steps"),
    _of_run(
        "resumed",
        lambda run: run.trained.resumed if run.trained else None,
        "epochs that were done when the last attempt resumed",
    ),
    _of_run("reason", lambda run: run.status.reason or None, "reason of the failure"),
)
"""The columns after `params_*`."""


def write(sweep: SweepSummary) -> Path:
    """Write both tables into the report folder of a sweep; returns the path of results.csv."""
    folder = sweep.sweep.report
    folder.mkdir(parents=True, exist_ok=True)
    _save(images(sweep.runs), folder / IMAGES)
    return _save(results(sweep), folder / RESULTS)


def results(sweep: SweepSummary) -> pd.DataFrame:
    """One row per run, in the order of the grid; one `params_` column per dim and per argument of any run."""
    dims = [key for run in sweep.runs for key in run.run.point.dims]
    params = dict.fromkeys([*dims, *(key for run in sweep.runs for key in run.run.point.params)])
    rows = [
        {column.name: column.value(run, sweep) for column in IDENTITY}
        | {f"params_{key}": _cell(run.run.point.params.get(key)) for key in params}
        | {column.name: column.value(run, sweep) for column in MEASURED}
        for run in sweep.runs
    ]
    return pd.DataFrame(rows).convert_dtypes()


def images(runs: Sequence[RunSummary]) -> pd.DataFrame:
    """One row per scored image; `file` is relative to the run's folder."""
    rows = [_image(run, score) for run in runs for score in run.scores]
    return pd.DataFrame(rows).convert_dtypes() if rows else pd.DataFrame(columns=["run", "id"])


def columns_table() -> str:
    """The columns of results.csv as a Markdown table, for the documentation."""
    params = ("params_*", "requested value of every argument: first the dims, then all others")
    rows = [
        *((column.name, column.meaning) for column in IDENTITY),
        params,
        *((column.name, column.meaning) for column in MEASURED),
    ]
    return "| column | meaning |\n|---|---|\n" + "".join(f"| `{name}` | {meaning} |\n" for name, meaning in rows)


def _save(frame: pd.DataFrame, path: Path) -> Path:
    safe = frame.map(lambda value: escape_formula(value) if isinstance(value, str) else value)
    files.write_text(path, safe.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    return path


def _cell(value: Value | None) -> Value | None:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def _image(run: RunSummary, score: Score) -> dict[str, Any]:
    record = asdict(score)
    image = record.pop("image")
    return {"run": run.run.point.name, "id": run.run.point.id, **image, **record, "status": score.status.value}
