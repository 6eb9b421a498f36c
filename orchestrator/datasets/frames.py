"""Stills from videos: sharp, of the persona, all different, and not more of them than the recipe's share."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from orchestrator import images
from orchestrator.config.recipe import Frames
from orchestrator.datasets import dedupe, video
from orchestrator.datasets.samples import DroppedSample, Sample, SampleSet, See, drop, pixels, seen
from orchestrator.scoring import faces

Likeness: TypeAlias = Callable[[faces.Embedding], float]
"""Cosine of a face to the persona's references."""

_ROUNDING = 1e-9  # 36 * 0.6 / 0.4 is a hair below 54


def apply(frames: Frames, batch: SampleSet, see: See, likeness: Likeness, *, caption: str, draft: Path) -> SampleSet:
    """The pictures and as many stills as may stand beside them. `draft`: where the stills are written."""
    stills, dropped = _stills(frames, caption, draft)
    good, poor = _of_persona(stills, see, likeness, frames)
    most = math.floor(len(batch.pieces) * frames.share / (1 - frames.share) + _ROUNDING)
    chosen, alike = _different(good, batch.pieces, frames.duplicates, most)
    return batch.keep([*batch.pieces, *chosen], [*dropped, *poor, *alike])


def _stills(frames: Frames, caption: str, draft: Path) -> tuple[list[Sample], list[DroppedSample]]:
    stills: list[Sample] = []
    dropped: list[DroppedSample] = []
    for path in video.files(frames.videos):
        try:
            for still in video.sharpest(path, window_s=frames.window_s):
                stills.append(_piece(path, still, caption, draft))
        except images.Unreadable as error:
            dropped.append(DroppedSample(origin=str(path), why=f"cannot be read to its end: {error.reason}"))
    return stills, dropped


def _piece(path: Path, still: video.Still, caption: str, draft: Path) -> Sample:
    name = f"{path.name}-{round(still.time_s * 1000):08d}ms"  # walk.mov may lie beside walk.mp4
    file = draft / f"{name}.png"
    Image.fromarray(still.picture).save(file)
    return Sample(name=name, file=file, caption=caption, origin=str(path), time_s=still.time_s)


def _of_persona(
    stills: Sequence[Sample], see: See, likeness: Likeness, frames: Frames
) -> tuple[list[Sample], list[DroppedSample]]:
    good: list[Sample] = []
    dropped: list[DroppedSample] = []
    for still, outcome in zip(stills, see([still.file for still in stills]), strict=True):
        why, like = _fault(outcome, likeness, frames)
        if why:
            dropped.append(drop(still, why))
        else:
            good.append(seen(still, outcome).with_note(f"similarity {like:.2f}"))
    return good, dropped


def _fault(outcome: faces.Outcome, likeness: Likeness, frames: Frames) -> tuple[str, float]:
    """Why a still is of no use, and how like the persona it is."""
    if isinstance(outcome, faces.ReadError):
        return outcome.note, 0.0
    if outcome.embedding is None:
        return "no face found", 0.0
    if outcome.faces[0].px < frames.smallest_face:
        return f"its face has {outcome.faces[0].px:.0f} of {frames.smallest_face} pixels", 0.0
    like = likeness(outcome.embedding)
    return (f"similarity {like:.2f}, below {frames.similarity:g}" if like < frames.similarity else ""), like


def _different(
    stills: Sequence[Sample], beside: Sequence[Sample], least: int, most: int
) -> tuple[list[Sample], list[DroppedSample]]:
    """One after the other the still that is most unlike all that is there, until `most` are, or none is new."""
    hashes = {still.name: dedupe.perceptual_hash(pixels(still), mirror=True) for still in stills}
    known = [dedupe.perceptual_hash(pixels(piece), mirror=True) for piece in beside]
    away = {
        still.name: min((dedupe.distance(hashes[still.name], one) for one in known), default=64) for still in stills
    }
    left, chosen = list(stills), list[Sample]()
    while left and len(chosen) < most and away[(best := max(left, key=lambda still: away[still.name])).name] >= least:
        left.remove(best)
        chosen.append(replace(best, notes=(*best.notes, f"{away[best.name]} bits from the nearest picture")))
        away |= {s.name: min(away[s.name], dedupe.distance(hashes[s.name], hashes[best.name])) for s in left}
    near = [still for still in left if away[still.name] < least]
    dropped = [drop(still, f"{away[still.name]} bits from a picture that is there, below {least}") for still in near]
    dropped += [drop(still, f"more than the share allows ({most})") for still in left if still not in near]
    return chosen, dropped
