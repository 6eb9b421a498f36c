"""Configurations: the runs of a sweep that differ only in the training seed, with their means, ranked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from orchestrator.evidence import lora_files, run_metrics
from orchestrator.evidence.stats import crossed, estimates
from orchestrator.evidence.stats.estimates import Estimate, Interval
from orchestrator.evidence.stats.pairs import REPLICATE
from orchestrator.evidence.summary import RunSummary
from orchestrator.model import LORA, Params, Score, State
from orchestrator.values import canonical_json, in_label, varied_dims


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """Runs with equal params except the training seed. dims: the varied ones, without the seed.

    All numbers are means over `counted`: the finished runs with the requested settings, or the finished degraded runs
    if there are no others. None means unknown.
    """

    runs: tuple[RunSummary, ...]
    dims: Params
    is_baseline: bool

    @cached_property
    def label(self) -> str:
        """Names the varied dims: `network_dim 32, optimizer_type Prodigy`."""
        if self.is_baseline:
            return f"baseline {self.runs[0].run.point.params['base_model']}"
        if self.is_file:
            return f"{LORA} {self.runs[0].run.point.params[LORA]}"
        return ", ".join(f"{key} {in_label(value)}" for key, value in self.dims.items()) or "all runs"

    @property
    def is_file(self) -> bool:
        """Whether it is an existing LoRA file, which has no training seeds."""
        return LORA in self.runs[0].run.point.params

    @cached_property
    def counted(self) -> tuple[RunSummary, ...]:
        finished = [one for one in self.runs if one.metrics and one.status.state is State.FINISHED]
        return tuple([one for one in finished if not one.degraded] or finished)

    @property
    def is_substituted(self) -> bool:
        """Whether its numbers are those of degraded runs, trained with other settings than it names."""
        return bool(self.counted and self.counted[0].degraded)

    @property
    def degraded(self) -> int:
        """Number of runs whose settings an OOM fallback changed."""
        return sum(one.degraded for one in self.runs)

    @cached_property
    def value(self) -> float | None:
        """Mean image value, where an image without a face counts -1: the ranking is by this."""
        return run_metrics.mean(mean_value(one) for one in self.counted)

    @cached_property
    def interval(self) -> Interval | None:
        """95 % interval of `value` over training seeds and prompts, of a LoRA file over prompts and image seeds.

        None below two seeds or two prompts.
        """
        if self.is_file:
            table = lora_files.complete(lora_files.values(reported(self.counted[0]))) if self.counted else []
            return crossed.interval(np.array(table)) if table else None
        return self._interval(values_by_prompt)

    def side_effect(self, name: str) -> float | None:
        """Mean adherence, diversity or drift over prompts and runs."""
        means = [run_metrics.mean(one.side_effects.get(name, {}).values()) for one in self.counted]
        return None if None in means else run_metrics.mean(means)

    def side_effect_interval(self, name: str) -> Interval | None:
        """Its 95 % interval over training seeds and prompts; None below two seeds."""
        return self._interval(lambda one: one.side_effects.get(name, {}))

    def _interval(self, values: Callable[[RunSummary], Mapping[int, float]]) -> Interval | None:
        found = estimates.over_seeds((one.seed, values(one)) for one in self.counted)
        return found.interval() if found and not self.is_baseline else None

    @property
    def gain(self) -> float | None:
        return run_metrics.mean(one.gain for one in self.counted)

    def metric(self, name: str) -> float | None:
        """Mean over the counted runs of a number of `RunMetrics`."""
        return run_metrics.mean(getattr(one.metrics, name) for one in self.counted)


def group(runs: Sequence[RunSummary]) -> list[Configuration]:
    """The configurations, best first; unscored and degraded ones follow, in the order of the grid."""
    varied = varied_dims((one.run.point for one in runs), without=(REPLICATE,))
    groups: dict[tuple[str, ...], list[RunSummary]] = {}
    for one in runs:
        point = one.run.point
        key = (
            str(point.is_baseline),
            *(f"{k}={canonical_json(v)}" for k, v in sorted(point.params.items()) if k != REPLICATE),
        )
        groups.setdefault(key, []).append(one)
    found = [
        Configuration(
            runs=tuple(members),
            dims={key: value for key, value in members[0].run.point.params.items() if key in varied},
            is_baseline=members[0].run.point.is_baseline,
        )
        for members in groups.values()
    ]
    return sorted(found, key=_rank)


def lead(best: Configuration, other: Configuration) -> Estimate | None:
    """The difference of two configurations over their common training seeds and prompts; None below two seeds.

    A baseline and a LoRA file have no training seeds and are compared with each of them.
    """
    if best.is_file and not other.is_file:
        found = lead(other, best)
        return replace(found, mean=-found.mean) if found else None
    others = {one.seed: values_by_prompt(one) for one in other.counted}
    seedless = other.is_baseline or other.is_file
    baseline = values_by_prompt(other.counted[0]) if seedless and other.counted else {}
    pairs = [(one, others.get(one.seed, baseline)) for one in best.counted]
    return estimates.over_seeds(
        (one.seed, run_metrics.gain(values_by_prompt(one), values)) for one, values in pairs if values
    )


def reported(one: RunSummary) -> Sequence[Score]:
    """The scores that count; empty without scores."""
    return one.choice.reported if one.choice else ()


def values_by_prompt(one: RunSummary) -> Mapping[int, float]:
    """Mean image value of each prompt; empty without scores."""
    return run_metrics.by_prompt(reported(one))


def mean_value(one: RunSummary) -> float | None:
    """Mean image value over prompts; None without scores."""
    return run_metrics.mean(values_by_prompt(one).values())


def _rank(one: Configuration) -> tuple[bool, bool, float]:
    return (one.value is None, one.is_substituted, -(one.value or 0.0))
