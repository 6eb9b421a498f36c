"""The tables of scored LoRA files: loras.csv with a row for each file, pairs.csv with a row for each pair."""

import math
from collections.abc import Sequence
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import Problem
from orchestrator.evidence import confirmation, lora_files, run_metrics, summary
from orchestrator.evidence.calibration import record
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.lora_files import FileComparison
from orchestrator.model import Score
from orchestrator.report import csv_files
from orchestrator.run.lora_files import LoraRun
from orchestrator.store import layout
from orchestrator.store.hashes import sha256_json
from orchestrator.text import pluralize

LORAS, PAIRS = "loras.csv", "pairs.csv"
HEADING = "Comparison of files, not of training settings: the intervals are over prompts and image seeds."


def output_folder(runs: Sequence[LoraRun]) -> Path:
    """`loras-<hash>` beside the runs."""
    return runs[0].run.path.parent / f"loras-{sha256_json([one.run.point.name for one in runs])[:8]}"


def write(runs: Sequence[LoraRun], strength: float, references: str, out: Path) -> tuple[list[str], list[Problem]]:
    """Write both tables from the finished runs; returns a sentence for each file and pair, and warnings.

    references: the hash of the reference photos.
    """
    done = [one for one in runs if one.run.done("score")]
    calibrated, problems = _calibration(done, references)
    scores, floors = [summary.scores_of(one.run) for one in done], [summary.scores_of(one.baseline) for one in done]
    rows = [
        _row(one, strength, *pair, calibrated) for one, pair in zip(done, zip(scores, floors, strict=True), strict=True)
    ]
    compared = lora_files.compare(scores, floors, [one.base for one in done])
    pairs = [_pair(one, done) for one in compared]
    rows.sort(
        key=lambda row: -gain if isinstance(gain := row["gain"], float) else math.inf
    )  # best first, as in rankings
    csv_files.write(out / LORAS, list(rows[0]) if rows else ["file"], rows)
    csv_files.write(out / PAIRS, list(pairs[0]) if pairs else ["first"], pairs)
    sentences = [_file_sentence(row) for row in rows]
    return [*sentences, *([HEADING] if pairs else []), *(_sentence(one, done) for one in compared)], problems


def _calibration(runs: Sequence[LoraRun], references: str) -> tuple[CalibrationRecord | None, list[Problem]]:
    """That of the same face pack and references; none without runs."""
    if not runs:
        return None, []
    path = runs[0].run.path
    pack = scoring.read_scored(path / layout.PRODUCTS["score"]).fingerprint
    return record.load_matching(layout.calibration(path.parents[1]), {"face pack": pack, "references": references})


def _row(
    one: LoraRun,
    strength: float,
    scores: Sequence[Score],
    floor: Sequence[Score],
    calibrated: CalibrationRecord | None,
) -> dict[str, object]:
    metrics = run_metrics.summary(scores, calibrated.calibration.thresholds if calibrated else None)
    passing = metrics.pass_interval
    return {
        "file": str(one.file.path),
        "sha256": one.file.sha256,
        "run": one.run.point.name,
        "module": one.file.module,
        "ranks": " ".join(map(str, one.file.ranks)),
        "trained_on": one.file.base_name,
        "made_on": one.base,
        "strength": strength,
        "images": metrics.images,
        "similarity_mean": metrics.similarity_mean,
        "similarity_median": metrics.similarity_median,
        "no_face_rate": metrics.no_face_rate,
        "gain": confirmation.gain(scores, floor),
        "pass_rate": metrics.pass_rate,
        "pass_low": passing.low if passing else None,
        "pass_high": passing.high if passing else None,
        "threshold": calibrated.calibration.threshold if calibrated else None,
        "threshold_caveat": "; ".join(calibrated.caveats) if calibrated else None,
        "diversity": metrics.diversity,
    }


def _file_sentence(row: dict[str, object]) -> str:
    mean, rate, gain, passing = (
        f"{value:{form}}" if isinstance(value := row[name], float) else "unknown"
        for name, form in (
            ("similarity_mean", ".3f"),
            ("no_face_rate", ".0%"),
            ("gain", "+.3f"),
            ("pass_rate", ".0%"),
        )
    )
    name = ascii(row["file"])[1:-1] if not str(row["file"]).isprintable() else row["file"]
    metrics = f"similarity {mean}, no face {rate}, gain over the baseline {gain}, passing {passing}"
    return f"{name} on {row['made_on']}: {metrics}"


def _pair(one: FileComparison, runs: Sequence[LoraRun]) -> dict[str, object]:
    return {
        "first": str(runs[one.first].file.path),
        "second": str(runs[one.second].file.path),
        "measure": "gain" if one.by_gain else "similarity",
        "difference": one.difference,
        "low": one.interval.low if one.interval else None,
        "high": one.interval.high if one.interval else None,
        "prompts": one.prompts,
        "image_seeds": one.seeds,
        "better": "undecided" if one.better is None else str(runs[one.better].file.path),
    }


def _sentence(one: FileComparison, runs: Sequence[LoraRun]) -> str:
    names = _names(runs)
    first, second = names[one.first], names[one.second]
    bounds = f"({one.interval:+.3f})" if one.interval else "(no interval)"
    verdict = "undecided" if one.better is None else f"{names[one.better]} is better"
    measure = "gain" if one.by_gain else "image value"
    over = f"{pluralize(one.prompts, 'prompt')}, {pluralize(one.seeds, 'image seed')}"
    return f"{second} minus {first}: {measure} {one.difference:+.3f} {bounds}, {over}: {verdict}"


def _names(runs: Sequence[LoraRun]) -> list[str]:
    """File names; the run's name, which loras.csv lists, where two files have the same one."""
    plain = [one.file.name for one in runs]
    return [name if plain.count(name) == 1 else one.run.point.name for name, one in zip(plain, runs, strict=True)]
