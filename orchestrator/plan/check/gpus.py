"""Checks of the GPUs: driver, size, and whether each memory profile of a plan fits."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.config.schema import Settings
from orchestrator.errors import Problem, warning
from orchestrator.gpu import Gpu, VramProbe
from orchestrator.plan import preflight, vram_estimate
from orchestrator.plan.forecast import Forecast


def facts(probe: VramProbe, settings: Settings) -> dict[str, str]:
    """The GPUs of the settings and their driver; {} where there is none."""
    found = _chosen(probe, settings)
    gpus = [f"{c.name}, {c.total_mib / 1024:.1f} GiB, {c.used_mib / 1024:.1f} in use, {c.uuid}" for c in found]
    return {"GPU": "; ".join(gpus), "driver": found[0].driver} if found else {}


def sizes_gib(probe: VramProbe, settings: Settings) -> list[float]:
    """Of the GPUs of the settings."""
    return [one.total_mib / 1024 for one in _chosen(probe, settings)]


def _chosen(probe: VramProbe, settings: Settings) -> list[Gpu]:
    return preflight.choose_gpus(probe.gpus(), settings.vram.card)


def too_small(planned: Forecast) -> Iterator[Problem]:
    """A warning for each memory profile that did not fit into VRAM, or is not expected to."""
    for profile in planned.profiles:
        named = ", ".join(f"{key} = {value}" for key, value in profile.settings.items()) or "every training"
        problem = vram_estimate.verdict(profile.peak, planned.gpu_gib) if profile.peak and planned.gpu_gib else None
        if profile.fallbacks:
            fallbacks = ", ".join(profile.fallbacks)
            what = f"{named}: out of memory ({profile.origin}); it fitted with the fallbacks {fallbacks}"
            remedy = "write those values into the grid; otherwise each run fails once before the fallback is applied"
            yield warning("vram", what, remedy)
        elif problem:
            yield replace(problem, what=f"{named}: {problem.what}")
