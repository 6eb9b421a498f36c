"""The metrics of one run's images; no single number summarises a run."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from orchestrator.evidence.stats import copying
from orchestrator.evidence.stats.copying import CopyTest
from orchestrator.evidence.stats.estimates import Interval, wilson
from orchestrator.model import FaceStatus, Score
from orchestrator.scoring import References

FAILURE = -1.0
"""The image value of an image without a face: the lowest possible cosine."""

_MIN_FOR_CORRELATION = 4
_UNREADABLE = frozenset({FaceStatus.UNREADABLE, FaceStatus.ERROR})


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """From a calibration: the pass threshold, and the upper end of the natural band."""

    threshold: float
    band_high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMetrics:
    """The metrics of a run in the report. None means unknown, never zero.

    images: images that were scored. unreadable: images that could not be read; they count in no other metric.
    similarity_*: over detected faces. no_face_rate, pass_rate: over `images`; a missing face does not pass.
    diversity: mean distance (one minus cosine) between the faces of the seeds of one prompt. other_face: share of
    images whose scored face is not the largest one. rotated: images with a face rotated by 90 degrees or more.
    nearest_training: median cosine to the most similar training image. copying: most images are copies of training
    images (stats.copying); None if there are too few images or references. near_copies: number of images with the
    lead of a copy.
    above_band_rate: share of faces more similar to the centroid than 95 % of the persona's own photos.
    face_yaw: median of Score.yaw. second_similarity: mean by the second face pack. second_agreement: Spearman's rank
    correlation of the two packs over the images; low means that the result depends on the pack.
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
    other_face: float | None
    rotated: int
    nearest_training: float | None
    copying: bool | None
    near_copies: int | None
    above_band_rate: float | None
    face_px: float | None
    face_yaw: float | None = None
    second_similarity: float | None = None
    second_agreement: float | None = None
    adherence: float | None = None


def summary(
    scores: Sequence[Score], thresholds: Thresholds | None = None, references: References | None = None
) -> RunMetrics:
    """The metrics of one run's reported images; those that need thresholds or references are None without them."""
    readable = [s for s in scores if s.status not in _UNREADABLE]
    found = [s.similarity for s in readable if s.similarity is not None]
    no_face = sum(s.status is FaceStatus.NO_FACE for s in readable)
    passed = sum(x >= thresholds.threshold for x in found) if thresholds else None
    copied = _copy_test(readable, references) if references else None
    return RunMetrics(
        images=len(readable),
        unreadable=len(scores) - len(readable),
        no_face=no_face,
        multi_face=sum(s.status is FaceStatus.MULTI_FACE for s in readable),
        similarity_median=_median(found),
        similarity_mean=float(np.mean(found)) if found else None,
        similarity_p25=float(np.percentile(found, 25)) if found else None,
        no_face_rate=no_face / len(readable) if readable else None,
        pass_rate=passed / len(readable) if readable and passed is not None else None,
        pass_interval=None if passed is None else wilson(passed, len(readable)),
        diversity=mean(s.seed_distance for s in readable),
        other_face=mean(
            float(s.largest_similarity not in (None, s.similarity)) for s in readable if s.similarity is not None
        ),
        rotated=sum(s.rotation != 0 for s in readable),
        nearest_training=_median(s.nearest_training for s in readable),
        copying=copied.copying if copied else None,
        near_copies=copied.near_copies if copied else None,
        above_band_rate=float(np.mean([x > thresholds.band_high for x in found])) if thresholds and found else None,
        face_px=_median(s.face_px for s in readable),
        face_yaw=_median(s.yaw for s in readable),
        second_similarity=mean(s.second_similarity for s in readable),
        second_agreement=_agreement(readable),
        adherence=mean(s.adherence for s in readable),
    )


def image_value(score: Score) -> float | None:
    """Image value: the similarity, FAILURE without a face, None if the image could not be read."""
    if score.status in _UNREADABLE:
        return None
    return FAILURE if score.similarity is None else score.similarity


def by_prompt(scores: Iterable[Score]) -> dict[int, float]:
    """Prompt -> mean image value; prompts without a readable image are absent."""
    values: dict[int, list[float]] = defaultdict(list)
    for score in scores:
        value = image_value(score)
        if value is not None:
            values[score.image.prompt].append(value)
    return {prompt: float(np.mean(v)) for prompt, v in sorted(values.items())}


def gain(values: Mapping[int, float], baseline: Mapping[int, float]) -> dict[int, float]:
    """Prompt -> `values` minus the values of the baseline, where both are known."""
    return {prompt: value - baseline[prompt] for prompt, value in values.items() if prompt in baseline}


def _copy_test(scores: Sequence[Score], references: References) -> CopyTest | None:
    pairs = [(s.nearest_training, s.next_training) for s in scores]
    images = [(nearest, following) for nearest, following in pairs if nearest is not None and following is not None]
    if not images or references.average_training is None:
        return None
    groups = (images, list(references.training.values()), [references.average_training])
    return copying.detect_copying(*map(copying.closeness, groups))


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def mean(values: Iterable[float | None]) -> float | None:
    """Of the known values; None without any."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else None


def _agreement(scores: Iterable[Score]) -> float | None:
    """None below four images, or if a pack gives the same similarity to all images."""
    pairs = [(s.similarity, s.second_similarity) for s in scores]
    known = np.array([(a, b) for a, b in pairs if a is not None and b is not None])
    if len(known) < _MIN_FOR_CORRELATION or not np.ptp(known, axis=0).all():
        return None
    return float(stats.spearmanr(known).statistic)
