"""The cards: their driver, and whether each memory profile of a plan fits."""

from collections.abc import Iterator

from orchestrator import readiness
from orchestrator.errors import Problem, Severity
from orchestrator.forecast import Forecast
from orchestrator.model import Settings
from orchestrator.vram import Card, VramProbe

_FULL = 0.95
"""Above this share of the card a training is expected not to fit: other programs and fragments take the rest."""


def facts(probe: VramProbe, settings: Settings) -> dict[str, str]:
    """The cards in use and their driver; nothing where there is none."""
    found = _chosen(probe, settings)
    told = [
        f"{one.name}, {one.total_mib / 1024:.1f} GiB, {one.used_mib / 1024:.1f} in use, {one.uuid}" for one in found
    ]
    return {"card": "; ".join(told), "driver": found[0].driver} if found else {}


def sizes_gib(probe: VramProbe, settings: Settings) -> list[float]:
    """Of the cards in use."""
    return [one.total_mib / 1024 for one in _chosen(probe, settings)]


def _chosen(probe: VramProbe, settings: Settings) -> list[Card]:
    return readiness.choose_cards(probe.cards(), settings.vram.card)


def too_small(told: Forecast) -> Iterator[Problem]:
    """A warning for each memory profile that is not expected to fit: its runs begin with an out-of-memory."""
    card_gib = told.card_gib
    for profile in told.profiles:
        if card_gib and profile.peak_gib and profile.peak_gib > _FULL * card_gib:
            named = ", ".join(f"{key} = {value}" for key, value in profile.settings.items()) or "all trainings"
            yield Problem(
                what=f"{named}: {profile.peak_gib:.1f} GiB are expected, and {card_gib:g} GiB are there",
                key="vram",
                remedy="the ladder will be climbed down; to spare the attempts, concede it in the grid",
                severity=Severity.WARNING,
            )
