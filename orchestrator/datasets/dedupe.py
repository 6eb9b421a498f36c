"""Keeps one of several nearly equal images, by perceptual hash."""

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

from orchestrator import images
from orchestrator.config.recipe import Dedupe
from orchestrator.datasets.samples import DroppedSample, Sample, SampleSet, drop


def apply(dedupe: Dedupe, batch: SampleSet) -> SampleSet:
    """Of each group of duplicates the one with the most pixels; among equals, the first by name."""
    kept: list[tuple[Sample, Sequence[imagehash.ImageHash]]] = []
    dropped: list[DroppedSample] = []
    for sample in sorted(batch.samples, key=lambda one: (-np.prod(images.size(one.file)), one.name)):
        hashes = perceptual_hash(sample.pixels(), mirror=dedupe.mirror)
        duplicate = next((other for other, known in kept if distance(hashes, known) <= dedupe.distance), None)
        if duplicate:
            dropped.append(drop(sample, f"a duplicate of {duplicate.name}"))
        else:
            kept.append((sample, hashes))
    return batch.keep([sample for sample, _ in kept], dropped)


def perceptual_hash(picture: images.Picture, *, mirror: bool) -> tuple[imagehash.ImageHash, ...]:
    """The 64-bit pHash of an image, and with `mirror` that of its mirror image."""
    sides = (picture, np.ascontiguousarray(picture[:, ::-1])) if mirror else (picture,)
    return tuple(imagehash.phash(Image.fromarray(side)) for side in sides)


def distance(one: Sequence[imagehash.ImageHash], other: Sequence[imagehash.ImageHash]) -> int:
    """Number of different bits, 0 to 64: the smallest over the hashes of `other`, mirrored or not."""
    return min(int(one[0] - side) for side in other)
