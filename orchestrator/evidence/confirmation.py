"""Scores of confirmation images: extra images of a run's chosen checkpoint that took no part in its selection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from orchestrator import scoring
from orchestrator.evidence import choice, run_metrics
from orchestrator.evidence.choice import Cell, Choice
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.model import Score
from orchestrator.store import layout
from orchestrator.store.layout import Run

UP = "../../"
"""From the folder of a confirmation to the folder of its run; its checkpoint paths start with this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Means over prompts of the reported images and of the confirmation images of the same checkpoint.

    change: confirmed minus reported. Its 95 % interval is over prompts: paired if the prompts are the same, otherwise
    Welch's. Intervals are None with fewer than two prompts.
    """

    reported: float
    confirmed: float
    confirmed_interval: Interval | None
    change: float
    change_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationResult:
    """gain: mean over the baseline's images of the same prompts and seeds; None without them."""

    scores: tuple[Score, ...]
    comparison: Confirmation
    gain: float | None = None


def confirmation_for(run: Run, chosen: Choice, baseline: Sequence[Score]) -> ConfirmationResult | None:
    """The confirmation of a run's chosen checkpoint; None before its images are scored."""
    found = latest(run, chosen)
    known = {score.image.text: score.image.prompt for score in chosen.reported}
    comparison = confirmation(
        run_metrics.by_prompt(chosen.reported),
        run_metrics.by_prompt(found),
        same_prompts=all(known.get(score.image.text) == score.image.prompt for score in found),
    )
    if comparison is None:
        return None
    return ConfirmationResult(scores=found, comparison=comparison, gain=gain(found, baseline))


def confirmation(
    reported: Mapping[int, float], confirmed: Mapping[int, float], *, same_prompts: bool = False
) -> Confirmation | None:
    """Compare mean image values by prompt (run_metrics.by_prompt); None if a side is empty.

    same_prompts: `confirmed` has other seeds of the same prompts under the same numbers; otherwise other prompts.
    """
    before, after = list(reported.values()), list(confirmed.values())
    if not before or not after:
        return None
    old, new = sum(before) / len(before), sum(after) / len(after)
    if same_prompts:
        change_interval = _mean_interval(
            [confirmed[n] - reported[n] for n in sorted(reported.keys() & confirmed.keys())]
        )
    else:
        change_interval = _welch_interval(before, after)
    return Confirmation(
        reported=old,
        confirmed=new,
        confirmed_interval=_mean_interval(after),
        change=new - old,
        change_interval=change_interval,
    )


def latest(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """The latest confirmation of the chosen checkpoint at its strength; empty before it is scored."""
    return next(_scored(run, chosen), ())


def every(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """All confirmations of the chosen checkpoint, latest first: one baseline serves runs that were confirmed apart."""
    return tuple(score for found in _scored(run, chosen) for score in found)


def gain(found: Sequence[Score], baseline: Sequence[Score]) -> float | None:
    """Mean over prompts of the image values minus those of the baseline for the same prompts and seeds."""
    made = set(map(_cell_and_text, found))
    below = run_metrics.by_prompt(score for score in baseline if _cell_and_text(score) in made)
    gains = run_metrics.gain(run_metrics.by_prompt(found), below)
    return sum(gains.values()) / len(gains) if gains else None


def _scored(run: Run, chosen: Choice) -> Iterator[tuple[Score, ...]]:
    records = [one.path / layout.PRODUCTS["score"] for one in run.confirmations() if one.done("score")]
    for path in sorted(records, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        found = scoring.read_scores(path)
        if found:
            image = found[0].image
            if (image.checkpoint.removeprefix(UP), image.strength) == (chosen.checkpoint, chosen.strength):
                yield found


def _cell_and_text(score: Score) -> tuple[Cell, str]:
    """Includes the prompt's text, because prompt files number their prompts independently."""
    return choice.cell(score), score.image.text


def _mean_interval(values: Sequence[float]) -> Interval | None:
    return _interval(stats.ttest_1samp(values, 0).confidence_interval(0.95)) if len(values) > 1 else None


def _welch_interval(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    if len(before) < 2 or len(after) < 2:
        return None
    return _interval(stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95))


def _interval(ends: tuple[float, float]) -> Interval:
    return Interval(low=float(ends[0]), high=float(ends[1]))
