"""The numbers of one run's pictures, several of them: none can stand for all."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.evidence.stats.estimates import Interval, wilson
from orchestrator.model import FaceStatus, Score

FAILURE = -1.0
"""What a picture without a face is worth where pictures are ranked or averaged: the lowest cosine."""

_FEWEST_TO_AGREE = 4
_UNSEEN = frozenset({FaceStatus.UNREADABLE, FaceStatus.ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a calibration says of this persona's own photos: the passing score, the upper end of their similarity to
    the centroid of the others, and the upper end of their similarity to the nearest other."""

    threshold: float
    band_high: float
    nearest_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetrics:
    """What the report shows of a run. None is "not known", never zero.

    images: pictures that were looked at; unseen: pictures that could not be (unreadable, error), in no other number.
    similarity_*: over the faces found; no_face_rate and pass_rate: over `images`, a missing face does not pass.
    seed_spread: standard deviation of similarity over seeds, mean over prompts; near zero means that the seeds give
    one picture (collapse). nearest_training: median of the cosine to the most similar training picture; copying: it
    is above what the persona's own photos reach among each other. above_band_rate: share of faces more similar to the
    centroid than 95 % of the persona's own photos. face_turn: median of Score.turn. second_*: mean similarity by the
    second face pack, and Spearman's rank correlation of the two packs over the pictures: low means that the number
    depends on the pack. adherence: mean of Score.adherence.
    """

    images: int
    unreadable: int
    no_face: int
    multi_face: int
    similarity_median: float | None
    similarity_mean: float | None
    similarity_p25: float | None
    no_face_rate: float | None
    pass_rate: float | None
    pass_interval: Interval | None
    diversity: float | None
    nearest_training: float | None
    copying: bool | None
    above_band_rate: float | None
    face_px: float | None
    face_yaw: float | None = None
    second_similarity: float | None = None
    second_agreement: float | None = None
    adherence: float | None = None


def summary(scores: Sequence[Score], yardstick: Thresholds | None = None) -> RunMetrics:
    """The numbers of one run's reported pictures; without a yardstick, what needs it is None."""
    seen = [s for s in scores if s.status not in _UNSEEN]
    found = [s.similarity for s in seen if s.similarity is not None]
    no_face = sum(s.status is FaceStatus.NO_FACE for s in seen)
    passed = sum(x >= yardstick.threshold for x in found) if yardstick else None
    nearest = _median(s.nearest_training for s in seen)
    return RunMetrics(
        images=len(seen),
        unreadable=len(scores) - len(seen),
        no_face=no_face,
        multi_face=sum(s.status is FaceStatus.MULTI_FACE for s in seen),
        similarity_median=_median(found),
        similarity_mean=float(np.mean(found)) if found else None,
        similarity_p25=float(np.percentile(found, 25)) if found else None,
        no_face_rate=no_face / len(seen) if seen else None,
        pass_rate=passed / len(seen) if seen and passed is not None else None,
        pass_interval=None if passed is None else wilson(passed, len(seen)),
        diversity=_seed_spread(seen),
        nearest_training=nearest,
        copying=nearest > yardstick.nearest_high if yardstick and nearest is not None else None,
        above_band_rate=float(np.mean([x > yardstick.band_high for x in found])) if yardstick and found else None,
        face_px=_median(s.face_px for s in seen),
        face_yaw=_median(s.yaw for s in seen),
        second_similarity=_mean(s.second_similarity for s in seen),
        second_agreement=_agreement(seen),
        adherence=_mean(s.adherence for s in seen),
    )


def picture_value(score: Score) -> float | None:
    """What one picture is worth: its similarity, FAILURE without a face, None when it could not be looked at."""
    if score.status in _UNSEEN:
        return None
    return FAILURE if score.similarity is None else score.similarity


def by_prompt(scores: Iterable[Score]) -> dict[int, float]:
    """Mean picture value of each prompt; a prompt none of whose pictures could be looked at is absent."""
    values: dict[int, list[float]] = defaultdict(list)
    for score in scores:
        value = picture_value(score)
        if value is not None:
            values[score.image.prompt].append(value)
    return {prompt: float(np.mean(v)) for prompt, v in sorted(values.items())}


def gain(values: Mapping[int, float], floor: Mapping[int, float]) -> dict[int, float]:
    """What a LoRA adds, by prompt: `values` minus those of its base model without any LoRA, where both are known."""
    return {prompt: value - floor[prompt] for prompt, value in values.items() if prompt in floor}


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _agreement(scores: Iterable[Score]) -> float | None:
    """None below four pictures, or where a pack sees no differences at all."""
    pairs = [(s.similarity, s.second_similarity) for s in scores]
    known = np.array([(a, b) for a, b in pairs if a is not None and b is not None])
    if len(known) < _FEWEST_TO_AGREE or not np.ptp(known, axis=0).all():
        return None
    return float(stats.spearmanr(known).statistic)


def _seed_spread(scores: Iterable[Score]) -> float | None:
    groups: dict[int, list[float]] = defaultdict(list)
    for score in scores:
        if score.similarity is not None:
            groups[score.image.prompt].append(score.similarity)
    spreads = [np.std(group, ddof=1) for group in groups.values() if len(group) > 1]
    return float(np.mean(spreads)) if spreads else None
