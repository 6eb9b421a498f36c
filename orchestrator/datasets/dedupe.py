"""Keeps one of several nearly equal images, by perceptual hash."""

from collections.abc import Sequence

import numpy as np

from orchestrator import images
from orchestrator.config.recipe import Dedupe
from orchestrator.datasets.samples import DroppedSample, Sample, SampleSet, drop


def apply(dedupe: Dedupe, batch: SampleSet) -> SampleSet:
    """Of each group of duplicates the one with the most pixels; among equals, the first by name."""
    kept: list[tuple[Sample, Sequence[images.PerceptualHash]]] = []
    dropped: list[DroppedSample] = []
    for sample in sorted(batch.samples, key=lambda one: (-np.prod(images.size(one.file)), one.name)):
        hashes = images.perceptual_hashes(sample.pixels())[: 2 if dedupe.mirror else 1]
        duplicate = next(
            (other for other, known in kept if images.hash_distance(hashes, known) <= dedupe.distance), None
        )
        if duplicate:
            dropped.append(drop(sample, f"a duplicate of {duplicate.name}"))
        else:
            kept.append((sample, hashes))
    return batch.keep([sample for sample, _ in kept], dropped)
