"""Run summaries -> what answers are computed from: comparable rows, image pairs, learning-curve points, cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from orchestrator.evidence import choice, run_metrics
from orchestrator.evidence.choice import Cell
from orchestrator.evidence.stats import learning_curve
from orchestrator.evidence.stats.learning_curve import CurvePoint, LearningCurve
from orchestrator.evidence.stats.pairs import REPLICATE, Pair, RunRow, unusable
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import MEMORY_FAILURES, Score, State
from orchestrator.store import layout
from orchestrator.text import code_span, pluralize
from orchestrator.values import canonical_json

# --- rows of a comparison ---------------------------------------------------------------------------------------------


def rows(runs: Sequence[RunSummary]) -> list[RunRow]:
    """One row per run with a LoRA."""
    return _rows(runs, lambda score: score)


def rows_by_second_pack(runs: Sequence[RunSummary]) -> list[RunRow]:
    """The same with the scores of the second face pack; empty unless it scored every scored run."""
    scored = [run for run in runs if run.choice and run.run.point.is_trained]
    if not scored or any(run.metrics is None or run.metrics.second_similarity is None for run in scored):
        return []
    return _rows(runs, lambda score: replace(score, similarity=score.second_similarity))


def _rows(runs: Sequence[RunSummary], convert: Callable[[Score], Score]) -> list[RunRow]:
    baselines = {str(run.run.point.params.get("base_model")): run for run in runs if run.run.point.is_baseline}
    trained = (run for run in runs if run.run.point.is_trained)
    return [_row(run, convert, baselines.get(str(run.run.point.params.get("base_model")))) for run in trained]


def _row(run: RunSummary, convert: Callable[[Score], Score], baseline: RunSummary | None) -> RunRow:
    bare = RunRow(
        run=run.run.point.name,
        params=run.run.point.params,
        dims=run.run.point.dims,
        written=run.run.point.written,
        environment=run.environment,
        baseline_environment=baseline.environment if baseline else {},
        state=run.status.state,
        degraded=run.degraded,
    )
    finished = replace(bare, state=State.FINISHED)
    previews = {step: _scored(finished, list(map(convert, scores))) for step, scores in run.previews.items()}
    scores = list(map(convert, run.choice.reported)) if run.choice else []
    gains = _gains(scores, list(map(convert, baseline.scores)) if baseline else ())
    return replace(
        _scored(bare, scores),
        gain_by_prompt=_mean_by_prompt(gains),
        change=float(np.mean(np.abs(list(gains.values())))) if gains else None,
        previews=previews,
    )


def _gains(scores: Sequence[Score], baseline: Sequence[Score]) -> dict[Cell, float]:
    """(prompt, seed) -> image value minus that of the baseline, where both are known."""
    before = {choice.cell(score): run_metrics.image_value(score) for score in baseline}
    after = {choice.cell(score): run_metrics.image_value(score) for score in scores}
    return {
        cell: value - below
        for cell, value in after.items()
        if value is not None and (below := before.get(cell)) is not None
    }


def _mean_by_prompt(values: Mapping[Cell, float]) -> dict[int, float]:
    prompts = sorted({prompt for prompt, _ in values})
    return {
        prompt: float(np.mean([value for cell, value in values.items() if cell[0] == prompt])) for prompt in prompts
    }


def _scored(row: RunRow, scores: Sequence[Score]) -> RunRow:
    metrics = run_metrics.summary(scores) if scores else None
    return replace(
        row,
        by_prompt=run_metrics.by_prompt(scores),
        similarity=metrics.similarity_mean if metrics else None,
        no_face_rate=metrics.no_face_rate if metrics else None,
    )


def zips(found: Sequence[RunRow]) -> list[tuple[str, str]]:
    """Pairs of dims that change together: each value of one occurs with one value of the other. Seeds are excluded."""
    dims = sorted({name for row in found for name in row.dims} - {REPLICATE})
    return [pair for pair in combinations(dims, 2) if _change_together(found, *pair)]


def _change_together(found: Sequence[RunRow], one: str, other: str) -> bool:
    both = {
        (canonical_json(row.params[one]), canonical_json(row.params[other]))
        for row in found
        if {one, other} <= set(row.params)
    }
    return len(both) > 1 and len({a for a, _ in both}) == len({b for _, b in both}) == len(both)


# --- images to compare ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePair:
    """Two images of one prompt and seed, one per level. Files are relative to the folder of their run."""

    title: str
    labels: tuple[str, str]
    first: tuple[RunSummary, Score]
    second: tuple[RunSummary, Score]

    @property
    def difference(self) -> float:
        before, after = (run_metrics.image_value(score) or 0.0 for _, score in (self.first, self.second))
        return after - before

    def __str__(self) -> str:
        first, second = (
            code_span(f"{run.run.path.parent.name}/{run.run.path.name}/{score.image.file}")
            for run, score in (self.first, self.second)
        )
        return f"{self.title} ({self.difference:+.3f}): {first} and {second}"


def image_pairs(pairs: Sequence[Pair], runs: Mapping[str, RunSummary], dim: str) -> tuple[ImagePair, ...]:
    """The images with the typical (median) and with the largest difference; empty without common images."""
    found = [one for pair in pairs for one in _common_images(runs[pair.first.run], runs[pair.second.run], dim)]
    found.sort(key=lambda one: one.difference)
    if not found:
        return ()
    largest = max(found, key=lambda one: abs(one.difference))
    return replace(found[len(found) // 2], title="typical difference"), replace(largest, title="largest difference")


def _common_images(first: RunSummary, second: RunSummary, dim: str) -> list[ImagePair]:
    before, after = _by_cell(first), _by_cell(second)
    labels = f"{dim} {first.run.point.params[dim]}", f"{dim} {second.run.point.params[dim]}"
    return [
        ImagePair(title="", labels=labels, first=(first, before[cell]), second=(second, after[cell]))
        for cell in sorted(before.keys() & after.keys())
    ]


def _by_cell(run: RunSummary) -> dict[Cell, Score]:
    """(prompt, seed) -> score of the readable images."""
    reported = run.choice.reported if run.choice else ()
    return {choice.cell(score): score for score in reported if run_metrics.image_value(score) is not None}


# --- number of training images ----------------------------------------------------------------------------------------


def curve_points(runs: Sequence[RunSummary]) -> list[CurvePoint]:
    """The scored runs by their number of training images with a face.

    Empty if a run was stopped early: only the better runs of a size would remain.
    """
    trained = [run for run in runs if run.run.point.is_trained]
    if any(run.status.state is State.STOPPED for run in trained):
        return []
    return [
        CurvePoint(
            images=run.trained_faces,
            replicate=row.params.get(REPLICATE, 0),
            value=float(np.mean(list(row.by_prompt.values()))),
        )
        for run, row in zip(trained, rows(trained), strict=True)
        if run.trained_faces and not unusable(row)
    ]


def fit_curve(points: Sequence[CurvePoint]) -> LearningCurve | None:
    """A learning curve up to twice the largest size; None below three sizes or two seeds."""
    if not points:
        return None
    return learning_curve.learning_curve(points, target=2 * max(point.images for point in points))


def describe_curve(curve: LearningCurve) -> str:
    """The extrapolation in a sentence."""
    return (
        f"{curve.target} instead of {curve.present} images: {curve.worth:+.3f} similarity expected "
        f"({curve.interval:+.3f}), extrapolated from datasets of "
        f"{', '.join(map(str, curve.sizes))} images; assumes that new images resemble the present ones"
    )


# --- cost -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of some runs. gpu_hours: all training and generation attempts, failed ones included.

    peak_gib: highest VRAM use of a training; None if VRAM was not monitored. has_gpu: False if all ran without a GPU.
    """

    gpu_hours: float
    peak_gib: float | None
    has_gpu: bool

    def __str__(self) -> str:
        if not self.has_gpu:
            return f"{self.gpu_hours:.2g} hours without a GPU"
        peak = "VRAM was not monitored" if self.peak_gib is None else f"peak VRAM {self.peak_gib:.1f} GiB"
        return f"{self.gpu_hours:.2g} GPU-hours; {peak}"


def cost(runs: Sequence[RunSummary]) -> Cost:
    """Sum of the GPU time and highest peak of these runs."""
    results = [
        result
        for run in runs
        for stage in ("train", *layout.GENERATING)
        for attempt in run.run.attempts(stage)
        if (result := attempt.result())
    ]
    peaks = [one.result.peak_vram_mib for run in runs for one in run.training if one.result.peak_vram_mib]
    models = [run.environment["GPU"] for run in runs if "GPU" in run.environment]
    return Cost(
        gpu_hours=sum(result.seconds for result in results) / 3600,
        peak_gib=max(peaks) / 1024 if peaks else None,
        has_gpu=any(models) or not models,
    )


def memory(runs: Sequence[RunSummary]) -> str:
    """How many trainings ran out of memory and which fallbacks were used; empty if none has started."""
    started = [run for run in runs if run.training]
    if not started:
        return ""
    short = [run for run in started if any(one.result.failure in MEMORY_FAILURES for one in run.training)]
    if not short:
        return f"none of {pluralize(len(started), 'training')}"
    steps = dict.fromkeys(step for run in short for one in run.training for step in one.fallbacks)
    failed = sum(run.status.state is State.FAILED for run in short)
    used = f"fallbacks used: {', '.join(steps)}" if steps else "no fallback was used"
    return f"{len(short)} of {pluralize(len(started), 'training')}; {used}" + (f"; {failed} failed" if failed else "")
