"""What a finished or unfinished sweep has to say: every run's records, read once, with the numbers that follow."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator import scorer, store
from orchestrator.evidence import choice, numbers
from orchestrator.evidence.choice import Choice, Split
from orchestrator.evidence.numbers import RunNumbers
from orchestrator.model import Result, Score
from orchestrator.store import Run, Status, Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempted:
    """One closed attempt to train, and what it conceded."""

    number: int
    result: Result
    rungs: tuple[str, ...]
    overrides: dict[str, object]
    degraded: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One run. `choice` and `numbers` are None until it is scored.

    gain: mean over prompts of the picture value less that of the base model without any LoRA; None without a floor.
    """

    run: Run
    status: Status
    training: tuple[Attempted, ...]
    scores: tuple[Score, ...]
    choice: Choice | None = None
    numbers: RunNumbers | None = None
    gain: float | None = None

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
    cells = {(score.image.prompt, score.image.seed) for facts in bare for score in facts.scores}
    halves = choice.split(cells)
    floors = {_base(facts.run): _values(facts.scores) for facts in bare if facts.run.point.floor and facts.scores}
    return [_weighed(facts, halves, floors.get(_base(facts.run))) for facts in bare]


def _read(run: Run) -> RunFacts:
    done = run.done("score")
    return RunFacts(
        run=run,
        status=store.status(run),
        training=tuple(_attempts(run)),
        scores=scorer.read_scores(run.path / store.PRODUCTS["score"]) if done else (),
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
                )
            )
    return found


def _base(run: Run) -> str:
    return str(run.point.params["base_model"])


def _values(scores: Sequence[Score]) -> dict[int, float]:
    return numbers.by_prompt(scores)


def _weighed(facts: RunFacts, halves: Split, floor: dict[int, float] | None) -> RunFacts:
    chosen = choice.choose(facts.scores, halves)
    if chosen is None:
        return facts
    gains = numbers.gain(_values(chosen.reported), floor) if floor and not facts.run.point.floor else {}
    return RunFacts(
        run=facts.run,
        status=facts.status,
        training=facts.training,
        scores=facts.scores,
        choice=chosen,
        numbers=numbers.summary(chosen.reported),
        gain=sum(gains.values()) / len(gains) if gains else None,
    )


def log_of(run: Run) -> Path | None:
    """The log of the run's last attempt at the stage it stands at, for a person to read."""
    stage = store.status(run).stage or run.stages[-1]
    attempts = run.attempts(stage)
    return attempts[-1].path / "log" if attempts else None
