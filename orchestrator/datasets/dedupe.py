"""One of several pictures that are as good as equal, by perceptual hash."""

from collections.abc import Sequence

import imagehash
import numpy as np
from PIL import Image

from orchestrator import images
from orchestrator.config.recipe import Dedupe
from orchestrator.datasets.samples import DroppedSample, Sample, SampleSet, drop, pixels


def apply(dedupe: Dedupe, batch: SampleSet) -> SampleSet:
    """Of each group of duplicates the one with the most pixels; the first by name among equals."""
    kept: list[tuple[Sample, Sequence[imagehash.ImageHash]]] = []
    dropped: list[DroppedSample] = []
    for piece in sorted(batch.pieces, key=lambda piece: (-_pixels(piece), piece.name)):
        hashes = perceptual_hash(pixels(piece), mirror=dedupe.mirror)
        twin = next((other for other, known in kept if distance(hashes, known) <= dedupe.distance), None)
        if twin:
            dropped.append(drop(piece, f"a duplicate of {twin.name}"))
        else:
            kept.append((piece, hashes))
    return batch.keep([piece for piece, _ in kept], dropped)


def perceptual_hash(picture: images.Picture, *, mirror: bool) -> tuple[imagehash.ImageHash, ...]:
    """64 bits of what a picture shows, and those of its mirror image."""
    sides = (picture, np.ascontiguousarray(picture[:, ::-1])) if mirror else (picture,)
    return tuple(imagehash.phash(Image.fromarray(side)) for side in sides)


def distance(one: Sequence[imagehash.ImageHash], other: Sequence[imagehash.ImageHash]) -> int:
    """Bits of 64 that two pictures differ by, turned around or not."""
    return min(int(one[0] - turned) for turned in other)


def _pixels(piece: Sample) -> int:
    width, height = images.size(piece.file)
    return width * height
