"""What a finished or unfinished sweep has to say: every run's records, read once, with the numbers that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator import scoring
from orchestrator.errors import Problem
from orchestrator.evidence import confirmation as fresh
from orchestrator.evidence import run_metrics as numbers
from orchestrator.evidence.calibration import record
from orchestrator.evidence.calibration.record import Kept
from orchestrator.evidence.confirmation import Fresh
from orchestrator.evidence.run_metrics import RunNumbers, Yardstick
from orchestrator.evidence.stats import choice, pareto
from orchestrator.evidence.stats.choice import Choice, Split
from orchestrator.evidence.stats.pareto import Contender, Front
from orchestrator.model import Result, Score
from orchestrator.run import early_stop as looks
from orchestrator.store import layout
from orchestrator.store.layout import Run, Status, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One closed attempt to train, and what it conceded."""

    number: int
    result: Result
    rungs: tuple[str, ...]
    overrides: dict[str, object]
    degraded: bool
    resumed: int | None = None
    """The epochs that were done when it was taken up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run. `choice` and `numbers` are None until it is scored.

    looks: what its previews scored on the way, by step; none unless trainings may be stopped early.
    trained_faces: different training pictures with a face; None until it is scored, and for a floor.
    gain: mean over prompts of the picture value less that of the base model without any LoRA on the same prompts and
    seeds; None without a floor.
    """

    run: Run
    status: Status
    training: tuple[Attempted, ...]
    scores: tuple[Score, ...]
    looks: Mapping[int, tuple[Score, ...]] = field(default_factory=dict)
    trained_faces: int | None = None
    choice: Choice | None = None
    numbers: RunNumbers | None = None
    gain: float | None = None
    fresh: Fresh | None = None

    @property
    def trained(self) -> Attempted | None:
        """The attempt that delivered."""
        return next((one for one in reversed(self.training) if one.result.failure is None), None)

    @property
    def degraded(self) -> bool:
        return self.trained is not None and self.trained.degraded


def gather(sweep: Sweep) -> list[RunFacts]:
    """The facts of every run of a frozen sweep, in the order of its grid, floors last."""
    bare = [_read(run) for run in sweep.runs()]
    halves = choice.split({choice.cell(score) for facts in bare for score in facts.scores})
    floors = {_base(facts.run): facts.scores for facts in bare if facts.run.point.floor}
    kept, _ = calibration(sweep)
    yardstick = kept.calibration.yardstick if kept else None
    weighed = [_weighed(facts, halves, floors.get(_base(facts.run), ()), yardstick) for facts in bare]
    below = {_base(one.run): fresh.every(one.run, one.choice) for one in weighed if one.run.point.floor and one.choice}
    return [replace(facts, fresh=_fresh(facts, below.get(_base(facts.run), ()))) for facts in weighed]


def calibration(sweep: Sweep) -> tuple[Kept | None, list[Problem]]:
    """The yardstick that this sweep is read against; None, and why, where there is none for it."""
    return record.fitting(layout.calibration(sweep.path.parent), sweep.record()["fingerprint"])


def _read(run: Run) -> RunFacts:
    scored = scoring.read_scored(run.path / layout.PRODUCTS["score"]) if run.done("score") else None
    return RunFacts(
        run=run,
        status=layout.status(run),
        training=tuple(_attempts(run)),
        scores=scored.scores if scored else (),
        looks=looks.scored(run),
        trained_faces=scored.training if scored and not run.point.floor else None,
    )


def _attempts(run: Run) -> list[Attempted]:
    found = []
    for attempt in run.attempts("train"):
        result, asked = attempt.result(), attempt.asked()
        if result is not None:
            found.append(
                Attempted(
                    number=attempt.number,
                    result=result,
                    rungs=tuple(asked.get("rungs", ())),
                    overrides=asked.get("overrides", {}),
                    degraded=asked.get("degraded", False),
                    resumed=(asked.get("resumed") or {}).get("epoch"),
                )
            )
    return found


def _fresh(one: RunFacts, floor: Sequence[Score]) -> Fresh | None:
    return fresh.of(one.run, one.choice, () if one.run.point.floor else floor) if one.choice else None


def _base(run: Run) -> str:
    return str(run.point.params["base_model"])


def _weighed(facts: RunFacts, halves: Split, floor: Sequence[Score], yardstick: Yardstick | None) -> RunFacts:
    chosen = choice.choose(facts.scores, halves)
    if chosen is None:
        return facts
    return replace(
        facts,
        choice=chosen,
        numbers=numbers.summary(chosen.reported, yardstick),
        gain=None if facts.run.point.floor else fresh.gain(chosen.reported, floor),
    )


def front(found: Sequence[RunFacts]) -> Front:
    """The runs with a LoRA that no other such run beats in similarity, missing faces and copying at once."""
    return pareto.pareto_front([_contender(facts) for facts in found if facts.numbers and not facts.run.point.floor])


def _contender(facts: RunFacts) -> Contender:
    run = facts.numbers
    return Contender(
        run=facts.run.point.name,
        similarity=run.similarity_mean if run else None,
        no_face_rate=run.no_face_rate if run else None,
        copying=run.nearest_training if run else None,
    )


def ranked(found: Sequence[RunFacts]) -> list[RunFacts]:
    """The scored runs with a LoRA, by their mean picture value, best first; those that were degraded come last."""
    scored = [one for one in found if one.choice and not one.run.point.floor]
    return sorted(scored, key=lambda one: (one.degraded, -_worth(one)))


def _worth(one: RunFacts) -> float:
    values = numbers.by_prompt(one.choice.reported if one.choice else ())
    return sum(values.values()) / len(values) if values else numbers.FAILURE


def log_of(run: Run) -> Path | None:
    """The log of the run's last attempt at the stage it stands at, for a person to read."""
    stage = layout.status(run).stage or run.stages[-1]
    attempts = run.attempts(stage)
    return attempts[-1].path / "log" if attempts else None
