"""What a better level costs: the side effects of a contrast against their margins."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.evidence.side_effects import BETTER
from orchestrator.evidence.stats import estimates
from orchestrator.evidence.stats.contrast import ContrastResult
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.evidence.summary import RunSummary, SweepSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class SideEffect:
    """Change of adherence, diversity or drift, second level minus first.

    interval: 95 %, over training seeds and prompts as for similarity, uncorrected; None with a single training seed.
    margin: the largest cost that is not relevant; None if it is unknown.
    """

    name: str
    change: float
    interval: Interval | None
    margin: float | None

    @property
    def cost(self) -> float:
        """Positive if the second level is worse."""
        return -BETTER[self.name] * self.change

    @property
    def excessive(self) -> bool:
        """Whether the estimated cost exceeds the margin."""
        return self.margin is not None and self.cost > self.margin

    def __str__(self) -> str:
        bounds = f" ({self.interval:+.3f})" if self.interval else ""
        margin = "unknown" if self.margin is None else f"{self.margin:.2g}"
        return f"{self.change:+.3f}{bounds}, margin {margin}"


def side_effects(sweep: SweepSummary, result: ContrastResult) -> tuple[SideEffect, ...]:
    """Those that are known for every pair of the contrast."""
    runs = {run.run.point.name: run for run in sweep.runs}
    pairs = [(pair.replicate, runs[pair.first.run], runs[pair.second.run]) for pair in result.matching.pairs]
    found = []
    for name in BETTER:
        changes = [(seed, _change(name, first, second)) for seed, first, second in pairs]
        if not changes or not all(values for _, values in changes):
            continue
        estimate = estimates.over_seeds(changes)
        found.append(
            SideEffect(
                name=name,
                change=estimate.mean if estimate else float(np.mean([np.mean(list(v.values())) for _, v in changes])),
                interval=estimate.interval() if estimate else None,
                margin=sweep.margin(name, [run for _, *both in pairs for run in both]),
            )
        )
    return tuple(found)


def _change(name: str, first: RunSummary, second: RunSummary) -> Mapping[int, float]:
    before, after = first.side_effects.get(name, {}), second.side_effects.get(name, {})
    return {prompt: value - before[prompt] for prompt, value in after.items() if prompt in before}
