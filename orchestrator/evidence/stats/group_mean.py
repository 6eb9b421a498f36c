"""The mean of one setting, over the training seeds that it was run with."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np

from orchestrator.evidence.stats import mean_estimate
from orchestrator.evidence.stats.mean_estimate import Estimate
from orchestrator.model import Value


def over_seeds(runs: Iterable[tuple[Value | None, Mapping[int, float]]]) -> Estimate | None:
    """From (training seed, mean picture value by prompt) of each run; None with a single seed or no common prompt."""
    seeds: dict[Value | None, list[Mapping[int, float]]] = defaultdict(list)
    for seed, by_prompt in runs:
        seeds[seed].append(by_prompt)
    everything = [values for group in seeds.values() for values in group]
    prompts = sorted(set.intersection(*(set(values) for values in everything))) if everything else []
    if not prompts:
        return None
    rows = [np.mean([[values[prompt] for prompt in prompts] for values in group], axis=0) for group in seeds.values()]
    return mean_estimate.estimate(np.array(rows))
