"""The cards: their driver, and whether each memory profile of a plan fits."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.config.schema import Settings
from orchestrator.errors import Problem, Severity
from orchestrator.gpu import Card, VramProbe
from orchestrator.plan import preflight, vram_estimate
from orchestrator.plan.forecast import Forecast


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
    return preflight.choose_cards(probe.cards(), settings.vram.card)


def too_small(told: Forecast) -> Iterator[Problem]:
    """A warning for each memory profile that did not fit, or is not expected to: its runs begin out of memory."""
    for profile in told.profiles:
        named = ", ".join(f"{key} = {value}" for key, value in profile.settings.items()) or "every training"
        problem = vram_estimate.verdict(profile.peak, told.card_gib) if profile.peak and told.card_gib else None
        if profile.fallbacks:
            what = f"{named}: memory ran out ({profile.origin}), and was enough after {', '.join(profile.fallbacks)}"
            remedy = "the ladder concedes that again; to spare the attempts, concede it in the grid"
            yield Problem(what=what, key="vram", remedy=remedy, severity=Severity.WARNING)
        elif problem:
            yield replace(problem, what=f"{named}: {problem.what}")
