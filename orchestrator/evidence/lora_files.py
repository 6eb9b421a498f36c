"""Pairwise comparison of LoRA files by the images of the same prompts and image seeds.

A file has no training seeds, so the result is about these files, not about the settings that they were trained with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from orchestrator.evidence.run_metrics import image_value
from orchestrator.evidence.stats import crossed
from orchestrator.evidence.stats.contrast import TestSettings
from orchestrator.evidence.stats.estimates import Interval
from orchestrator.model import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class FileComparison:
    """The image values of `second` minus those of `first`. by_gain: each minus its baseline, on different base models.

    interval: simultaneous 95 % over all pairs (Bonferroni), over prompts and image seeds; None below two prompts.
    """

    first: int
    second: int
    difference: float
    interval: Interval | None
    prompts: int
    seeds: int
    by_gain: bool

    @property
    def better(self) -> int | None:
        """The file with the higher values; None if the interval does not exclude 0, or if the files do the same."""
        if self.interval is None or self.interval.low <= 0 <= self.interval.high:
            return None
        if abs(self.difference) < TestSettings().unchanged:
            return None
        return self.second if self.difference > 0 else self.first


def compare(
    scores: Sequence[Sequence[Score]],
    baselines: Sequence[Sequence[Score]],
    bases: Sequence[str],
    *,
    family: int = 1,
    by_gain: bool = False,
) -> list[FileComparison]:
    """All pairs of files; pairs without a common readable image are left out.

    family: number of such comparisons that are made together. by_gain: also on equal base models.
    """
    own_values = [values(one) for one in scores]
    gains = [_minus(own, values(base)) for own, base in zip(own_values, baselines, strict=True)]
    pairs = list(combinations(range(len(own_values)), 2))
    confidence = 1 - 0.05 / max(len(pairs) * family, 1)
    found = []
    for first, second in pairs:
        gained = by_gain or bases[first] != bases[second]
        own = gains if gained else own_values
        if table := complete(_minus(own[second], own[first])):
            array = np.array(table)
            found.append(
                FileComparison(
                    first=first,
                    second=second,
                    difference=float(array.mean()),
                    interval=crossed.interval(array, confidence),
                    prompts=array.shape[0],
                    seeds=array.shape[1],
                    by_gain=gained,
                )
            )
    return found


def values(scores: Sequence[Score]) -> dict[tuple[int, int], float]:
    """(prompt, image seed) -> image value, of readable images."""
    found = {(one.image.prompt, one.image.seed): image_value(one) for one in scores}
    return {cell: value for cell, value in found.items() if value is not None}


def _minus(
    one: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float]
) -> dict[tuple[int, int], float]:
    return {cell: value - other[cell] for cell, value in one.items() if cell in other}


def complete(found: Mapping[tuple[int, int], float]) -> list[list[float]]:
    """(prompts, seeds) of the prompts that have every seed."""
    prompts, seeds = sorted({cell[0] for cell in found}), sorted({cell[1] for cell in found})
    full = [prompt for prompt in prompts if all(cell in found for cell in product([prompt], seeds))]
    return [[found[prompt, seed] for seed in seeds] for prompt in full]
