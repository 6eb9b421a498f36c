"""The winner's curse, measured: the best run's number against fresh prompts that took no part in finding it best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from orchestrator.evidence.stats.interval import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Means over prompts of what the sweep reported and of fresh pictures of the same checkpoint.

    fresh is the number to quote. change: fresh minus reported, with a 95 % interval over prompts (Welch's, or of the
    paired changes where the prompts are the same); None with fewer than two prompts on either side.
    """

    reported: float
    fresh: float
    fresh_interval: Interval | None
    change: float
    change_interval: Interval | None


def confirmation(
    reported: Mapping[int, float], fresh: Mapping[int, float], *, same_prompts: bool = False
) -> Confirmation | None:
    """From mean picture values by prompt (numbers.by_prompt); None when a side is empty.

    same_prompts: `fresh` has other seeds of the same prompts, under the same numbers; else other prompts.
    """
    before, after = list(reported.values()), list(fresh.values())
    if not before or not after:
        return None
    old, new = sum(before) / len(before), sum(after) / len(after)
    return Confirmation(
        reported=old,
        fresh=new,
        fresh_interval=_mean_interval(after),
        change=new - old,
        change_interval=_paired(reported, fresh) if same_prompts else _change_interval(before, after),
    )


def _mean_interval(values: Sequence[float]) -> Interval | None:
    return _interval(stats.ttest_1samp(values, 0).confidence_interval(0.95)) if len(values) > 1 else None


def _paired(reported: Mapping[int, float], fresh: Mapping[int, float]) -> Interval | None:
    changes = [fresh[prompt] - reported[prompt] for prompt in sorted(reported.keys() & fresh.keys())]
    return _mean_interval(changes)


def _change_interval(before: Sequence[float], after: Sequence[float]) -> Interval | None:
    if len(before) < 2 or len(after) < 2:
        return None
    return _interval(stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.95))


def _interval(ends: tuple[float, float]) -> Interval:
    return Interval(low=float(ends[0]), high=float(ends[1]))
