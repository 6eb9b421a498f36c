"""Calibration statistics on embeddings of known geometry, and the learning curve."""

import numpy as np
import pytest
from scipy import stats

from orchestrator.evidence.calibration import statistics
from orchestrator.evidence.calibration.statistics import FloatArray, KnownPair
from orchestrator.evidence.run_metrics import Thresholds
from orchestrator.evidence.stats import learning_curve
from orchestrator.evidence.stats.learning_curve import CurvePoint


def persona(count: int, rho: float = 0.5, seed: int = 0, size: int = 512) -> dict[str, FloatArray]:
    """Photos with mean pair similarity `rho`, of different lengths as raw embeddings are."""
    rng = np.random.default_rng(seed)
    faces = np.sqrt(1 - rho) * statistics.unit(rng.normal(size=(count, size)))
    faces[:, 0] = np.sqrt(rho)
    return {f"{k:02}.jpg": face for k, face in enumerate(faces * rng.uniform(10, 30, (count, 1)))}


@pytest.mark.parametrize("photos", [5, 11, 24])
def test_leave_one_out_matches_the_formula(photos: int) -> None:
    found = statistics.calibrate(persona(photos))
    expected = statistics.expected_centroid_similarity(found.pair_similarity, photos - 1)
    assert np.mean([r.similarity for r in found.references]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("rho", "n", "expected"), [(0.5, 1, 0.5), (0.5, 5, 0.65), (0.4, 20, 0.61), (0.6, 50, 0.77)])
def test_pair_similarity_on_the_scale_of_a_centroid(rho: float, n: int, expected: float) -> None:
    assert statistics.expected_centroid_similarity(rho, n) == pytest.approx(expected, abs=0.006)


def test_leave_one_out_excludes_the_photo_itself() -> None:
    faces = np.eye(3)
    assert statistics.leave_one_out(faces) == pytest.approx([0, 0, 0])
    found = statistics.calibrate(dict(zip("abc", np.array([[1, 0], [1, 0], [0, 1.0]]), strict=True)))
    assert [r.similarity for r in found.references] == pytest.approx([np.sqrt(0.5), np.sqrt(0.5), 0])


def test_a_photo_of_another_person_is_an_outlier() -> None:
    photos = persona(12)
    photos["stranger.jpg"] = np.random.default_rng(9).normal(size=512)
    found = statistics.calibrate(photos)
    assert found.outliers == ("stranger.jpg",)
    assert statistics.calibrate(persona(12, seed=3)).outliers == ()


def test_few_photos_are_provisional() -> None:
    few, enough = statistics.calibrate(persona(8)), statistics.calibrate(persona(20))
    assert (few.provisional, few.more_photos, enough.provisional, enough.more_photos) == (True, 12, False, 0)
    assert few.lowest_covers == pytest.approx(0.312, abs=0.001)
    assert statistics.calibrate(persona(59)).lowest_covers < 0.05


def test_the_threshold_lies_in_its_interval_and_the_interval_narrows() -> None:
    few, many = statistics.calibrate(persona(10)), statistics.calibrate(persona(80))
    for found in (few, many):
        assert found.threshold_interval.low <= found.threshold == found.band.low <= found.threshold_interval.high
        assert found.band.low < found.band.high <= 1
        assert found.thresholds == Thresholds(threshold=found.threshold, band_high=found.band.high)
    width = [c.threshold_interval.high - c.threshold_interval.low for c in (few, many)]
    assert width[1] < width[0] / 2
    assert few == statistics.calibrate(persona(10))


def test_impostors_are_counted_with_an_upper_bound() -> None:
    rng = np.random.default_rng(5)
    photos, strangers = persona(20), rng.normal(size=(60, 512))
    found = statistics.calibrate(photos, {"base model": strangers, "none": np.empty((0, 512))})
    (base,) = found.impostors
    assert (base.name, base.accepted, base.equal_error_rate) == ("base model", 0, 0)
    assert base.accepted_upper == pytest.approx(1 - 0.05 ** (1 / 60))
    same = statistics.calibrate(photos, {"herself": np.stack(list(photos.values()))}).impostors[0]
    assert same.accepted >= 19
    assert same.equal_error_rate > 0.2


def test_the_equal_error_rate_of_overlapping_scores() -> None:
    genuine, impostor = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.1, 0.2, 0.3, 0.55])
    rate, at = statistics._equal_error(genuine, impostor)
    assert (rate, at) == pytest.approx((0.25, 0.55))


def test_two_photos_are_rejected() -> None:
    with pytest.raises(ValueError, match="at least 3 photos, got 2"):
        statistics.calibrate(persona(2))


def test_pairs_are_resampled_by_photo() -> None:
    """All pairs of a few photos that differ in quality: resampling pairs would claim several times the certainty."""
    rng = np.random.default_rng(0)
    quality = rng.normal(0, 0.05, 12)
    pairs = [
        KnownPair(first=f"{a}", second=f"{b}", similarity=0.5 + quality[a] + quality[b])
        for a in range(12)
        for b in range(a)
    ]
    found = statistics.pair_baseline(pairs)
    assert (found.pairs, found.photos, found.provisional) == (66, 12, True)
    values = [p.similarity for p in pairs]
    assert found.mean == pytest.approx(np.mean(values))
    assert found.interval is not None
    assert found.interval.low < found.mean < found.interval.high
    assert found.interval.high - found.interval.low > 1.8 * 2 * 1.96 * stats.sem(values)
    assert statistics.pair_baseline(pairs[:1]).interval is None
    with pytest.raises(ValueError, match="no known-good pairs"):
        statistics.pair_baseline([])


def curve(noise: float, target: int = 72, k: float = 1.0) -> learning_curve.LearningCurve:
    rng = np.random.default_rng(0)
    points = [
        CurvePoint(images=n, replicate=r, value=0.7 - 2 * n**-k + r / 10 + rng.normal(0, noise))
        for n in (6, 12, 24, 36)
        for r in (1, 2, 3)
    ]
    found = learning_curve.learning_curve(points, target=target)
    assert found is not None
    return found


def test_a_noiseless_curve_is_recovered_despite_seed_effects() -> None:
    found = curve(1e-4)
    assert found.worth == pytest.approx(2 / 36 - 2 / 72, abs=0.002)
    assert found.exponent == pytest.approx(1.0, rel=0.06)
    assert found.interval.low < found.worth < found.interval.high
    assert dict(found.fitted)[36] == pytest.approx(0.9 - 2 / 36, abs=0.01)
    assert (found.present, found.sizes, found.runs, found.replicates) == (36, (6, 12, 24, 36), 12, 3)


def test_noise_widens_the_interval_and_extrapolation_is_marked() -> None:
    clean, noisy = curve(0.001), curve(0.05)
    assert noisy.interval.high - noisy.interval.low > 10 * (clean.interval.high - clean.interval.low)
    assert clean.extrapolated
    fewer = curve(0.001, target=24)
    assert not fewer.extrapolated
    assert fewer.worth == pytest.approx(2 / 36 - 2 / 24, abs=0.003)


def test_too_few_sizes_or_runs_give_no_curve() -> None:
    two_sizes = [CurvePoint(images=n, replicate=r, value=0.5) for n in (18, 36) for r in (1, 2, 3)]
    one_seed = [CurvePoint(images=n, replicate=1, value=0.5) for n in (9, 18, 36)]
    assert learning_curve.learning_curve(two_sizes, target=72) is None
    assert learning_curve.learning_curve(one_seed, target=72) is None
    with pytest.raises(ValueError, match="target is 36"):
        curve(0.01, target=36)
