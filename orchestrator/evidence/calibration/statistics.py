"""Statistics of a calibration: how similar a persona's real photos are to each other, and the pass threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from orchestrator.evidence.run_metrics import Thresholds
from orchestrator.evidence.stats.estimates import Interval, clopper_pearson_upper

FloatArray = npt.NDArray[np.float64]

GENUINE_PASS = 0.95
"""Share of the persona's real photos that pass the threshold."""
FIRM_PHOTOS = 20
"""With fewer photos the threshold is provisional: its interval is wide, and too narrow with atypical photos."""
HELD_OUT_PASS = {8: "88 to 91 %", 12: "92 to 93 %", 20: "94 to 95 %"}
"""Number of references -> share of unseen photos that pass (benchmarks.real_faces; nominal: GENUINE_PASS)."""
LOW_THRESHOLD = 0.45
"""Faces of other people reach 0.37 against a centroid in benchmarks.real_faces; a lower threshold needs impostors."""
MIN_SEPARATION = 0.8
"""A set of impostors with less separation shows that the face pack does not recognise the person."""
RESAMPLES = 2000
PUBLISHED_PAIR_THRESHOLDS = {
    "InsightFace demo, buffalo_l": 0.28,
    "InsightFace 2.1, person analysis": 0.45,
    "DeepFace, Buffalo_L": 0.45,
    "OpenCV SFace": 0.363,
}
"""Published "same person" cosines of two single photos, for orientation; they do not apply to centroid scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A photo compared with the others: `similarity` to their centroid.

    outlier: similarity below the median minus three scaled median absolute deviations (another person, a profile, a
    tiny face). Outliers stay in all statistics.
    """

    name: str
    similarity: float
    outlier: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Impostors:
    """A set of faces of other people, compared with the persona's centroid.

    accepted_upper: one-sided 95 % Clopper-Pearson bound of the false accept rate (about 3/n if none is accepted).
    separation: probability that a real photo scores higher than an impostor (area under the ROC curve); 0.5 means that
    the face pack does not recognise the person. equal_error_rate, equal_error_similarity: where as many real photos
    fail as impostors pass; a description, not a threshold.
    """

    name: str
    similarities: tuple[float, ...]
    accepted: int
    accepted_rate: float
    accepted_upper: float
    separation: float
    equal_error_rate: float
    equal_error_similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Similarities among a persona's own photos by one face pack.

    threshold: the score that 95 % of the real photos reach, and its 95 % interval over photos.
    band: 5 % to 95 % of the photos' leave-one-out similarities. pair_similarity: mean over pairs of photos, the scale
    of published thresholds.
    provisional: fewer than 20 photos. lowest_covers: with 95 % confidence the lowest photo bounds at most this quantile
    of all photos (5 % needs 59 photos). more_photos: number of photos missing until it is no longer provisional.
    """

    photos: int
    references: tuple[Reference, ...]
    threshold: float
    threshold_interval: Interval
    band: Interval
    pair_similarity: float
    provisional: bool
    lowest_covers: float
    more_photos: int
    impostors: tuple[Impostors, ...]

    @property
    def outliers(self) -> tuple[str, ...]:
        """Names of the photos that are unlike the rest."""
        return tuple(r.name for r in self.references if r.outlier)

    @property
    def thresholds(self) -> Thresholds:
        """The limits for the metrics of runs."""
        return Thresholds(threshold=self.threshold, band_high=self.band.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPair:
    """Two photos that the user calls a good match, and their face cosine."""

    first: str
    second: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairBaseline:
    """Statistics of known-good pairs, on the scale of single pairs, not of centroid scores.

    interval: 95 % interval of the mean over photos; None with fewer than three photos. low: 5 % quantile.
    """

    pairs: int
    photos: int
    mean: float
    interval: Interval | None
    low: float
    provisional: bool


def calibrate(photos: Mapping[str, FloatArray], impostors: Mapping[str, FloatArray] | None = None) -> Calibration:
    """The calibration from at least three photos; deterministic.

    photos: file name -> face embedding (d,) of any length. impostors: name of a set -> its faces (m, d).
    Raises ValueError for fewer than three photos.
    """
    if len(photos) < 3:
        raise ValueError(f"a calibration needs at least 3 photos, got {len(photos)}")
    faces = unit(np.stack(list(photos.values())))
    genuine, cosines = leave_one_out(faces), faces @ faces.T
    threshold = _quantile(genuine, 1 - GENUINE_PASS)
    centre = centroid(faces)
    return Calibration(
        photos=len(faces),
        references=_references(list(photos), genuine),
        threshold=threshold,
        threshold_interval=threshold_interval(genuine),
        band=Interval(low=_quantile(genuine, 0.05), high=_quantile(genuine, 0.95)),
        pair_similarity=float(cosines[np.triu_indices(len(faces), 1)].mean()),
        provisional=len(faces) < FIRM_PHOTOS,
        lowest_covers=1 - 0.05 ** (1 / len(faces)),
        more_photos=max(FIRM_PHOTOS - len(faces), 0),
        impostors=tuple(
            _impostors(name, unit(others) @ centre, genuine, threshold)
            for name, others in (impostors or {}).items()
            if len(others)
        ),
    )


def pair_baseline(pairs: Sequence[KnownPair]) -> PairBaseline:
    """Mean and 5 % quantile of known-good pairs; the interval resamples photos, because pairs share photos.

    Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError("no known-good pairs")
    values = np.array([pair.similarity for pair in pairs])
    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    ends = np.array([[names.index(pair.first), names.index(pair.second)] for pair in pairs])
    return PairBaseline(
        pairs=len(pairs),
        photos=len(names),
        mean=float(values.mean()),
        interval=_mean_interval(values, ends, len(names)) if len(names) >= 3 else None,
        low=_quantile(values, 1 - GENUINE_PASS),
        provisional=len(names) < FIRM_PHOTOS,
    )


def expected_centroid_similarity(pair_similarity: float, photos: int) -> float:
    """Expected similarity of another photo to the centroid of `photos` photos, from the mean similarity of pairs.

    rho * sqrt(n / (1 + (n - 1) * rho)). For rho 0.5: 0.50 with one photo, 0.65 with 5, 0.69 with 20.
    """
    return float(pair_similarity * np.sqrt(photos / (1 + (photos - 1) * pair_similarity)))


def unit(vectors: FloatArray) -> FloatArray:
    """The vectors (..., d) scaled to length one."""
    lengths: FloatArray = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths


def centroid(faces: FloatArray) -> FloatArray:
    """Mean direction (d,) of the vectors (n, d), of length one."""
    return unit(unit(faces).mean(axis=0))


def leave_one_out(faces: FloatArray) -> FloatArray:
    """Similarity of each of (n, d) unit vectors to the centroid of the others: the scale of scores."""
    similarities: FloatArray = (faces * unit(faces.sum(axis=0) - faces)).sum(axis=1)
    return similarities


def threshold_interval(genuine: FloatArray, confidence: float = 0.95) -> Interval:
    """Interval of the score that 95 % of all photos reach, from leave-one-out similarities (n,).

    The hull of a smoothed bootstrap over photos and the exact interval of a normal quantile on the arctanh scale; each
    fails where the other does not. A plain bootstrap covers 35 % with 8 photos and 63 % with 20, because no resample
    goes below the lowest photo.
    """
    n, tails = len(genuine), np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    rng = np.random.default_rng(0)
    width = 1.06 * genuine.std(ddof=1) * n**-0.2  # Silverman's rule
    draws = genuine[rng.integers(0, n, (RESAMPLES, n))] + width * rng.normal(size=(RESAMPLES, n))
    smooth = np.quantile(np.quantile(draws, 1 - GENUINE_PASS, axis=1, method="median_unbiased"), tails)
    stretched = np.arctanh(np.clip(genuine, -0.999999, 0.999999))
    steps = stats.nct.ppf(tails[::-1], n - 1, stats.norm.ppf(GENUINE_PASS) * np.sqrt(n)) / np.sqrt(n)
    normal = np.tanh(stretched.mean() - steps * stretched.std(ddof=1))
    return Interval(low=float(min(smooth[0], normal[0])), high=float(min(max(smooth[1], normal[1]), 1.0)))


def _references(names: Sequence[str], genuine: FloatArray) -> tuple[Reference, ...]:
    limit = np.median(genuine) - 3 * stats.median_abs_deviation(genuine, scale="normal")
    return tuple(
        Reference(name=name, similarity=float(own), outlier=bool(own < limit))
        for name, own in zip(names, genuine, strict=True)
    )


def _impostors(name: str, similarities: FloatArray, genuine: FloatArray, threshold: float) -> Impostors:
    accepted, n = int((similarities >= threshold).sum()), len(similarities)
    upper = clopper_pearson_upper(accepted, n)
    rate, at = _equal_error(genuine, similarities)
    return Impostors(
        name=name,
        similarities=tuple(float(s) for s in similarities),
        accepted=accepted,
        accepted_rate=accepted / n,
        accepted_upper=1.0 if upper is None else upper,
        separation=_separation(genuine, similarities),
        equal_error_rate=rate,
        equal_error_similarity=at,
    )


def _separation(genuine: FloatArray, impostor: FloatArray) -> float:
    wins = stats.mannwhitneyu(genuine, impostor).statistic
    return float(wins / (len(genuine) * len(impostor)))


def _equal_error(genuine: FloatArray, impostor: FloatArray) -> tuple[float, float]:
    """(rate, similarity) where the shares of rejected real photos and accepted impostors are closest."""
    at = np.unique(np.concatenate([genuine, impostor]))
    rejected = np.searchsorted(np.sort(genuine), at) / len(genuine)
    accepted = 1 - np.searchsorted(np.sort(impostor), at) / len(impostor)
    best = int(np.argmin(np.abs(rejected - accepted)))
    return float((rejected[best] + accepted[best]) / 2), float(at[best])


def _mean_interval(values: FloatArray, ends: npt.NDArray[np.int_], photos: int) -> Interval:
    """Bootstrap over photos: the weight of a pair is the product of its photos' counts."""
    rng = np.random.default_rng(0)
    counts = rng.multinomial(photos, np.full(photos, 1 / photos), size=RESAMPLES)
    weights = counts[:, ends[:, 0]] * counts[:, ends[:, 1]]
    drawn = weights.sum(axis=1) > 0
    means = (weights[drawn] @ values) / weights[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))


def _quantile(values: FloatArray, share: float) -> float:
    return float(np.quantile(values, share, method="median_unbiased"))
