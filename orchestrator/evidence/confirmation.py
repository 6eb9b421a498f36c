"""What further pictures of a run say, which took no part in finding it good: kept beside it, read here."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator import scoring
from orchestrator.evidence import run_metrics
from orchestrator.evidence.stats import choice, confirm
from orchestrator.evidence.stats.choice import Cell, Choice
from orchestrator.evidence.stats.confirm import Confirmation
from orchestrator.model import Score
from orchestrator.store import layout
from orchestrator.store.layout import Run

UP = "../../"
"""From a confirmation's folder to its run's: what the files of its checkpoints are relative to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationResult:
    """The number to quote. gain: over the floor's pictures of the same prompts and seeds; None without them."""

    scores: tuple[Score, ...]
    confirmation: Confirmation
    gain: float | None = None


def confirmation_for(run: Run, chosen: Choice, floor: Sequence[Score]) -> ConfirmationResult | None:
    """What confirms, or does not, the chosen checkpoint of a run; None before it is made."""
    found = scores(run, chosen)
    known = {score.image.text: score.image.prompt for score in chosen.reported}
    confirmed = confirm.confirmation(
        run_metrics.by_prompt(chosen.reported),
        run_metrics.by_prompt(found),
        same_prompts=all(known.get(score.image.text) == score.image.prompt for score in found),
    )
    return ConfirmationResult(scores=found, confirmation=confirmed, gain=gain(found, floor)) if confirmed else None


def scores(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """Of the latest confirming pictures of the chosen checkpoint at its strength; none before they are scored."""
    return next(_every(run, chosen), ())


def every(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """Of all confirming pictures of the chosen checkpoint, the latest first: a floor serves runs confirmed apart."""
    return tuple(score for found in _every(run, chosen) for score in found)


def _every(run: Run, chosen: Choice) -> Iterator[tuple[Score, ...]]:
    records = [one.path / layout.PRODUCTS["score"] for one in run.confirmations() if one.done("score")]
    for path in sorted(records, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        found = scoring.read_scores(path)
        if found and _made_with(found[0]) == (chosen.checkpoint, chosen.strength):
            yield found


def gain(found: Sequence[Score], floor: Sequence[Score]) -> float | None:
    """Mean over prompts of what these pictures are above the floor's of the same prompts and seeds."""
    made = set(map(_picture, found))
    below = run_metrics.by_prompt(score for score in floor if _picture(score) in made)
    gains = run_metrics.gain(run_metrics.by_prompt(found), below)
    return sum(gains.values()) / len(gains) if gains else None


def _picture(score: Score) -> tuple[Cell, str]:
    """With its words: a number of a prompt is another prompt's in another file of prompts."""
    return choice.cell(score), score.image.text


def _made_with(score: Score) -> tuple[str, float]:
    return score.image.checkpoint.removeprefix(UP), score.image.strength
