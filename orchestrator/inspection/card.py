"""The card: its driver, and whether each memory profile of a plan fits it."""

from collections.abc import Iterator

from orchestrator import readiness
from orchestrator.errors import Problem, Severity
from orchestrator.forecast import Forecast
from orchestrator.model import Settings
from orchestrator.vram import Card, VramProbe

_FULL = 0.95
"""Above this share of the card a training is expected not to fit: other programs and fragments take the rest."""


def facts(probe: VramProbe, settings: Settings) -> dict[str, str]:
    """The card in use and its driver; nothing where there is none."""
    found = _chosen(probe, settings)
    if found is None:
        return {}
    return {"card": f"{found.name}, {found.total_mib / 1024:.1f} GiB, {found.used_mib / 1024:.1f} in use, {found.uuid}",
            "driver": found.driver}  # fmt: skip


def gib(probe: VramProbe, settings: Settings) -> float | None:
    """What one run may use: the budget, else all of the card; None where neither is known."""
    found = _chosen(probe, settings)
    return settings.vram.budget_gib or (found.total_mib / 1024 if found else None)


def _chosen(probe: VramProbe, settings: Settings) -> Card | None:
    return readiness.choose_card(probe.cards(), settings.vram.card)


def too_small(told: Forecast, card_gib: float | None) -> Iterator[Problem]:
    """A warning for each memory profile that is not expected to fit: its runs begin with an out-of-memory."""
    for profile in told.profiles:
        if card_gib and profile.peak_gib and profile.peak_gib > _FULL * card_gib:
            named = ", ".join(f"{key} = {value}" for key, value in profile.settings.items()) or "all trainings"
            yield Problem(
                what=f"{named}: {profile.peak_gib:.1f} GiB are expected, and {card_gib:g} GiB are there",
                key="vram",
                remedy="the ladder will be climbed down; to spare the attempts, concede it in the grid",
                severity=Severity.WARNING,
            )
