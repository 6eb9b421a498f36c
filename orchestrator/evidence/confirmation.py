"""Scores of confirmation images: extra images of a run's selected checkpoint that took no part in its selection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TypeVar

import numpy as np
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

    change: confirmed minus reported. With `paired`, both means are over the prompts that both sides have, and the 95 %
    interval of the change is over these prompts; without common prompts it is Welch's. Intervals are None with fewer
    than two prompts.
    """

    paired: bool
    reported: float
    confirmed: float
    confirmed_interval: Interval | None
    change: float
    change_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationResult:
    """scores: of prompts that took no part in the selection of the checkpoint; of all prompts if each of them took part
    (`new_prompts` is False then, and only the seeds are new).

    gain: mean over the baseline's images of the same prompts and seeds; None without them. reported_gain: of the
    earlier images, over the same prompts as the confirmation if it is paired.
    """

    scores: tuple[Score, ...]
    comparison: Confirmation
    new_prompts: bool = True
    gain: float | None = None
    reported_gain: float | None = None


def confirmation_for(
    run: Run, chosen: Choice, baseline: Sequence[Score], earlier_baseline: Sequence[Score]
) -> ConfirmationResult | None:
    """The confirmation of a run's selected checkpoint; None before its images are scored.

    baseline: its confirmation images. earlier_baseline: its images of the sweep.
    """
    made = latest(run, chosen)
    unselected = tuple(score for score in made if score.image.text not in chosen.selection_texts)
    found, reported = unselected or made, chosen.reported
    comparison = confirmation(_by_text(reported), _by_text(found))
    if comparison is None:
        return None
    if comparison.paired:
        texts = {score.image.text for score in found}
        reported = tuple(score for score in reported if score.image.text in texts)
    return ConfirmationResult(
        scores=found,
        comparison=comparison,
        new_prompts=bool(unselected),
        gain=gain(found, baseline),
        reported_gain=gain(reported, earlier_baseline),
    )


_Prompt = TypeVar("_Prompt", int, str)


def confirmation(reported: Mapping[_Prompt, float], confirmed: Mapping[_Prompt, float]) -> Confirmation | None:
    """Compare mean image values by prompt, paired over the common prompts if there are any; None if a side is empty."""
    if not reported or not confirmed:
        return None
    common = [prompt for prompt in reported if prompt in confirmed]
    before, after = ([values[prompt] for prompt in common or values] for values in (reported, confirmed))
    change = [new - old for old, new in zip(before, after, strict=True)] if common else []
    return Confirmation(
        paired=bool(common),
        reported=sum(before) / len(before),
        confirmed=sum(after) / len(after),
        confirmed_interval=_mean_interval(after),
        change=sum(after) / len(after) - sum(before) / len(before),
        change_interval=_mean_interval(change) if common else _welch_interval(before, after),
    )


def optimism(confirmed: Sequence[ConfirmationResult]) -> float | None:
    """How much too high the best of several confirmed values is on average, if all runs are equal; None if unknown.

    The expected maximum of as many normal errors. Their variance is that of the residuals of a table of runs and
    prompts, because prompts are common to the runs. Runs that differ make the best value less optimistic.
    """
    tables = [_by_text(one.scores) for one in confirmed]
    common = sorted(set.intersection(*map(set, tables))) if tables else []
    count, prompts = len(tables), len(common)
    if count < 2 or prompts < 2:
        return 0.0 if count == 1 else None
    values = np.array([[table[text] for text in common] for table in tables])
    residuals = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    variance = float((residuals**2).sum()) / ((count - 1) * (prompts - 1))
    highest = stats.norm.expect(lambda x: count * x * stats.norm.cdf(x) ** (count - 1))
    return float(highest) * sqrt(variance / prompts)


def _by_text(scores: Sequence[Score]) -> dict[str, float]:
    """Mean image value by the text of the prompt: prompt files number their prompts independently."""
    texts = dict.fromkeys(score.image.text for score in scores)
    by_text = {text: run_metrics.by_prompt(one for one in scores if one.image.text == text) for text in texts}
    return {text: sum(values.values()) / len(values) for text, values in by_text.items() if values}


def latest(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """The latest confirmation of the selected checkpoint at its strength; empty before it is scored."""
    return next(_scored(run, chosen), ())


def every(run: Run, chosen: Choice) -> tuple[Score, ...]:
    """All confirmations of the selected checkpoint, latest first: runs that were confirmed apart share a baseline."""
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
