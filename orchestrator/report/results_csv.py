"""Sweep summary -> results.csv (one row per run) and images.csv (one row per image). Unknown values are empty."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator import files
from orchestrator.evidence.summary import AttemptSummary, RunSummary, SweepSummary
from orchestrator.model import Value
from orchestrator.store import provenance
from orchestrator.text import escape_formula

RESULTS, IMAGES = "results.csv", "images.csv"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of results.csv. `value` gets a run and its sweep and returns the cell; None is unknown."""

    name: str
    meaning: str
    value: Callable[[RunSummary, SweepSummary], Any]


def _run(name: str, meaning: str, value: Callable[[RunSummary], Any]) -> Column:
    return Column(name, meaning, lambda run, _: value(run))


def _trained(name: str, meaning: str, value: Callable[[AttemptSummary], Any]) -> Column:
    """From the attempt that completed the training."""
    return Column(name, meaning, lambda run, _: value(run.trained) if run.trained else None)


def _metric(name: str, meaning: str) -> Column:
    """The field of RunMetrics with this name."""
    return Column(name, meaning, lambda run, _: getattr(run.metrics, name) if run.metrics else None)


def _pass_bound(name: str, meaning: str, bound: str) -> Column:
    return Column(name, meaning, lambda run, _: getattr(run.metrics and run.metrics.pass_interval, bound, None))


def _calibrated(name: str, meaning: str, value: Callable[[Any], Any]) -> Column:
    """From the calibration; empty for runs without scores."""
    return Column(
        name, meaning, lambda run, sweep: value(sweep.calibration) if sweep.calibration and run.metrics else None
    )


def _overrides(run: RunSummary) -> str | None:
    used = run.training[-1].overrides if run.training else {}
    return json.dumps(used, ensure_ascii=False) if used else None


def _versions(run: RunSummary) -> str | None:
    of_training = (one for one in run.environment.items() if not one[0].startswith(provenance.IMAGES))
    found = {name: value for name, value in of_training if name != "GPU"}
    return json.dumps(found) if found else None


def _attempts(run: RunSummary) -> int | None:
    return None if run.run.point.is_baseline else len(run.training)


def _checkpoint(run: RunSummary) -> str | None:
    return Path(run.choice.checkpoint).name if run.choice and run.choice.checkpoint else None


def _checkpoint_hash(run: RunSummary) -> str | None:
    known = run.run.checkpoints() if run.run.done("train") else ()
    return next((one.sha256 for one in known if run.choice and one.file == run.choice.checkpoint), None) or None


def _validation_loss(run: RunSummary) -> float | None:
    return run.validation[max(run.validation)] if run.validation else None


def _validation_best_step(run: RunSummary) -> int | None:
    return min(run.validation, key=lambda step: run.validation[step]) if run.validation else None


def _confirmed(run: RunSummary) -> float | None:
    return run.confirmation.comparison.confirmed if run.confirmation else None


def _pareto_best(run: RunSummary, sweep: SweepSummary) -> bool | None:
    trained = run.metrics and not run.run.point.is_baseline
    return run.run.point.name in sweep.pareto_best if trained else None


COLUMNS = (
    _run("run", "name of the run and of its folder", lambda run: run.run.point.name),
    _run("id", "hash of the run's parameters", lambda run: run.run.point.id),
    _run("is_baseline", "true for a base model without LoRA", lambda run: run.run.point.is_baseline),
    _run("state", "finished, stopped (early), failed, running, pending, ...", lambda run: run.status.state.value),
    _run("failure", "kind of failure", lambda run: run.status.failure),
    Column("params_*", "requested value of each argument: the dims first, then all others", lambda *_: None),
    _run("overrides", "arguments that the last attempt changed, as JSON", _overrides),
    _trained("degraded", "true if an out-of-memory fallback changed the result", lambda done: done.degraded),
    _run("attempts", "number of training attempts", _attempts),
    _run("checkpoint", "LoRA file of the scored images; if there are several, the selected one", _checkpoint),
    _run("checkpoint_sha256", "SHA-256 of that file", _checkpoint_hash),
    _run("strength", "LoRA strength of the scored images", lambda run: run.choice.strength if run.choice else None),
    _metric("similarity_median", "median cosine similarity to the reference photos, over images with a face"),
    _metric("similarity_mean", "mean of the same"),
    _metric("similarity_p25", "25th percentile of the same"),
    _metric("no_face_rate", "share of images without a face, which count as failures"),
    _metric("images", "number of scored images"),
    _trained("peak_vram_mib", "highest VRAM use of the training (MiB)", lambda done: done.result.peak_vram_mib),
    _trained("seconds_per_step", "duration of a training step", lambda done: done.result.seconds_per_step),
    _trained("train_s", "duration of the training (seconds)", lambda done: done.result.seconds),
    _run("gain", "image value minus that of the baseline for the same prompts and seeds", lambda run: run.gain),
    _metric("pass_rate", "share of images that reach `threshold`; an image without a face does not"),
    _pass_bound("pass_low", "lower bound of the 95 % interval of `pass_rate`", "low"),
    _pass_bound("pass_high", "upper bound of the same", "high"),
    _metric("above_band_rate", "share of faces more similar to the references than 95 % of the reference photos are"),
    _metric("copying", "true if most images copy a training image; empty with too few images or references"),
    Column(
        "pareto_best",
        "true if no other run is better without a loss: similarity, no-face rate, copying, adherence, diversity, drift",
        _pareto_best,
    ),
    _calibrated("threshold", "similarity at which an image passes", lambda found: found.calibration.threshold),
    _calibrated("threshold_caveat", "limitations of the threshold", lambda found: "; ".join(found.caveats) or None),
    _run(
        "confirmed_similarity",
        "mean image value in `orchestrate confirm`: the number to quote if one run was confirmed",
        _confirmed,
    ),
    _metric("unreadable", "number of images that could not be read"),
    _metric("multi_face", "number of images with several faces"),
    _metric("diversity", "mean distance (1 - cosine) between the faces of the seeds of a prompt; near 0: equal faces"),
    _metric("other_face", "share of images whose largest face is not the scored one"),
    _metric("rotated", "number of images with a face rotated by 90 degrees or more"),
    _metric("nearest_training", "median cosine similarity to the most similar training image"),
    _metric("near_copies", "number of images that are close to one training image and to no other"),
    _metric("face_px", "median size of the face (pixels)"),
    _metric("face_yaw", "median turn of the head; 0.35 is a side view"),
    _metric("second_similarity", "mean similarity according to the second face pack"),
    _metric("second_agreement", "rank correlation between the two face packs"),
    _metric("adherence", "mean CLIP similarity of image and prompt without triggers (needs `score.clip`)"),
    _run(
        "drift", "mean of 1 - CLIP cosine to the baseline's image, on prompts without a trigger", lambda run: run.drift
    ),
    _trained("steps", "number of training steps", lambda done: done.result.steps),
    _run(
        "validation_loss",
        "loss on the validation images after the training; empty without `validation_split`",
        _validation_loss,
    ),
    _run("validation_best_step", "step with the lowest validation loss", _validation_best_step),
    _run("gpu", "GPU model of the training; empty without a GPU", lambda run: run.environment.get("GPU") or None),
    _run("versions", "GPU driver and package versions of the trainer, as JSON", _versions),
    _trained("resumed", "epochs that were complete when the last attempt resumed", lambda done: done.resumed),
    _run("reason", "reason of the failure", lambda run: run.status.reason or None),
)
"""All columns in their order; `params_*` stands for one column per argument."""

_INTRODUCTION = """# CSV columns

`results.csv` has one row per run; unknown values are empty. An image's value is its similarity, or -1 without a face.
Rankings use the mean image value; `similarity_*` count only images with a face. No column has the mean image value, but
`gain` orders runs on one base model in the same way, because it differs only by the value of their baseline.
`images.csv` has one row per image; those with `drift_only` count in `drift` and in nothing else.
[evidence.md](evidence.md) explains how the numbers are computed.
"""

_OTHER_TABLES = """
## images.csv

| column | meaning |
|---|---|
| `run`, `id` | as above |
| `file` | the image, relative to the folder of the run |
| `checkpoint`, `strength` | LoRA file and multiplier; no file: the base model without LoRA |
| `prompt`, `seed`, `text` | number of the prompt, image seed, prompt |
| `drift_only` | true: the prompt has no trigger |
| `status` | ok, no_face, multi_face, unreadable, error |
| `similarity`, `largest_similarity` | of the face most similar to the persona; of the largest face |
| `faces`, `rotation` | number of faces; degrees by which the image was rotated |
| `face_px`, `det_score`, `yaw` | size, detection score and turn of the scored face |
| `nearest_reference`, `nearest_training` | cosine to the most similar reference or training image |
| `next_training` | mean cosine to the next five training images |
| `seed_distance` | mean of 1 - cosine to the faces of the other seeds of the prompt |
| `second_similarity`, `adherence` | by the second face pack; CLIP cosine to the prompt |
| `note` | details of the status |

## answers.csv

| column | meaning |
|---|---|
| `sweep`, `id`, `ask`, `contrast` | the question |
| `verdict`, `sentence` | yes; yes, at a cost; no; undecided; the answer in words |
| `difference`, `low`, `high`, `p` | second value minus first, its interval, and the p-value of the verdict |
| `replicates`, `pairs`, `left_out` | training seeds, compared pairs, runs that are left out |
| `gpu_hours`, `peak_gib` | cost; highest VRAM use |
| `needs`, `warnings` | runs that are missing for a decision; violated assumptions |
| `exceeds` | whether the difference exceeds the smallest relevant one |
| `adherence`, `diversity`, `drift` | change; with `_low`, `_high`: its interval; with `_margin`: what is allowed |

## votes.csv

| column | meaning |
|---|---|
| `question` | persona (more like the person) or image (the better image) |
| `first`, `second` | the two configurations |
| `share_first`, `low`, `high` | share of votes for the first one, with its interval |
| `votes`, `prompts` | number of votes and of prompts |
| `preferred` | the preferred configuration, or undecided |
"""


def write(sweep: SweepSummary) -> Path:
    """Write both tables into the report folder of a sweep; returns the path of results.csv."""
    folder = sweep.sweep.report
    folder.mkdir(parents=True, exist_ok=True)
    _save(images(sweep.runs), folder / IMAGES)
    return _save(results(sweep), folder / RESULTS)


def results(sweep: SweepSummary) -> pd.DataFrame:
    """One row per run, in the order of the grid."""
    points = [run.run.point for run in sweep.runs]
    keys = [key for point in points for key in point.dims] + [key for point in points for key in point.params]
    return pd.DataFrame([_row(run, sweep, list(dict.fromkeys(keys))) for run in sweep.runs]).convert_dtypes()


def _row(run: RunSummary, sweep: SweepSummary, params: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in COLUMNS:
        if column.name == "params_*":
            row |= {f"params_{key}": _list_as_json(run.run.point.params.get(key)) for key in params}
        else:
            row[column.name] = column.value(run, sweep)
    return row


def _list_as_json(value: Value | None) -> Value | None:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple) else value


def images(runs: Sequence[RunSummary]) -> pd.DataFrame:
    """One row per scored image; `file` is relative to the run's folder."""
    rows = [
        {
            "run": run.run.point.name,
            "id": run.run.point.id,
            **asdict(score.image),
            **asdict(score),
            "status": score.status,
        }
        for run in runs
        for score in (*run.scores, *(score for _, score in run.drift_scores))
    ]
    return pd.DataFrame(rows).drop(columns="image").convert_dtypes() if rows else pd.DataFrame(columns=["run", "id"])


def document() -> str:
    """The page docs/results-csv.md; `python -m orchestrator.report.results_csv > docs/results-csv.md` renews it."""
    rows = "".join(f"| `{column.name}` | {column.meaning} |\n" for column in COLUMNS)
    return f"{_INTRODUCTION}\n| column | meaning |\n|---|---|\n{rows}{_OTHER_TABLES}"


def text(frame: pd.DataFrame) -> str:
    """The table as CSV whose texts are safe in spreadsheets."""
    safe = frame.map(lambda value: escape_formula(value) if isinstance(value, str) else value)
    return str(safe.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def _save(frame: pd.DataFrame, path: Path) -> Path:
    files.write_text(path, text(frame))
    return path


if __name__ == "__main__":
    print(document(), end="")
