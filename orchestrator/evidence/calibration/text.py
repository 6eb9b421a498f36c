"""A calibration in sentences, for the console and for the answer to the threshold question."""

from collections.abc import Iterator

from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.calibration.statistics import (
    FIRM_PHOTOS,
    HELD_OUT_PASS,
    LOW_THRESHOLD,
    PUBLISHED_PAIR_THRESHOLDS,
    Calibration,
    Impostors,
)


def format_verdict(calibration: CalibrationRecord) -> str:
    """The threshold in one line."""
    found = calibration.calibration
    bounds = found.threshold_interval
    caveats = f" ({'; '.join(calibration.caveats)})" if calibration.caveats else ""
    return f"pass threshold {found.threshold:.3f} (95 %: {bounds:.3f}){caveats}"


def format_lines(calibration: CalibrationRecord) -> Iterator[str]:
    """All results, one sentence each, the most important first."""
    verdict = format_verdict(calibration)
    yield f"{verdict}: 95 % of the persona's own photos reach it, each against the centroid of the others"
    yield from format_details(calibration)


def format_details(calibration: CalibrationRecord) -> Iterator[str]:
    """All results except the threshold."""
    yield from _photos(calibration)
    yield from (_impostors(one) for one in calibration.calibration.impostors)
    yield from (f"{name}: no image shows a face, so it gives no result" for name in calibration.faceless)
    yield from _pairs(calibration)
    yield _published(calibration.calibration)


def _photos(calibration: CalibrationRecord) -> Iterator[str]:
    found = calibration.calibration
    yield f"natural band of {found.photos} photos: {found.band:.3f}"
    for one in found.references:
        if one.outlier:
            yield f"outlier: {one.name} at {one.similarity:.3f}; check for another person, a side view or a tiny face"
    for name, why in calibration.rejected.items():
        yield f"not used: {name} {why}"
    achieved = ", ".join(f"{share} with {count}" for count, share in HELD_OUT_PASS.items())
    yield f"share of new photos that pass such a threshold on real people: {achieved} references"
    if found.threshold < LOW_THRESHOLD and not found.impostors:
        yield (
            "the threshold is low: other people may reach it. Measure how many with --impostors FOLDER (photos of "
            "other people) or --against SWEEP"
        )
    if found.provisional:
        yield (
            f"provisional: add {found.more_photos} photos ({FIRM_PHOTOS} in all); of {found.photos} photos, the lowest "
            f"one only bounds the {100 * found.lowest_covers:.0f} % quantile of all photos of the persona"
        )
    if calibration.trained_on:
        yield f"also training images, so the threshold is too high: {', '.join(calibration.trained_on)}"


def _impostors(one: Impostors) -> str:
    return (
        f"{one.name}: {one.accepted} of {len(one.similarities)} faces pass "
        f"({100 * one.accepted_rate:.1f} %, at most {100 * one.accepted_upper:.1f} % at 95 % confidence); "
        f"equal error rate {100 * one.equal_error_rate:.1f} % at {one.equal_error_similarity:.3f}"
    )


def _pairs(calibration: CalibrationRecord) -> Iterator[str]:
    base = calibration.baseline
    if base is None:
        return
    bounds = f" (95 %: {base.interval:.3f})" if base.interval else ""
    weak = ", provisional" if base.provisional else ""
    expected, photos = calibration.expected_from_pairs, calibration.calibration.photos
    yield f"your {base.pairs} known-good pairs of {base.photos} images: mean {base.mean:.3f}{bounds}{weak}"
    yield f"on the scale of scores against {photos} references this is {expected:.3f}"
    lowest = min(calibration.known_pairs, key=lambda pair: pair.similarity)
    yield f"the least similar pair ({lowest.similarity:.3f}): {lowest.first} and {lowest.second}"


def _published(found: Calibration) -> str:
    others = ", ".join(f"{name} {value:g}" for name, value in PUBLISHED_PAIR_THRESHOLDS.items())
    return (
        f"cosines of two single photos, for orientation: the persona's mean is {found.pair_similarity:.3f}; published "
        f"thresholds for the same person: {others}. Do not apply them to scores, which are against a centroid"
    )
