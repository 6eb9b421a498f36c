"""The winner's curse, measured: the best run's number against fresh prompts that took no part in finding it best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from orchestrator.evidence.interval import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Means over prompts of what the sweep reported and of fresh pictures of the same checkpoint.

    fresh is the number to quote. change: fresh minus reported, with a 95 % Welch interval over prompts; None with
    fewer than two prompts on either side.
    """

    reported: float
    fresh: float
    fresh_interval: Interval | None
    change: float
    change_interval: Interval | None


def confirmation(reported: Mapping[int, float], fresh: Mapping[int, float]) -> Confirmation | None:
    """From mean picture values by prompt (numbers.by_prompt) of other prompts each; None when a side is empty."""
    before, after = list(reported.values()), list(fresh.values())
    if not before or not after:
        return None
    old, new = sum(before) / len(before), sum(after) / len(after)
    return Confirmation(
        reported=old,
        fresh=new,
        fresh_interval=_mean_interval(after),
        change=new - old,
        change_interval=_change_interval(before, after),
    )


def _mean_interval(values: Sequence[float]) -> Interval | None:
    return _interval(stats.ttest_1samp(values, 0).confidence_interval(0.95)) if len(values) > 1 else None


def _change_interval(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    if len(before) < 2 or len(after) < 2:
        return None
    return _interval(stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95))


def _interval(ends: tuple[float, float]) -> Interval:
    return Interval(low=float(ends[0]), high=float(ends[1]))
