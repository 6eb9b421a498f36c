"""The summaries of all runs of a sweep: every run's records and the metrics derived from them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from orchestrator import scoring
from orchestrator.config.schema import Comparison
from orchestrator.errors import Problem
from orchestrator.evidence import ballot, choice, confirmation, preview_scores, run_metrics, side_effects
from orchestrator.evidence.ballot import Ballot
from orchestrator.evidence.calibration import record
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.choice import Choice, SelectionSplit
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.run_metrics import RunMetrics, Thresholds
from orchestrator.evidence.side_effects import Vectors
from orchestrator.evidence.stats import pareto
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.kohya.outputs import events
from orchestrator.model import Question, Result, Score, SequentialDesign, Value
from orchestrator.scoring import References, embedding
from orchestrator.store import layout, provenance, state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSummary:
    """One closed training attempt and the OOM fallbacks that it applied.

    resumed: epochs that were complete when the attempt resumed; None if it started from the beginning.
    """

    number: int
    result: Result
    fallbacks: tuple[str, ...]
    overrides: dict[str, object]
    degraded: bool
    resumed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. `choice` and `metrics` are None until it is scored.

    scores: of the images that count. drift_scores: with the row in embeddings.npz, of images that measure drift only.
    previews: step -> scores of its previews; empty without early stopping. trained_faces: number of different training
    images with a face; None until the run is scored, and for a baseline. gain: mean over prompts of the image value
    minus that of the baseline on the same prompts and seeds; None without a baseline. drift: mean of one minus the CLIP
    cosine to the baseline's images, over prompts without a trigger; None without CLIP or such prompts.
    side_effects, seed_deviations: as in `evidence.side_effects`; the second of baselines only.
    validation: optimizer step -> loss on the validation images; empty without `validation_split`.
    environment: GPU model, driver and versions of the successful attempts, those of the generation as `images: NAME`;
    empty if unknown.
    """

    run: Run
    status: Status
    training: tuple[AttemptSummary, ...]
    scores: tuple[Score, ...]
    drift_scores: tuple[tuple[int, Score], ...] = ()
    references: References | None = None
    previews: Mapping[int, tuple[Score, ...]] = field(default_factory=dict)
    trained_faces: int | None = None
    choice: Choice | None = None
    metrics: RunMetrics | None = None
    gain: float | None = None
    drift: float | None = None
    side_effects: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    seed_deviations: Mapping[str, float] = field(default_factory=dict)
    confirmation: ConfirmationResult | None = None
    validation: Mapping[int, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> AttemptSummary | None:
        """The attempt that completed the training."""
        return next((one for one in reversed(self.training) if one.result.failure is None), None)

    @property
    def seed(self) -> Value | None:
        """The training seed; None for a baseline."""
        return self.run.point.params.get(REPLICATE)

    @property
    def degraded(self) -> bool:
        return self.trained is not None and self.trained.degraded


@dataclass(frozen=True, kw_only=True)
class SweepSummary:
    """All that a report is made from. runs: in the order of the grid, baselines last.

    calibration: None if there is none for this sweep; `problems` then says why, unless nothing was calibrated. margins:
    those that settings or grid declare. grid_file: as `Sweep.grid_file`. ballots: blind votes; see `evidence.votes`.
    """

    sweep: Sweep
    questions: tuple[Question, ...]
    runs: tuple[RunSummary, ...]
    calibration: CalibrationRecord | None = None
    comparison: Comparison = field(default_factory=Comparison)
    design: SequentialDesign | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    seeds_extended: bool = False
    grid_file: Path | None = None
    ballots: tuple[Ballot, ...] = ()
    problems: tuple[Problem, ...] = ()

    @cached_property
    def pareto_best(self) -> Collection[str]:
        """Names of the trained runs that no other run beats without a loss, as in `pareto.pareto_set`."""
        trained = [one for one in self.runs if not one.run.point.is_baseline and one.metrics]
        margins = {name: self.margin(name, trained) for name in side_effects.BETTER}
        smallest = TestSettings().smallest
        return pareto.pareto_set(
            {one.run.point.name: _criteria(one) for one in trained},
            {"similarity": smallest, "no_face_rate": smallest, **margins},
        )

    def margin(self, side_effect: str, runs: Iterable[RunSummary]) -> float | None:
        """The declared margin, or the largest default of the baselines of these runs; None if that is unknown."""
        if side_effect in self.margins:
            return self.margins[side_effect]
        bases = {_base_model(one) for one in runs}
        found = [one.seed_deviations.get(side_effect) for one in self.runs if _base_model(one) in bases]
        return max((value for value in found if value is not None), default=None)


def read(sweep: Sweep, comparison: Comparison | None = None) -> SweepSummary:
    """The summary of a frozen sweep, finished or not. Reads every record once. comparison: of the settings."""
    kept, problems = calibration(sweep)
    ballots, damaged = ballot.read_all(sweep)
    return SweepSummary(
        sweep=sweep,
        questions=tuple(sweep.questions()),
        runs=tuple(_gather(sweep, kept)),
        calibration=kept,
        comparison=comparison or Comparison(),
        design=sweep.design(),
        margins=sweep.margins(),
        seeds_extended=sweep.seeds_extended(),
        grid_file=sweep.grid_file(),
        ballots=ballots,
        problems=(*problems, *damaged),
    )


def gather(sweep: Sweep) -> list[RunSummary]:
    """The summary of every run of a frozen sweep, in the order of its grid, baselines last."""
    return _gather(sweep, calibration(sweep)[0])


def _gather(sweep: Sweep, kept: CalibrationRecord | None) -> list[RunSummary]:
    read = [_read(run) for run in sweep.runs()]
    halves = selection_split(read)
    baselines = {_base_model(one): one for one in read if one.run.point.is_baseline}
    thresholds = kept.calibration.thresholds if kept else None
    found = [_with_metrics(one, halves, baselines.get(_base_model(one)), thresholds) for one in read]
    confirmed_baselines = {
        _base_model(one): confirmation.every(one.run, one.choice)
        for one in found
        if one.run.point.is_baseline and one.choice
    }
    return [
        _with_confirmation(one, baselines.get(_base_model(one)), confirmed_baselines.get(_base_model(one), ()))
        for one in found
    ]


def selection_split(found: Sequence[RunSummary]) -> SelectionSplit:
    """The cells of a sweep that select checkpoints, strengths and seeds, and those that are reported."""
    cells = {choice.cell(score) for one in found for score in one.scores}
    return choice.split(cells, choice.FEW if any("rank" in one.run.stages for one in found) else 2)


def calibration(sweep: Sweep) -> tuple[CalibrationRecord | None, list[Problem]]:
    """The calibration that applies to this sweep; otherwise None and the reasons."""
    return record.load_matching(layout.calibration(sweep.path.parent), sweep.fingerprint())


def rank_runs(found: Sequence[RunSummary], *, by_selection: bool = False) -> list[RunSummary]:
    """The scored runs with a LoRA by mean image value, best first; degraded runs come last.

    by_selection: on the images for selection instead of the reported ones.
    """
    scored = [one for one in found if one.choice and not one.run.point.is_baseline]
    value = _selection_value if by_selection else _mean_value
    return sorted(scored, key=lambda one: (one.degraded, -value(one)))


def log_of(run: Run) -> Path | None:
    """The log of the last attempt at the run's current stage."""
    stage = state.status(run).stage or run.stages[-1]
    attempts = run.attempts(stage)
    return attempts[-1].path / "log" if attempts else None


def _read(run: Run) -> RunSummary:
    run.check_folder()
    scored = scoring.read_scored(run.path / layout.PRODUCTS["score"]) if run.done("score") else None
    ranked = scoring.read_scores(run.path / layout.PRODUCTS["rank"]) if scored and run.done("rank") else ()
    known = {one.image.file for one in ranked}  # of these, the scores that selected the checkpoint
    return RunSummary(
        run=run,
        status=state.status(run),
        training=tuple(_attempts(run)),
        scores=(
            *ranked,
            *(one for one in scored.scores if not one.image.drift_only and one.image.file not in known),
        )
        if scored
        else (),
        drift_scores=tuple((row, one) for row, one in enumerate(scored.scores) if one.image.drift_only)
        if scored
        else (),
        references=scored.references if scored else None,
        previews=preview_scores.of_run(run),
        trained_faces=scored.training if scored and not run.point.is_baseline else None,
        validation=_validation(run),
        environment=environment_of(run),
    )


def _validation(run: Run) -> dict[int, float]:
    """Of the whole training: a resumed attempt counts its steps from zero."""
    found: dict[int, float] = {}
    for attempt in run.attempts("train") if run.point.params.get("validation_split") else ():
        begun = (attempt.request().get("resumed") or {}).get("step", 0)
        losses = events.validation_losses(attempt.path / "logs")
        before = {step: loss for step, loss in found.items() if step <= begun}
        found = {**before, **{begun + step: loss for step, loss in losses.items()}}
    return found


def environment_of(run: Run) -> dict[str, str]:
    """GPU model and versions of the run's successful attempts, as in RunSummary."""
    found: dict[str, str] = {}
    for stage, prefix in (("train", ""), ("generate", provenance.IMAGES)):
        attempts = run.attempts(stage) if run.done(stage) else []
        known = provenance.comparable(attempts[-1].request().get("environment")) if attempts else {}
        found |= {f"{prefix}{name}": value for name, value in known.items()}
    return found


def _attempts(run: Run) -> list[AttemptSummary]:
    found = []
    for attempt in run.attempts("train"):
        result, asked = attempt.result(), attempt.request()
        if result is not None:
            found.append(
                AttemptSummary(
                    number=attempt.number,
                    result=result,
                    fallbacks=tuple(asked.get("fallbacks", ())),
                    overrides=asked.get("overrides", {}),
                    degraded=asked.get("degraded", False),
                    resumed=(asked.get("resumed") or {}).get("epoch"),
                )
            )
    return found


def _with_metrics(
    one: RunSummary, halves: SelectionSplit, baseline: RunSummary | None, thresholds: Thresholds | None
) -> RunSummary:
    chosen = choice.choose(one.scores, halves)
    if chosen is None:
        return one
    compared = baseline if baseline and not one.run.point.is_baseline else None
    own, below = _vectors(one, chosen), _vectors(compared) if compared else {}
    effects = side_effects.by_prompt(chosen.reported, own, below)
    return replace(
        one,
        choice=chosen,
        metrics=run_metrics.summary(chosen.reported, thresholds, one.references),
        gain=confirmation.gain(chosen.reported, compared.scores) if compared else None,
        drift=float(np.mean(list(effects["drift"].values()))) if effects["drift"] else None,
        side_effects=effects,
        seed_deviations=side_effects.seed_deviations(chosen.reported, own) if one.run.point.is_baseline else {},
    )


def _vectors(one: RunSummary, chosen: Choice | None = None) -> Vectors:
    """CLIP embeddings of the images for drift, of the selected checkpoint; empty without CLIP or such images."""
    found = embedding.read(one.run.path / embedding.NAME) if one.drift_scores else None
    if found is None or not found.clip.shape[1]:
        return {}
    return {
        choice.cell(score): found.clip[row]
        for row, score in one.drift_scores
        if chosen is None or (score.image.checkpoint, score.image.strength) == (chosen.checkpoint, chosen.strength)
        if row < len(found.clip) and np.isfinite(found.clip[row]).all()
    }


def scores_of(run: Run) -> tuple[Score, ...]:
    """The scores that count, of images outside a sweep's summary; empty until the run is scored."""
    return scoring.read_scores(run.path / layout.PRODUCTS["score"]) if run.done("score") else ()


def _with_confirmation(one: RunSummary, baseline: RunSummary | None, confirmed: Sequence[Score]) -> RunSummary:
    if one.choice is None:
        return one
    compared = ((), ()) if one.run.point.is_baseline else (confirmed, baseline.scores if baseline else ())
    return replace(one, confirmation=confirmation.confirmation_for(one.run, one.choice, *compared))


def _criteria(one: RunSummary) -> dict[str, float | None]:
    metrics = one.metrics
    return {
        "similarity": metrics.similarity_mean if metrics else None,
        "no_face_rate": metrics.no_face_rate if metrics else None,
        "copying": None if metrics is None or metrics.copying is None else float(metrics.copying),
        "adherence": metrics.adherence if metrics else None,
        "diversity": metrics.diversity if metrics else None,
        "drift": one.drift,
    }


def _base_model(one: RunSummary) -> str:
    return str(one.run.point.params.get("base_model"))


def _selection_value(one: RunSummary) -> float:
    return one.choice.candidates[0].selection_mean if one.choice else run_metrics.FAILURE


def _mean_value(one: RunSummary) -> float:
    values = run_metrics.by_prompt(one.choice.reported if one.choice else ())
    return sum(values.values()) / len(values) if values else run_metrics.FAILURE
