"""Detects data that violate the assumptions of an interval.

Few prompts, a collapsed run, skewed differences, a difference that depends on another dim.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.estimates import FloatArray
from orchestrator.evidence.stats.pairs import REPLICATE, Pair, RunRow
from orchestrator.values import canonical_json

MIN_PROMPTS = 8
"""With four to seven prompts, 95 % intervals contain the difference of further prompts in 87 to 92 % of sweeps."""
_COLLAPSE = 0.1
"""A run this much below its level's other seeds may have collapsed, if that is also `_COLLAPSE_SPREADS` of them."""
_COLLAPSE_SPREADS = 5.0
_MIN_SKEW = 8
"""The fewest values that show a skewed distribution."""


def warnings(pairs: Sequence[Pair], table: FloatArray) -> Iterator[str]:
    """What makes the interval of these pairs unreliable. table: (training seeds, prompts) differences."""
    if 0 < table.shape[1] < MIN_PROMPTS:
        yield (
            f"only {table.shape[1]} {'prompt' if table.shape[1] == 1 else 'prompts'}: for other prompts the interval "
            f"is too narrow; use at least {MIN_PROMPTS}"
        )
    for name, drop in collapsed(pairs):
        yield (
            f"{name} lies {drop:.2f} below the other seeds of its level and may have collapsed: the result depends on "
            "how often trainings collapse, which these seeds do not show"
        )


def tested_warnings(pairs: Sequence[Pair], table: FloatArray, smallest: float) -> Iterator[tuple[str, float]]:
    """The warnings that need a test, each with its uncorrected p-value. table: as in `warnings`.

    Skewed differences; a difference that depends on another dim, so that the mean over its values hides it: one test of
    each two values, with p = 1 where they differ by `smallest` or less.
    """
    means = table.mean(axis=1) if table.size else np.empty(0)
    if len(means) >= _MIN_SKEW and np.ptp(means) > 0:
        skewed = "the differences of the seeds are skewed: the error level of the verdict is not exact"
        yield skewed, float(stats.skewtest(means).pvalue)
    common = [
        (p, [p.second.by_prompt[n] - p.first.by_prompt[n] for n in p.first.by_prompt.keys() & p.second.by_prompt])
        for p in pairs
    ]
    dims = {name for pair in pairs for name in pair.first.dims} - {REPLICATE}
    for name in sorted(dims):
        groups: dict[str, list[float]] = defaultdict(list)
        for pair, changes in common:
            level = canonical_json(pair.first.params.get(name, ""))
            if changes and level == canonical_json(pair.second.params.get(name, "")):
                groups[level].append(float(np.mean(changes)))
        values = ", ".join(f"{np.mean(group):+.3f} at {level}" for level, group in groups.items())
        warning = f"the difference depends on {name} ({values}): compare its values in separate grids"
        for one, other in combinations([group for group in groups.values() if len(group) > 1], 2):
            yield warning, _welch(one, other) if abs(np.mean(one) - np.mean(other)) > smallest else 1.0


def _welch(one: Sequence[float], other: Sequence[float]) -> float:
    """The p-value of Welch's test; 0 for different means without variance."""
    first, second = ((float(np.mean(x)), float(np.std(x, ddof=1)), len(x)) for x in (one, other))
    return float(stats.ttest_ind_from_stats(*first, *second, equal_var=False).pvalue)


def collapsed(pairs: Sequence[Pair]) -> list[tuple[str, float]]:
    """Runs far below the median of the runs that differ from them in the seed only, with the distance."""
    groups: dict[str, dict[str, tuple[RunRow, float]]] = defaultdict(dict)
    for pair in pairs:
        for row in (pair.first, pair.second):
            dims = [f"{name}={canonical_json(row.params[name])}" for name in sorted(row.dims) if name != REPLICATE]
            groups[" ".join(dims)][row.run] = (row, float(np.mean(list(row.by_prompt.values()))))
    residuals: dict[str, float] = {}
    for group in groups.values():
        middle = float(np.median([value for _, value in group.values()]))
        residuals |= {name: value - middle for name, (_, value) in group.items()} if len(group) > 2 else {}
    sizes = sorted(abs(residual) for residual in residuals.values() if residual)
    if len(sizes) < 3:  # two have no spread to compare with
        return []
    limit = max(_COLLAPSE, _COLLAPSE_SPREADS * 1.4826 * float(np.median(sizes)))
    return [(name, -residual) for name, residual in residuals.items() if residual < -limit]
