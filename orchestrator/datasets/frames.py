"""Adds stills from videos: sharp, of the persona, all different, and at most the recipe's share."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from orchestrator import images
from orchestrator.config.recipe import Frames
from orchestrator.datasets import video
from orchestrator.datasets.samples import DroppedSample, FindFaces, Sample, SampleSet, drop
from orchestrator.scoring import faces

Similarity: TypeAlias = Callable[[faces.Embedding], float]
"""Cosine of a face to the centroid of the persona's references."""

_ROUNDING = 1e-9  # 36 * 0.6 / 0.4 is slightly less than 54


def apply(
    frames: Frames, batch: SampleSet, find: FindFaces, similarity: Similarity, *, caption: str, draft: Path
) -> SampleSet:
    """The images and as many stills as the share allows. draft: folder for the stills."""
    stills, dropped = _stills(frames, caption, draft)
    good: list[Sample] = []
    for still, outcome in zip(stills, find([still.file for still in stills]), strict=True):
        why, cosine = _defect(outcome, similarity, frames)
        if why:
            dropped.append(drop(still, why))
        else:
            good.append(still.with_face(outcome).with_note(f"similarity {cosine:.2f}"))
    limit = math.floor(len(batch.samples) * frames.share / (1 - frames.share) + _ROUNDING)
    chosen, similar = _most_different(good, batch.samples, frames.duplicates, limit)
    return batch.keep([*batch.samples, *chosen], [*dropped, *similar])


def _stills(frames: Frames, caption: str, draft: Path) -> tuple[list[Sample], list[DroppedSample]]:
    stills: list[Sample] = []
    dropped: list[DroppedSample] = []
    for path in video.files(frames.videos):
        try:
            for still in video.sharpest(path, window_s=frames.window_s):
                name = f"{path.name}-{round(still.time_s * 1000):08d}ms"  # with suffix: walk.mov and walk.mp4 differ
                file = draft / f"{name}.png"
                Image.fromarray(still.picture).save(file)
                stills.append(Sample(name=name, file=file, caption=caption, origin=str(path), time_s=still.time_s))
        except images.Unreadable as error:
            dropped.append(DroppedSample(origin=str(path), why=f"cannot be read to its end: {error.reason}"))
    return stills, dropped


def _defect(outcome: faces.Outcome, similarity: Similarity, frames: Frames) -> tuple[str, float]:
    """Why a still is unusable, empty when it is usable, and its similarity to the persona."""
    if isinstance(outcome, faces.ReadError):
        return outcome.note, 0.0
    if outcome.embedding is None:
        return "no face found", 0.0
    if outcome.faces[0].px < frames.smallest_face:
        return f"its face has {outcome.faces[0].px:.0f} of {frames.smallest_face} pixels", 0.0
    cosine = similarity(outcome.embedding)
    return (f"similarity {cosine:.2f}, below {frames.similarity:g}" if cosine < frames.similarity else ""), cosine


def _most_different(
    stills: Sequence[Sample], others: Sequence[Sample], least: int, limit: int
) -> tuple[list[Sample], list[DroppedSample]]:
    """Up to `limit` stills, each time the one most different from all images so far, by at least `least` bits."""
    hashes = {still.name: images.perceptual_hashes(still.pixels()) for still in stills}
    known = [images.perceptual_hashes(sample.pixels()) for sample in others]
    bits = {
        still.name: min((images.hash_distance(hashes[still.name], one) for one in known), default=64)
        for still in stills
    }
    left, chosen = list(stills), list[Sample]()
    while left and len(chosen) < limit and bits[(best := max(left, key=lambda one: bits[one.name])).name] >= least:
        left.remove(best)
        chosen.append(best.with_note(f"{bits[best.name]} bits from the nearest image"))
        bits |= {s.name: min(bits[s.name], images.hash_distance(hashes[s.name], hashes[best.name])) for s in left}
    dropped = []
    for still in left:
        near = bits[still.name] < least
        why = f"{bits[still.name]} bits from another image, below {least}" if near else f"above the share ({limit})"
        dropped.append(drop(still, why))
    return chosen, dropped
