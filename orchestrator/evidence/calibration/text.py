"""A yardstick in sentences, for the screen and for the answer to when a LoRA is good enough."""

from collections.abc import Iterator

from orchestrator.evidence.calibration.record import CalibrationRecord
from orchestrator.evidence.calibration.statistics import FIRM_PHOTOS, PUBLISHED_PAIR_THRESHOLDS, Calibration, Impostors


def format_verdict(kept: CalibrationRecord) -> str:
    """The threshold in one line."""
    found, bounds = kept.calibration, kept.calibration.threshold_interval
    caveats = f" ({'; '.join(kept.caveats)})" if kept.caveats else ""
    return f"production ready from {found.threshold:.3f} on (95 %: {bounds.low:.3f} to {bounds.high:.3f}){caveats}"


def format_lines(kept: CalibrationRecord) -> Iterator[str]:
    """All that was found, a sentence each, the most important first."""
    yield f"{format_verdict(kept)}: 95 % of the persona's own photos reach it, each against the centroid of the others"
    yield from format_details(kept)


def format_details(kept: CalibrationRecord) -> Iterator[str]:
    """All but the threshold."""
    yield from _photos(kept)
    yield from (_impostors(one) for one in kept.calibration.impostors)
    yield from (f"{name}: no picture shows a face, so nothing is known of it" for name in kept.faceless)
    yield from _pairs(kept)
    yield _published(kept.calibration)


def _photos(kept: CalibrationRecord) -> Iterator[str]:
    found = kept.calibration
    yield (
        f"natural band of {found.photos} photos: {found.band.low:.3f} to {found.band.high:.3f}; "
        "a picture above it looks copied, not better"
    )
    yield f"nearest other photo: up to {found.nearest_band.high:.3f}; a LoRA nearer to a training picture is copying"
    for one in found.references:
        if one.outlier:
            yield f"outlier: {one.name} at {one.similarity:.3f}; another person, a profile, a tiny face? look at it"
    for name, why in kept.rejected.items():
        yield f"not used: {name} {why}"
    for first, second in kept.twins:
        yield f"{first} and {second} are one photo, which counts twice: take one out"
    if found.provisional:
        yield (
            f"provisional: {found.more_photos} more photos make it firm ({FIRM_PHOTOS}); with these, the lowest one "
            f"only bounds the {100 * found.lowest_covers:.0f} % quantile of all the persona's photos"
        )
    if kept.trained_on:
        yield f"trained on, so too high: {', '.join(kept.trained_on)}"


def _impostors(one: Impostors) -> str:
    return (
        f"{one.name}: {one.accepted} of {len(one.similarities)} faces pass "
        f"({100 * one.accepted_rate:.1f} %, at most {100 * one.accepted_upper:.1f} % at 95 % confidence); "
        f"equal error {100 * one.equal_error_rate:.1f} % at {one.equal_error_similarity:.3f}"
    )


def _pairs(kept: CalibrationRecord) -> Iterator[str]:
    base = kept.baseline
    if base is None:
        return
    bounds = f" (95 %: {base.interval.low:.3f} to {base.interval.high:.3f})" if base.interval else ""
    weak = ", provisional" if base.provisional else ""
    yield f"your {base.pairs} known-good pairs of {base.photos} pictures: mean {base.mean:.3f}{bounds}{weak}"
    yield f"on the scale of scores against {kept.calibration.photos} references that is {kept.expected_from_pairs:.3f}"
    lowest = min(kept.known_pairs, key=lambda pair: pair.similarity)
    yield f"the least alike of them, at {lowest.similarity:.3f}: {lowest.first} and {lowest.second}"


def _published(found: Calibration) -> str:
    others = ", ".join(f"{name} {value:g}" for name, value in PUBLISHED_PAIR_THRESHOLDS.items())
    return (
        f"for orientation only, cosines of two single photos: the persona's {found.pair_similarity:.3f} on average; "
        f"others call it the same person from: {others}. Never to be applied to scores, which are against a centroid"
    )
