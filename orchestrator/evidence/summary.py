"""What a finished or unfinished sweep has to say: every run's records, read once, with the numbers that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import Problem
from orchestrator.evidence import choice, preview_scores
from orchestrator.evidence import confirmation as fresh
from orchestrator.evidence import run_metrics as numbers
from orchestrator.evidence.calibration import record
from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.choice import Choice, SelectionSplit
from orchestrator.evidence.confirmation import ConfirmationResult
from orchestrator.evidence.run_metrics import RunMetrics, Thresholds
from orchestrator.evidence.stats import pareto
from orchestrator.evidence.stats.pareto import ParetoFront, ParetoPoint
from orchestrator.model import Result, Score
from orchestrator.store import layout, state
from orchestrator.store.layout import Run, Sweep
from orchestrator.store.state import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSummary:
    """One closed attempt to train, and what it conceded."""

    number: int
    result: Result
    fallbacks: tuple[str, ...]
    overrides: dict[str, object]
    degraded: bool
    resumed: int | None = None
    """The epochs that were done when it was taken up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One run. `choice` and `numbers` are None until it is scored.

    looks: what its previews scored on the way, by step; none unless trainings may be stopped early.
    trained_faces: different training pictures with a face; None until it is scored, and for a floor.
    gain: mean over prompts of the picture value less that of the base model without any LoRA on the same prompts and
    seeds; None without a floor.
    """

    run: Run
    status: Status
    training: tuple[AttemptSummary, ...]
    scores: tuple[Score, ...]
    looks: Mapping[int, tuple[Score, ...]] = field(default_factory=dict)
    trained_faces: int | None = None
    choice: Choice | None = None
    numbers: RunMetrics | None = None
    gain: float | None = None
    fresh: ConfirmationResult | None = None

    @property
    def trained(self) -> AttemptSummary | None:
        """The attempt that delivered."""
        return next((one for one in reversed(self.training) if one.result.failure is None), None)

    @property
    def degraded(self) -> bool:
        return self.trained is not None and self.trained.degraded


def gather(sweep: Sweep) -> list[RunSummary]:
    """The facts of every run of a frozen sweep, in the order of its grid, floors last."""
    bare = [_read(run) for run in sweep.runs()]
    halves = choice.split({choice.cell(score) for facts in bare for score in facts.scores})
    floors = {_base(facts.run): facts.scores for facts in bare if facts.run.point.is_baseline}
    kept, _ = calibration(sweep)
    yardstick = kept.calibration.thresholds if kept else None
    weighed = [_weighed(facts, halves, floors.get(_base(facts.run), ()), yardstick) for facts in bare]
    below = {
        _base(one.run): fresh.every(one.run, one.choice) for one in weighed if one.run.point.is_baseline and one.choice
    }
    return [replace(facts, fresh=_fresh(facts, below.get(_base(facts.run), ()))) for facts in weighed]


def calibration(sweep: Sweep) -> tuple[CalibrationRecord | None, list[Problem]]:
    """The yardstick that this sweep is read against; None, and why, where there is none for it."""
    return record.load_matching(layout.calibration(sweep.path.parent), sweep.record()["fingerprint"])


def _read(run: Run) -> RunSummary:
    scored = scoring.read_scored(run.path / layout.PRODUCTS["score"]) if run.done("score") else None
    return RunSummary(
        run=run,
        status=state.status(run),
        training=tuple(_attempts(run)),
        scores=scored.scores if scored else (),
        looks=preview_scores.of_run(run),
        trained_faces=scored.training if scored and not run.point.is_baseline else None,
    )


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


def _fresh(one: RunSummary, floor: Sequence[Score]) -> ConfirmationResult | None:
    return (
        fresh.confirmation_for(one.run, one.choice, () if one.run.point.is_baseline else floor) if one.choice else None
    )


def _base(run: Run) -> str:
    return str(run.point.params["base_model"])


def _weighed(
    facts: RunSummary, halves: SelectionSplit, floor: Sequence[Score], yardstick: Thresholds | None
) -> RunSummary:
    chosen = choice.choose(facts.scores, halves)
    if chosen is None:
        return facts
    return replace(
        facts,
        choice=chosen,
        numbers=numbers.summary(chosen.reported, yardstick),
        gain=None if facts.run.point.is_baseline else fresh.gain(chosen.reported, floor),
    )


def pareto_front_of(found: Sequence[RunSummary]) -> ParetoFront:
    """The runs with a LoRA that no other such run beats in similarity, missing faces and copying at once."""
    return pareto.pareto_front(
        [_contender(facts) for facts in found if facts.numbers and not facts.run.point.is_baseline]
    )


def _contender(facts: RunSummary) -> ParetoPoint:
    run = facts.numbers
    return ParetoPoint(
        run=facts.run.point.name,
        similarity=run.similarity_mean if run else None,
        no_face_rate=run.no_face_rate if run else None,
        copying=run.nearest_training if run else None,
    )


def rank_runs(found: Sequence[RunSummary]) -> list[RunSummary]:
    """The scored runs with a LoRA, by their mean picture value, best first; those that were degraded come last."""
    scored = [one for one in found if one.choice and not one.run.point.is_baseline]
    return sorted(scored, key=lambda one: (one.degraded, -_worth(one)))


def _worth(one: RunSummary) -> float:
    values = numbers.by_prompt(one.choice.reported if one.choice else ())
    return sum(values.values()) / len(values) if values else numbers.FAILURE


def log_of(run: Run) -> Path | None:
    """The log of the run's last attempt at the stage it stands at, for a person to read."""
    stage = state.status(run).stage or run.stages[-1]
    attempts = run.attempts(stage)
    return attempts[-1].path / "log" if attempts else None
